package policy_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy"
)

// tenThousand returns a set of 10,000 rules over 1,000 services: nine methods of
// each, and the service itself; the last one is the rule for every method.
func tenThousand() policy.Set {
	s := policy.Set{Rules: make([]policy.Rule, 10_000)}
	for i := range s.Rules {
		m := fmt.Sprintf("/company.team.v1.Service%d/Method%d", i/10, i%10)
		if i%10 == 9 {
			m = fmt.Sprintf("/company.team.v1.Service%d/*", i/10)
		}
		s.Rules[i] = rule(fmt.Sprint(i), m)
	}
	s.Rules[9_999].Methods = []string{"*"}
	return s
}

// asked has for each kind of lookup 1,000 methods, in random order.
func asked() map[string][]string {
	r := rand.New(rand.NewPCG(1, 2))
	m := map[string][]string{}
	for range 1000 {
		s := r.IntN(999)
		m["exact"] = append(m["exact"], fmt.Sprintf("/company.team.v1.Service%d/Method%d", s, r.IntN(9)))
		m["service"] = append(m["service"], fmt.Sprintf("/company.team.v1.Service%d/Other%d", s, r.IntN(9)))
		m["default"] = append(m["default"], fmt.Sprintf("/company.other.v1.Service%d/Method%d", s, r.IntN(9)))
	}
	return m
}

func TestLookupAllocatesNothing(t *testing.T) {
	st, err := policy.NewStore(tenThousand())
	require.NoError(t, err)
	for kind, methods := range asked() {
		require.NotNil(t, st.Current().Lookup(methods[0]))
		assert.Zero(t, testing.AllocsPerRun(100, func() { st.Current().Lookup(methods[0]) }), kind)
	}
}

func TestDelayAllocatesNothing(t *testing.T) {
	b := policy.Backoff{}
	assert.Zero(t, testing.AllocsPerRun(100, func() { b.Delay(3, nil) }))
}

// BenchmarkLookup10000 finds a policy as a call does that has no plan yet. "same"
// asks for one method again and again, the others for 1,000 in random order.
func BenchmarkLookup10000(b *testing.B) {
	st, err := policy.NewStore(tenThousand())
	require.NoError(b, err)
	methods := asked()
	methods["same"] = methods["exact"][:1]
	for _, kind := range []string{"same", "exact", "service", "default"} {
		list := methods[kind]
		b.Run(kind, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if i == len(list) {
						i = 0
					}
					if st.Current().Lookup(list[i]) == nil {
						b.Error("not found: " + list[i])
						return
					}
				}
			})
		})
	}
}

func BenchmarkCompile10000(b *testing.B) {
	s := tenThousand()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Compile(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDelay(b *testing.B) {
	backoff := policy.Default().Retry.Backoff
	b.ReportAllocs()
	for b.Loop() {
		backoff.Delay(2, nil)
	}
}
