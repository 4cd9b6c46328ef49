package controlplane

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/rego-go/rego/internal/wirebound"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// received is a response, or what could be read of one whose set is refused unread.
type received struct {
	*regov1.StreamPoliciesResponse
	refused error
	size    int // in bytes, not compressed
}

// codec is gRPC's own for protobuf, but for a received: a set that exceeds a bound is not
// unmarshalled. What says so has the nonce, so that the server is told.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// Unmarshal fills v from the wire.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*received)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	r.size = data.Len()
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	outline, sets, err := outlineOf(buf.ReadOnlyData())
	if err != nil {
		return err
	}
	if err := wirebound.Check(sets...); err != nil {
		r.StreamPoliciesResponse, r.refused = outline, fmt.Errorf("the set %w", err)
		return nil
	}
	r.StreamPoliciesResponse = new(regov1.StreamPoliciesResponse)
	return c.CodecV2.Unmarshal(mem.BufferSlice{buf}, r.StreamPoliciesResponse)
}

var errNotProtobuf = errors.New("the response is not protobuf")

// outlineOf returns the response that b is, with no more of the set than version and
// revision, and the set's own bytes. They are in several parts if b has it several times.
func outlineOf(b []byte) (outline *regov1.StreamPoliciesResponse, sets [][]byte, err error) {
	outline = &regov1.StreamPoliciesResponse{}
	err = eachField(b, func(number protowire.Number, wire protowire.Type, value []byte) {
		if wire != protowire.BytesType {
			return
		}
		content, _ := protowire.ConsumeBytes(value)
		switch number {
		case 1:
			sets = append(sets, content)
		case 2:
			outline.Nonce = short(string(content[:min(len(content), maxFaultText)]))
		}
	})
	if err != nil || len(sets) == 0 {
		return outline, nil, err
	}
	outline.Set = &regov1.Set{}
	_ = eachField(sets[len(sets)-1], func(number protowire.Number, wire protowire.Type, value []byte) { // what is wrong, wirebound tells
		switch {
		case number == 1 && wire == protowire.BytesType:
			content, _ := protowire.ConsumeBytes(value)
			outline.Set.Version = short(string(content[:min(len(content), maxFaultText)]))
		case number == 2 && wire == protowire.VarintType:
			outline.Set.Revision, _ = protowire.ConsumeVarint(value)
		case number == 7 && wire == protowire.VarintType:
			outline.Set.Epoch, _ = protowire.ConsumeVarint(value)
		}
	})
	return outline, sets, nil
}

func eachField(b []byte, visit func(protowire.Number, protowire.Type, []byte)) error {
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errNotProtobuf
		}
		size := protowire.ConsumeFieldValue(number, wire, b[n:])
		if size < 0 {
			return errNotProtobuf
		}
		visit(number, wire, b[n:n+size])
		b = b[n+size:]
	}
	return nil
}
