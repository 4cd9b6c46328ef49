package wirebound_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/internal/wirebound"
	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

func TestMaxRules(t *testing.T) {
	t.Parallel()
	assert.Equal(t, policy.MaxRules, wirebound.MaxRules)
}

// field returns the wire form of a field that has content.
func field(number protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), content)
}

// TestCheck: what takes much more memory than bytes.
func TestCheck(t *testing.T) {
	t.Parallel()
	codes := func(content []byte) []byte { return field(3, field(2, field(6, content))) } // rules.policy.retry
	packed := func(n int) []byte { return field(4, bytes.Repeat([]byte{14}, n)) }
	single := protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), 14)
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	duration := field(3, field(2, field(3, nil)))
	for name, c := range map[string]struct {
		wire []byte
		want string // empty if it passes
	}{
		"nothing":                      {nil, ""},
		"16 MiB of empty rules":        {bytes.Repeat(field(3, nil), 8<<20), "has more than 100000 rules"},
		"as many rules as may be":      {bytes.Repeat(field(3, nil), 100_000), ""},
		"one rule more":                {bytes.Repeat(field(3, nil), 100_001), "has more than 100000 rules"},
		"budgets":                      {bytes.Repeat(field(4, nil), 100_001), "has more than 100000 budgets"},
		"methods of one rule":          {field(3, bytes.Repeat(field(1, nil), 100_001)), "has more than 100000 methods"},
		"methods of all rules":         {bytes.Repeat(field(3, bytes.Repeat(field(1, nil), 11)), 10_000), "has more than 100000 methods"},
		"15,000,000 codes":             {codes(packed(15_000_000)), "has more than 64 codes in one rule"},
		"codes, not packed":            {codes(bytes.Repeat(single, 65)), "has more than 64 codes in one rule"},
		"codes that are merged":        {field(3, bytes.Repeat(field(2, field(6, packed(33))), 2)), "has more than 64 codes in one rule"},
		"64 codes in each of rules":    {bytes.Repeat(codes(packed(64)), 1000), ""},
		"the same field over and over": {field(3, bytes.Repeat(field(2, nil), 2_000_001)), "has more than 2000000 messages"},
		"durations":                    {bytes.Repeat(duration, 10_000), ""},
		"unknown fields":               {bytes.Repeat(unknown, 1001), "has more than 1000 fields that are not known"},
		"cut off":                      {field(3, nil)[:1], "is not protobuf"},
		"cut off within":               {field(3, []byte{0x0a}), "is not protobuf"},
		"a group without an end":       {[]byte{0x1b}, "is not protobuf"},
	} {
		err := wirebound.Check(c.wire)
		if c.want == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, c.want, name)
		}
	}
	half := bytes.Repeat(field(3, nil), 60_000)
	require.ErrorContains(t, wirebound.Check(half, half), "rules", "parts are merged")
}

// TestRichSets: what a set may have passes, the largest, too.
func TestRichSets(t *testing.T) {
	t.Parallel()
	d := durationpb.New(1)
	p := &regov1.Policy{
		Name: "p", Timeout: d, AttemptTimeout: d,
		Retry: &regov1.Retry{MaxAttempts: 3, Reconnect: d, Codes: []regov1.Code{4, 8, 10, 14}, Backoff: &regov1.Backoff{Initial: d, Max: d}},
		Hedge: &regov1.Hedge{Delay: d, MinDelay: d, MaxDelay: d},
	}
	s := &regov1.Set{Rules: make([]*regov1.Rule, policy.MaxRules)}
	for i := range s.GetRules() {
		s.Rules[i] = &regov1.Rule{Methods: []string{"*"}, Policy: p}
	}
	b, err := proto.Marshal(s)
	require.NoError(t, err)
	require.NoError(t, wirebound.Check(b))
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(field(3, field(2, field(6, field(4, []byte{14})))))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(regov1.Set)
		if proto.Unmarshal(b, m) == nil && len(b) < 60 { // too small to exceed a bound
			require.NoError(t, wirebound.Check(b), "what can be unmarshalled passes")
		}
	})
}
