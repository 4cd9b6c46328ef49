package interceptor_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// rails are the limits of an owner who trusts no source.
var rails = policy.Limits{
	MaxAttempts: 4, MaxExtraLoad: 0.05, MaxExtraPerSecond: 5,
	MaxTimeout: time.Minute, MinTimeout: 20 * ms, MinAttemptTimeout: 10 * ms, MinBackoff: 5 * ms, MaxReconnect: time.Second,
	Methods: []policy.MethodLimits{{
		Methods: []string{testsrv.Pay},
		Limits:  policy.Limits{MaxAttempts: 2, Forbidden: []string{"idempotency", "retry.codes"}},
	}},
}

// tame returns a set within the rails.
func tame() policy.Set {
	s := policy.Set{Version: "7", Budgets: []policy.NamedBudget{
		{Name: "share", Ratio: &budget.RatioConfig{Ratio: 0.05, MinPerSecond: 1}},
		{Name: "rate", TokenBucket: &budget.TokenBucketConfig{PerSecond: 4}},
	}}
	for i, m := range []string{testsrv.Get, testsrv.Put, testsrv.Pay} {
		p := policy.Policy{Budget: s.Budgets[1-i%2].Name, Retry: policy.Retry{MaxAttempts: 4, Reconnect: policy.NoWait}}
		if m == testsrv.Pay {
			p.Retry.MaxAttempts = 2
		} else {
			p.Idempotency = classify.Idempotent
			p.Retry.Codes = []codes.Code{codes.Internal, codes.Unavailable}
		}
		s.Rules = append(s.Rules, policy.Rule{Methods: []string{m}, Policy: p})
	}
	return s
}

// wild are changes that would take a set beyond the rails, and some that only look so.
var wild = map[string]func(*policy.Set){
	"nothing":            func(*policy.Set) {},
	"a rate":             func(s *policy.Set) { s.Budgets[1].TokenBucket.PerSecond = 1e6 },
	"a burst":            func(s *policy.Set) { s.Budgets[1].TokenBucket.Burst = 5000 },
	"a floor":            func(s *policy.Set) { s.Budgets[0].Ratio.MinPerSecond = 5000 },
	"a share":            func(s *policy.Set) { s.Budgets[0].Ratio.Ratio = 1 },
	"a throttle":         func(s *policy.Set) { *s = withThrottle(*s) },
	"concurrency":        func(s *policy.Set) { *s = withConcurrency(*s) },
	"attempts":           func(s *policy.Set) { s.Rules[0].Policy.Retry.MaxAttempts = 5 },
	"payments, repeated": func(s *policy.Set) { s.Rules[2].Policy.Idempotency = classify.Idempotent },
	"payments, by code":  func(s *policy.Set) { s.Rules[2].Policy.Retry.Codes = []codes.Code{codes.Unavailable} },
	"payments, by all": func(s *policy.Set) {
		s.Rules = append(s.Rules[:2], policy.Rule{Methods: []string{"*"}, Policy: s.Rules[0].Policy})
	},
	"payments, by service": func(s *policy.Set) {
		s.Rules[0].Methods, s.Rules = []string{"/rego.test.v1.TestService/*"}, s.Rules[:2]
	},
	"a hurry":        func(s *policy.Set) { s.Rules[1].Policy.Timeout = 1 },
	"no backoff":     func(s *policy.Set) { s.Rules[1].Policy.Retry.Backoff.Initial = policy.NoWait },
	"hedges at once": func(s *policy.Set) { s.Rules[0].Policy.Hedge.Delay = policy.NoWait },
	"hedges for all": func(s *policy.Set) { s.Rules[0].Policy.Hedge.Percentile = 0.01 },
	"many budgets": func(s *policy.Set) {
		for i := range s.Rules {
			s.Rules[i].Policy.Budget = fmt.Sprint(i)
			s.Budgets = append(s.Budgets, policy.NamedBudget{Name: fmt.Sprint(i), TokenBucket: &budget.TokenBucketConfig{PerSecond: 4}})
		}
	},
}

func withThrottle(s policy.Set) policy.Set {
	s.Budgets[1] = policy.NamedBudget{Name: "rate", Throttle: &budget.ThrottleConfig{MaxTokens: 1000, TokenRatio: 1}}
	s.Rules[0].Policy.Budget = "rate"
	return s
}

func withConcurrency(s policy.Set) policy.Set {
	s.Budgets[1] = policy.NamedBudget{Name: "rate", Concurrency: &budget.ConcurrencyConfig{Min: 1}}
	s.Rules[0].Policy.Budget = "rate"
	return s
}

// TestLimitsHold: whatever set passes, 1,000 calls to a server that always fails stay within
// what the limits promise.
func TestLimitsHold(t *testing.T) {
	t.Parallel()
	for name, change := range wild {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := new(policy.Store)
			require.NoError(t, store.Guard(rails.Check))
			set := tame()
			change(&set)
			if store.Update(set) != nil {
				return
			}
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				extra := underFire(t, srv, store)
				assert.Positive(t, extra, "a set that passes still allows something")
			})
		})
	}
	assert.NoError(t, checked(t, tame()))
}

func checked(t *testing.T, s policy.Set) error {
	t.Helper()
	table, err := s.Compile()
	require.NoError(t, err)
	return rails.Check(table)
}

// underFire makes 1,000 calls of three methods to a server that always fails, ten a second, and holds
// them to the rails. It returns how many extra attempts there were.
func underFire(t *testing.T, srv *testsrv.Server, store *policy.Store) int {
	t.Helper()
	const calls = 1000
	none, err := budget.NewRatio(budget.RatioConfig{})
	require.NoError(t, err)
	c := newClient(t, srv, interceptor.WithPolicies(store), interceptor.WithTargetBudget(func(string) budget.Budget { return none }))
	methods := []string{testsrv.Get, testsrv.Put, testsrv.Pay}
	for i, m := range methods {
		srv.Script(m, testsrv.Do(testsrv.Delay(ms), testsrv.Fail([]codes.Code{codes.Unavailable, codes.Internal, codes.Unavailable}[i], "")))
	}
	var all sync.WaitGroup
	began := time.Now()
	for i := range calls {
		all.Go(func() {
			tl, err := c.call(t.Context(), methods[i%3])
			assert.NotContains(t, []codes.Code{codes.OK, codes.DeadlineExceeded}, status.Code(err))
			for n, a := range tl.Attempts {
				assert.Less(t, n, rails.MaxAttempts)
				assert.True(t, n == 0 || methods[i%3] != testsrv.Pay, "a payment that is not known to be idempotent, and was answered")
				assert.True(t, n == 0 || a.Start.After(tl.Attempts[0].End), "an attempt at once")
			}
		})
		virtual.Sleep(100 * ms)
	}
	all.Wait()
	sent := srv.Count(testsrv.Get) + srv.Count(testsrv.Put) + srv.Count(testsrv.Pay)
	allowed := rails.MaxExtraLoad*calls + rails.MaxExtraPerSecond*(time.Since(began).Seconds()+1)
	assert.LessOrEqual(t, float64(sent-calls), allowed)
	return sent - calls
}

// TestOverride: a set has the last word over code in the fields that the owner allows, and is
// told where it has none.
func TestOverride(t *testing.T) {
	t.Parallel()
	off := policy.Policy{Name: "incident", Timeout: 7 * time.Second, Retry: policy.Retry{Off: true, MaxAttempts: 2}}
	inCode := policy.Policy{Name: "payments", Idempotency: classify.Idempotent, Retry: policy.Retry{MaxAttempts: 3}}
	pushed := policy.Set{Version: "7", Rules: []policy.Rule{{Methods: []string{"/rego.test.v1.TestService/*"}, Policy: off}}}
	allowed := []string{"retry.off", "hedge.off"}
	for name, r := range map[string]struct {
		limits   policy.Limits
		attempts int
		version  string
		fields   []string
		warning  string
	}{
		"not allowed": {
			policy.Limits{}, 3, "",
			[]string{"timeout = the caller's deadline, default", "retry.off = false, default", "retry.max_attempts = 3, code"},
			`rules[0]: timeout, retry.off, retry.max_attempts: no effect on "/rego.test.v1.TestService/Pay", since a rule in code is stronger`,
		},
		"allowed": {
			policy.Limits{Overridable: allowed}, 1, "7",
			[]string{"timeout = the caller's deadline, default", "retry.off = true, set, over code", "retry.max_attempts = 3, code"},
			`rules[0]: timeout, retry.max_attempts: no effect on "/rego.test.v1.TestService/Pay", since a rule in code is stronger`,
		},
		"allowed for the method": {
			policy.Limits{Methods: []policy.MethodLimits{{Methods: []string{testsrv.Pay}, Limits: policy.Limits{Overridable: []string{"retry", "timeout"}}}}}, 1, "7",
			[]string{"timeout = 7s, set, over code", "retry.off = true, set, over code", "retry.max_attempts = 2, set, over code"}, "",
		},
		"allowed for another method": {
			policy.Limits{Methods: []policy.MethodLimits{{Methods: []string{testsrv.Get}, Limits: policy.Limits{Overridable: allowed}}}}, 3, "",
			[]string{"timeout = the caller's deadline, default", "retry.off = false, default", "retry.max_attempts = 3, code"},
			`rules[0]: timeout, retry.off, retry.max_attempts: no effect on "/rego.test.v1.TestService/Pay", since a rule in code is stronger`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				store := new(policy.Store)
				it := newInterceptor(t, interceptor.WithPolicies(store), interceptor.WithLimits(r.limits),
					interceptor.WithTargetBudget(func(string) budget.Budget { return nil }),
					interceptor.WithRules(policy.Rule{Methods: []string{testsrv.Pay}, Policy: inCode}))
				c := client{t, srv, srv.Conn(t, it.DialOptions()...)}
				srv.Script(testsrv.Pay, testsrv.Fail(codes.Unavailable, ""))
				tl, _ := c.call(t.Context(), testsrv.Pay)
				require.Len(t, tl.Attempts, 3, "before the incident")
				require.NoError(t, store.Update(pushed))
				tl, _ = c.call(t.Context(), testsrv.Pay)
				assert.Len(t, tl.Attempts, r.attempts)
				assert.Equal(t, "payments", tl.Policy)
				assert.Equal(t, r.version, tl.PolicyVersion)
				s := stateOf(t, it, testsrv.Pay).Policy
				assert.Equal(t, r.fields, fields(s, "timeout", "retry.off", "retry.max_attempts"))
				if r.version != "" {
					assert.Equal(t, []interceptor.PolicySource{interceptor.FromCode, interceptor.FromSet}, used(s))
				}
				if r.warning == "" {
					assert.Empty(t, store.Status().Warnings)
				} else {
					pay := policy.Faults{}
					for _, w := range store.Status().Warnings {
						w.Policy = ""
						pay = append(pay, w)
					}
					require.EqualError(t, pay, r.warning)
				}
				require.NoError(t, store.Update(policy.Set{Version: "8"}))
				tl, _ = c.call(t.Context(), testsrv.Pay)
				assert.Len(t, tl.Attempts, 3, "after the incident")
				assert.Empty(t, store.Status().Warnings)
			})
		})
	}
}

// TestOverrideIsChecked: a set that would make a rule in code invalid, or exceeds the limits, is
// refused.
func TestOverrideIsChecked(t *testing.T) {
	t.Parallel()
	store := new(policy.Store)
	newInterceptor(t, interceptor.WithPolicies(store),
		interceptor.WithLimits(policy.Limits{MaxAttempts: 4, Overridable: []string{"hedge", "retry.max_attempts", "budget"}}),
		interceptor.WithRules(policy.Rule{Methods: []string{"/a.B/*"}, Policy: policy.Policy{Hedge: policy.Hedge{Delay: time.Second}}}))
	set := func(p policy.Policy) policy.Set {
		return policy.Set{Rules: []policy.Rule{{Methods: []string{"/a.B/C"}, Policy: p}}}
	}
	require.NoError(t, store.Update(set(policy.Policy{Hedge: policy.Hedge{Delay: time.Minute}})))
	require.EqualError(t, store.Update(set(policy.Policy{Hedge: policy.Hedge{MaxExtraLoad: 0.1}})),
		`rules[0].policy.hedge: at most one of max_extra_load, percentile, delay and trigger may be set, but for max_extra_load beside trigger, with what the rule in code for "/a.B/C" says`)
	require.ErrorContains(t, store.Update(set(policy.Policy{Retry: policy.Retry{MaxAttempts: 5}})), "must not exceed the limit 4")
	require.ErrorContains(t, store.Update(set(policy.Policy{Budget: "missing"})), `no budget is named "missing"`)

	// What a set switches off in its own policy, code may have on.
	store = new(policy.Store)
	newInterceptor(t, interceptor.WithPolicies(store),
		interceptor.WithLimits(policy.Limits{MaxExtraLoad: 0.01, MinBackoff: 100 * ms, Overridable: []string{"hedge.delay", "retry.backoff", "timeout"}}),
		interceptor.WithRules(policy.Rule{Methods: []string{"/a.B/*"}, Policy: policy.Policy{
			Hedge: policy.Hedge{Delay: time.Minute}, Retry: policy.Retry{MaxAttempts: 4, Backoff: policy.Backoff{Initial: time.Second}},
		}}))
	slow := policy.Retry{Backoff: policy.Backoff{Initial: time.Second}}
	require.ErrorContains(t, store.Update(set(policy.Policy{Retry: slow, Hedge: policy.Hedge{Off: true, Delay: policy.NoWait}})),
		`rules[0].policy.hedge.delay: has no bound on extra load, which the limit 0.01 asks for`)
	require.EqualError(t, store.Update(set(policy.Policy{Retry: policy.Retry{Off: true, Backoff: policy.Backoff{Initial: policy.NoWait}}})),
		`rules[0].policy.retry.backoff: must not have a wait below the limit 100ms, got 0s, with what the rule in code for "/a.B/C" says`)
	require.NoError(t, store.Update(set(policy.Policy{Timeout: time.Second, Retry: slow})), "what code says by itself is not limited")

	_, err := interceptor.New(interceptor.WithLimits(policy.Limits{Overridable: []string{"retries"}}))
	require.EqualError(t, err, `rego: limits: overridable[0]: is no field of a policy: "retries"`)
}

// TestOverriddenNames: a rule in code that names a bidirectional stream goes on naming it.
func TestOverriddenNames(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		store := new(policy.Store)
		it := newInterceptor(t, interceptor.WithPolicies(store), interceptor.WithLimits(policy.Limits{Overridable: []string{"hedge.delay"}}),
			interceptor.WithRules(policy.Rule{Methods: []string{testsrv.Chat}, Policy: policy.Policy{Idempotency: classify.Idempotent, Hedge: policy.Hedge{Delay: time.Second}}}))
		require.NoError(t, store.Update(policy.Set{Version: "7", Rules: []policy.Rule{{Methods: []string{"*"}, Policy: policy.Policy{Hedge: policy.Hedge{Delay: 10 * ms}}}}}))
		srv.Script(testsrv.Chat, testsrv.Do(testsrv.Delay(time.Minute)), testsrv.Do(testsrv.Delay(time.Minute)))
		conn := srv.Conn(t, it.DialOptions()...)
		stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, testsrv.Chat)
		require.NoError(t, err)
		virtual.Sleep(20 * ms)
		assert.Equal(t, 2, srv.Count(testsrv.Chat), "it is hedged, after what the set says")
		assert.NotNil(t, stream)
	})
}

// TestWarningsOfSets: what may be misspelt in a set is told when it comes.
func TestWarningsOfSets(t *testing.T) {
	t.Parallel()
	store := new(policy.Store)
	newInterceptor(t, interceptor.WithPolicies(store))
	assert.Empty(t, store.Status().Warnings)
	require.NoError(t, store.Update(policy.Set{Rules: []policy.Rule{{Methods: []string{"*", testsrv.Get, "/rego.test.v1.TestService/Gte", "/not.linked.In/Get"}}}}))
	require.EqualError(t, store.Status().Warnings, `rules[0].methods[2]: "/rego.test.v1.TestService/Gte" may be misspelt: its service has no such method`)
}
