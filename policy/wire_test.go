package policy_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/internal/testpolicy"
	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// TestProtoLosesNothing: every valid set comes back from its wire form, and so does
// every wire form that was made from one.
func TestProtoLosesNothing(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 2000 {
		s := testpolicy.Random(r)
		_, err := s.Compile()
		require.NoError(t, err, "seed %d: %+v", seed, s)
		b, err := proto.Marshal(s.Proto())
		require.NoError(t, err)
		m := new(regov1.Set)
		require.NoError(t, proto.Unmarshal(b, m))
		got, err := policy.FromProto(m)
		require.NoError(t, err)
		require.Equal(t, s, got, "seed %d", seed)
	}
}

func TestProtoOfDefaultIsEmpty(t *testing.T) {
	t.Parallel()
	assert.Zero(t, proto.Size(policy.Set{}.Proto()))
	m := policy.Set{Rules: []policy.Rule{{Methods: []string{"*"}}}}.Proto()
	assert.Zero(t, proto.Size(m.GetRules()[0].GetPolicy()))
}

// TestZeroSecondsMeanNoWait: where zero and absent differ, presence tells.
func TestZeroSecondsMeanNoWait(t *testing.T) {
	t.Parallel()
	zero := new(durationpb.Duration)
	s, err := policy.FromProto(&regov1.Set{Rules: []*regov1.Rule{{Policy: &regov1.Policy{
		Timeout: zero,
		Retry:   &regov1.Retry{Backoff: &regov1.Backoff{Initial: zero, Max: zero}},
		Hedge:   &regov1.Hedge{Delay: zero, MinDelay: zero},
	}}}})
	require.NoError(t, err)
	p := s.Rules[0].Policy
	assert.Equal(t, policy.NoWait, p.Retry.Backoff.Initial)
	assert.Equal(t, policy.NoWait, p.Hedge.Delay)
	assert.Zero(t, p.Timeout)
	assert.Zero(t, p.Retry.Backoff.Max)
	assert.Zero(t, p.Hedge.MinDelay)
}

func TestFromProtoFaults(t *testing.T) {
	t.Parallel()
	in := func(p *regov1.Policy) *regov1.Set { return &regov1.Set{Rules: []*regov1.Rule{{Policy: p}}} }
	unknown := func(m proto.Message) {
		m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	}
	future, deep := &regov1.Set{}, &regov1.Backoff{Multiplier: 2}
	unknown(future)
	unknown(deep)
	for _, r := range []struct {
		set  *regov1.Set
		want string
	}{
		{future, `field 99 of Set is not known to this version`},
		{in(&regov1.Policy{Retry: &regov1.Retry{Backoff: deep}}), `rules[0].policy.retry.backoff: field 99 of Backoff is not known to this version`},
		{in(&regov1.Policy{Timeout: durationpb.New(-time.Second)}), `rules[0].policy.timeout: must be between 0 and 24h0m0s, got -1s`},
		{in(&regov1.Policy{Name: "users", Timeout: &durationpb.Duration{Seconds: math.MaxInt64}}),
			`rules[0]: policy "users": timeout: must be between 0 and 24h0m0s, got 9223372036854775807 s and 0 ns`},
		{in(&regov1.Policy{AttemptTimeout: &durationpb.Duration{Seconds: 1, Nanos: -1}}),
			`rules[0].policy.attempt_timeout: must be between 0 and 24h0m0s, got 1 s and -1 ns`},
		// not NoWait
		{in(&regov1.Policy{Retry: &regov1.Retry{Backoff: &regov1.Backoff{Initial: durationpb.New(-1)}}}),
			`rules[0].policy.retry.backoff.initial: must be between 0 and 24h0m0s, got -1ns`},
		{in(&regov1.Policy{Hedge: &regov1.Hedge{Delay: durationpb.New(-1)}}), `rules[0].policy.hedge.delay: must be between 0 and 24h0m0s, got -1ns`},
		{in(&regov1.Policy{Idempotency: 260}), `rules[0].policy.idempotency: unknown value 260`},
		{in(&regov1.Policy{Retry: &regov1.Retry{Backoff: &regov1.Backoff{Jitter: 9}}}), `rules[0].policy.retry.backoff.jitter: unknown value 9`},
		{in(&regov1.Policy{Retry: &regov1.Retry{Codes: []regov1.Code{-1}}}), `rules[0].policy.retry.codes[0]: is not an error code: -1`},
		{&regov1.Set{Rules: make([]*regov1.Rule, policy.MaxRules+1)}, `rules: must be at most 100000 with as many methods, got 100001`},
	} {
		_, err := policy.FromProto(r.set)
		require.EqualError(t, err, r.want)
	}
}

// FuzzFromProto: whatever arrives is refused or taken, and what is taken comes back.
func FuzzFromProto(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		b, err := proto.Marshal(testpolicy.Random(r).Proto())
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(regov1.Set)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		s, err := policy.FromProto(m)
		if err != nil {
			return
		}
		if _, err = s.Compile(); err != nil {
			return
		}
		again, err := policy.FromProto(s.Proto())
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}
