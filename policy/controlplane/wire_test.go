package controlplane_test

import (
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy"
)

// wire is the codec of protobuf, which takes also what is encoded already.
type wire struct{}

func (wire) Name() string { return "proto" }

func (wire) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return encoding.GetCodecV2("proto").Marshal(v)
}

func (wire) Unmarshal(b mem.BufferSlice, v any) error {
	return encoding.GetCodecV2("proto").Unmarshal(b, v)
}

// large returns a set of about so many bytes, as a company of many services would have.
func large(version string, size int) policy.Set {
	s := fleetSet(version)
	m := s.Proto()
	one := proto.Size(m) / len(s.Rules)
	random := rand.New(rand.NewPCG(1, 2))
	for i := len(s.Rules); i < size/(one+12); i++ {
		s.Rules = append(s.Rules, policy.Rule{
			Methods: []string{fmt.Sprintf("/company.team%d.v1.Service%08x/Method%d", i%100, random.Uint32(), i)},
			Policy: policy.Policy{
				Name: fmt.Sprint("team ", i), Timeout: time.Duration(1+random.IntN(10)) * time.Second, AttemptTimeout: time.Second,
				Retry: policy.Retry{MaxAttempts: 2 + random.IntN(4), Codes: []codes.Code{codes.Unavailable, codes.Aborted}},
			},
		})
	}
	return s
}
