package repository

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// content returns a set without what tells it from others of the same content.
func content(s policy.Set) *regov1.Set {
	m := s.Proto()
	m.Epoch, m.Revision = 0, 0
	return m
}

func digest(s policy.Set) []byte {
	sum := sha256.Sum256(marshal(content(s)))
	return sum[:]
}

func sameContent(a, b policy.Set) bool {
	return a.Epoch == b.Epoch && bytes.Equal(digest(a), digest(b))
}

func marshal(m proto.Message) []byte {
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(m) // of texts that are UTF-8
	return b
}

// pack returns a set as it is stored.
func pack(s policy.Set) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(marshal(content(s))) // into memory
	_ = w.Close()
	if b.Len() > maxStored {
		return nil, fmt.Errorf("%w: the set has %d bytes when it is compressed, and may have %d", ErrInvalid, b.Len(), maxStored)
	}
	return marshal(&regov1.StoredSet{Set: b.Bytes()}), nil
}

func unpack(b []byte) (policy.Set, error) {
	m := new(regov1.StoredSet)
	if err := proto.Unmarshal(b, m); err != nil {
		return policy.Set{}, err
	}
	z, err := gzip.NewReader(bytes.NewReader(m.GetSet()))
	if err != nil {
		return policy.Set{}, err
	}
	plain, err := io.ReadAll(io.LimitReader(z, policy.MaxSize+1))
	if err != nil {
		return policy.Set{}, err
	}
	if len(plain) > policy.MaxSize {
		return policy.Set{}, fmt.Errorf("it has more than %d bytes", policy.MaxSize)
	}
	s := new(regov1.Set)
	if err := proto.Unmarshal(plain, s); err != nil {
		return policy.Set{}, err
	}
	return policy.FromProto(s)
}
