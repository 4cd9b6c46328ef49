package policy_test

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

func backoff(initial time.Duration, multiplier float64) policy.Policy {
	return policy.Policy{Retry: policy.Retry{Backoff: policy.Backoff{Initial: initial, Multiplier: multiplier}}}
}

// TestLimits holds policies to limits, one field after the other.
func TestLimits(t *testing.T) {
	t.Parallel()
	l := policy.Limits{MaxAttempts: 4, MaxExtraLoad: 0.05, MaxTimeout: 10 * time.Second}
	for _, r := range []struct {
		limits policy.Limits
		policy policy.Policy
		want   string
	}{
		{l, policy.Policy{}, ""},
		{policy.Limits{}, policy.Policy{Timeout: time.Hour, Hedge: policy.Hedge{Delay: 1}, Retry: policy.Retry{MaxAttempts: 100}}, ""},
		{l, policy.Policy{Retry: policy.Retry{MaxAttempts: 4}, Timeout: 10 * time.Second, Hedge: policy.Hedge{MaxExtraLoad: 0.05}}, ""},
		{l, policy.Policy{Hedge: policy.Hedge{Percentile: 0.95}}, ""},
		{policy.Limits{MaxExtraLoad: 0.02}, policy.Policy{Hedge: policy.Hedge{Percentile: 0.98}}, ""},
		{l, policy.Policy{Hedge: policy.Hedge{Off: true, Delay: 1}}, ""},
		{l, policy.Policy{Retry: policy.Retry{MaxAttempts: 5}}, `retry.max_attempts: must not exceed the limit 4, got 5`},
		{policy.Limits{MaxAttempts: 2}, policy.Policy{}, `retry.max_attempts: must not exceed the limit 2, got 3`}, // the default
		{l, policy.Policy{Timeout: time.Minute}, `timeout: must not exceed the limit 10s, got 1m0s`},
		{l, policy.Policy{AttemptTimeout: time.Minute}, `attempt_timeout: must not exceed the limit 10s, got 1m0s`},
		{l, policy.Policy{Hedge: policy.Hedge{MaxExtraLoad: 0.06}}, `hedge.max_extra_load: must not exceed the limit 0.05, got 0.06`},
		{l, policy.Policy{Hedge: policy.Hedge{Percentile: 0.9}}, `hedge.percentile: must be at least 0.95, since the limit of extra load is 0.05, got 0.9`},
		{l, policy.Policy{Hedge: policy.Hedge{Delay: time.Second}}, `hedge.delay: has no bound on extra load, which the limit 0.05 asks for`},
		{l, policy.Policy{Hedge: policy.Hedge{Trigger: "mine", MaxExtraLoad: 0.05}}, ""},
		{policy.Limits{MinTimeout: time.Second}, policy.Policy{}, ""}, // the caller's deadline
		{policy.Limits{MinTimeout: time.Second}, policy.Policy{Timeout: 1}, `timeout: must not be below the limit 1s, got 1ns`},
		{policy.Limits{MinTimeout: time.Second}, policy.Policy{AttemptTimeout: 1}, ""},
		{policy.Limits{MinAttemptTimeout: time.Second}, policy.Policy{AttemptTimeout: 1}, `attempt_timeout: must not be below the limit 1s, got 1ns`},
		{policy.Limits{MinBackoff: 50 * time.Millisecond}, policy.Policy{}, ""},
		{policy.Limits{MinBackoff: 50 * time.Millisecond}, backoff(policy.NoWait, 0), `retry.backoff: must not have a wait below the limit 50ms, got 0s`},
		{policy.Limits{MinBackoff: 50 * time.Millisecond}, backoff(50*time.Millisecond, 0.5), `retry.backoff: must not have a wait below the limit 50ms, got 25ms`},
		{policy.Limits{MinBackoff: 50 * time.Millisecond}, policy.Policy{Retry: policy.Retry{Off: true, Backoff: policy.Backoff{Initial: policy.NoWait}}}, ""},
		{policy.Limits{MaxReconnect: time.Second}, policy.Policy{}, `retry.reconnect: must not exceed the limit 1s, got 5s`}, // the default
		{policy.Limits{MaxReconnect: time.Second}, policy.Policy{AsGRPC: true}, ""},
		{policy.Limits{MaxReconnect: time.Second}, policy.Policy{Retry: policy.Retry{Reconnect: policy.NoWait}}, ""},
		{policy.Limits{Forbidden: []string{"idempotency"}}, policy.Policy{}, `idempotency: must not be set: the limits forbid it`},
		{policy.Limits{Forbidden: []string{"retry.codes", "wait_for_ready"}}, policy.Policy{WaitForReady: true},
			`wait_for_ready: must not be set: the limits forbid it`},
		{policy.Limits{Forbidden: []string{"retry.codes"}}, policy.Policy{Retry: policy.Retry{MaxAttempts: 2}}, ""},
		{policy.Limits{Forbidden: []string{"retry"}}, policy.Policy{Retry: policy.Retry{MaxAttempts: 2}}, `retry: must not be set: the limits forbid it`},
		{policy.Limits{Forbidden: []string{"retry.backoff.max"}}, policy.Policy{Retry: policy.Retry{Backoff: policy.Backoff{Max: time.Second}}},
			`retry.backoff.max: must not be set: the limits forbid it`},
		{policy.Limits{Methods: []policy.MethodLimits{{[]string{"/a.B/*"}, policy.Limits{MaxAttempts: 2}}}}, policy.Policy{},
			`retry.max_attempts: must not exceed the limit 2 of /a.B/*, got 3`},
		{l, policy.Policy{Hedge: policy.Hedge{Trigger: "mine"}}, `hedge.trigger: needs max_extra_load beside it, since the limit of extra load is 0.05`},
	} {
		st := new(policy.Store)
		require.NoError(t, st.Guard(r.limits.Check))
		r.policy.Name, r.policy.Idempotency = "users", classify.Idempotent
		err := st.Update(policy.Set{Rules: []policy.Rule{{Methods: []string{"*"}, Policy: r.policy}}})
		if r.want == "" {
			require.NoError(t, err, "%+v", r.policy)
			continue
		}
		require.EqualError(t, err, `rules[0]: policy "users": `+r.want)
	}
}

// TestLimitsOfBudgets: budgets of any kind are held to the limits, alone and together.
func TestLimitsOfBudgets(t *testing.T) {
	t.Parallel()
	l := policy.Limits{MaxAttempts: 4, MaxExtraLoad: 0.05}
	ratio := func(name string, share, perSecond float64) policy.NamedBudget {
		return policy.NamedBudget{Name: name, Ratio: &budget.RatioConfig{Ratio: share, MinPerSecond: perSecond}}
	}
	bucket := func(perSecond, burst float64) policy.NamedBudget {
		return policy.NamedBudget{Name: "bucket", TokenBucket: &budget.TokenBucketConfig{PerSecond: perSecond, Burst: burst}}
	}
	const sum = ": the sum of ratio.min_per_second and of token_bucket.per_second, or burst if that is larger"
	for _, r := range []struct {
		limits  policy.Limits
		budgets []policy.NamedBudget
		want    string
	}{
		{policy.Limits{}, []policy.NamedBudget{ratio("a", 1, 1e6)}, ""},
		{l, []policy.NamedBudget{ratio("a", 0.05, 10)}, ""},
		{l, []policy.NamedBudget{ratio("a", 0.2, 0)}, "budgets[0].ratio.ratio: must not exceed the limit 0.05, got 0.2"},
		{l, []policy.NamedBudget{ratio("a", 0, 1e6)}, "budgets: must not allow more than 10 extra attempts per second together, got 1e+06" + sum},
		{l, []policy.NamedBudget{ratio("a", 0, 6), ratio("b", 0, 6)}, "budgets: must not allow more than 10 extra attempts per second together, got 12" + sum},
		{l, []policy.NamedBudget{bucket(10, 0)}, ""},
		{l, []policy.NamedBudget{bucket(1e6, 0)}, "budgets: must not allow more than 10 extra attempts per second together, got 1e+06" + sum},
		{l, []policy.NamedBudget{bucket(1, 1000)}, "budgets: must not allow more than 10 extra attempts per second together, got 1000" + sum},
		{policy.Limits{MaxExtraLoad: 0.05, MaxExtraPerSecond: 100}, []policy.NamedBudget{bucket(100, 0)}, ""},
		{policy.Limits{MaxExtraLoad: 0.9, MaxExtraPerSecond: 1}, []policy.NamedBudget{bucket(0.001, 0), ratio("a", 0.9, 1)},
			"budgets: must not allow more than 1 extra attempts per second together, got 2" + sum},
		{l, []policy.NamedBudget{{Name: "a", Throttle: &budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 1}}},
			"budgets[0].throttle: sets no bound to extra load, which the limit 0.05 asks for"},
		{l, []policy.NamedBudget{{Name: "a", Concurrency: &budget.ConcurrencyConfig{Share: 1}}},
			"budgets[0].concurrency: bounds attempts in flight and not extra load, which the limit 0.05 asks for"},
		{policy.Limits{Forbidden: []string{"budgets"}}, []policy.NamedBudget{ratio("a", 0, 0)}, "budgets: must not be set: the limits forbid it"},
	} {
		st := new(policy.Store)
		require.NoError(t, st.Guard(r.limits.Check))
		err := st.Update(policy.Set{Budgets: r.budgets})
		if r.want == "" {
			require.NoError(t, err, "%+v", r)
			continue
		}
		require.EqualError(t, err, r.want)
	}
}

// TestLimitsOfMethods: limits for methods hold for every rule that covers one of them.
func TestLimitsOfMethods(t *testing.T) {
	t.Parallel()
	twice := policy.Policy{Retry: policy.Retry{MaxAttempts: 2}}
	rules := func(selectors ...string) (s policy.Set) {
		for _, m := range selectors {
			s.Rules = append(s.Rules, policy.Rule{Methods: []string{m}, Policy: twice})
		}
		return s
	}
	for _, r := range []struct {
		limited string
		set     policy.Set
		refused []string // paths
	}{
		{"/a.B/C", rules("/a.B/D", "/a.BB/*", "/a.B2/C"), nil},
		{"/a.B/C", rules("/a.B/D", "/a.B/C"), []string{"rules[1].policy.retry.max_attempts"}},
		{"/a.B/C", rules("/a.B/D", "/a.B/*"), []string{"rules[1].policy.retry.max_attempts"}},
		{"/a.B/C", rules("/a.B/D", "*"), []string{"rules[1].policy.retry.max_attempts"}},
		{"/a.B/*", rules("/a.B/D", "/a.C/*"), []string{"rules[0].policy.retry.max_attempts"}},
		{"/a.B/*", rules("/a.B/D", "*"), []string{"rules[0].policy.retry.max_attempts", "rules[1].policy.retry.max_attempts"}}, // of /a.B/E
		{"*", rules("/a.B/D", "*"), []string{"rules[0].policy.retry.max_attempts", "rules[1].policy.retry.max_attempts"}},
	} {
		table, err := r.set.Compile()
		require.NoError(t, err)
		l := policy.Limits{Methods: []policy.MethodLimits{{[]string{r.limited}, policy.Limits{MaxAttempts: 1}}}}
		err = l.Check(table)
		var paths []string
		if faults, ok := err.(policy.Faults); ok { //nolint:errorlint // it is what Check returns
			for _, f := range faults {
				paths = append(paths, f.Path)
			}
		}
		assert.Equal(t, r.refused, paths, "%s: %v", r.limited, err)
	}

	s := rules("/a.B/*", "/c.D/*")
	s.Rules[0].Policy.Budget, s.Rules[1].Policy.Budget = "mine", "other"
	for _, name := range []string{"mine", "other"} {
		s.Budgets = append(s.Budgets, policy.NamedBudget{Name: name, TokenBucket: &budget.TokenBucketConfig{PerSecond: 5}})
	}
	table, err := s.Compile()
	require.NoError(t, err)
	l := policy.Limits{Methods: []policy.MethodLimits{{[]string{"/a.B/*"}, policy.Limits{MaxExtraLoad: 0.1, MaxExtraPerSecond: 5}}}}
	require.NoError(t, l.Check(table))
	l.Methods[0].Methods = []string{"/a.B/*", "/c.D/*"}
	require.ErrorContains(t, l.Check(table), "together of /a.B/*, /c.D/*, got 10")
}

// TestLimitsValidate: limits that say nothing, or the wrong thing, refuse every set.
func TestLimitsValidate(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		limits policy.Limits
		want   string
	}{
		{policy.Limits{MaxAttempts: -1}, "max_attempts: must be between 1 and 100 (0 limits nothing), got -1"},
		{policy.Limits{MaxExtraLoad: 1}, "max_extra_load: must be at least 0 and below 1, got 1"},
		{policy.Limits{MaxExtraPerSecond: 5}, "max_extra_per_second: needs max_extra_load beside it: without that, a ratio allows more"},
		{policy.Limits{MaxExtraPerSecond: math.NaN()}, "max_extra_per_second: must be between 0 and 1000000, got NaN"},
		{policy.Limits{MaxTimeout: -1}, "max_timeout: must be between 0 and 24h0m0s, got -1ns"},
		{policy.Limits{MaxTimeout: 1, MinTimeout: 2}, "max_timeout: must be at least min_timeout and min_attempt_timeout, got 1ns"},
		{policy.Limits{Forbidden: []string{"budgets", "retry.code"}}, `forbidden[1]: is no field that can be forbidden here: "retry.code"`},
		{policy.Limits{Overridable: []string{"retry", "retries_off"}}, `overridable[1]: is no field of a policy: "retries_off"`},
		{policy.Limits{Overridable: []string{"timeout.seconds"}}, `overridable[0]: is no field of a policy: "timeout.seconds"`},
		{policy.Limits{Methods: []policy.MethodLimits{{}}}, "methods[0].methods: must name at least one method"},
		{policy.Limits{Methods: []policy.MethodLimits{{[]string{"a"}, policy.Limits{}}}},
			`methods[0].methods[0]: must be /pkg.Service/Method, /pkg.Service/* or *, got "a"`},
		{policy.Limits{Methods: []policy.MethodLimits{{[]string{"*"}, policy.Limits{MaxAttempts: -1}}}},
			"methods[0].limits.max_attempts: must be between 1 and 100 (0 limits nothing), got -1"},
		{policy.Limits{Methods: []policy.MethodLimits{{[]string{"*"}, policy.Limits{Forbidden: []string{"budgets"}}}}},
			`methods[0].limits.forbidden[0]: is no field that can be forbidden here: "budgets"`},
		{policy.Limits{Methods: []policy.MethodLimits{{[]string{"*"}, policy.Limits{Methods: []policy.MethodLimits{{}}}}}},
			"methods[0].limits.methods: must not be given within methods"},
	} {
		require.EqualError(t, r.limits.Validate(), r.want)
		table, err := policy.Set{}.Compile()
		require.NoError(t, err)
		require.EqualError(t, r.limits.Check(table), "limits."+r.want)
	}
}

// TestLimitsProto: nothing of limits is lost on the wire.
func TestLimitsProto(t *testing.T) {
	t.Parallel()
	l := policy.Limits{
		MaxAttempts: 4, MaxExtraLoad: 0.05, MaxExtraPerSecond: 3,
		MaxTimeout: time.Minute, MinTimeout: time.Second, MinAttemptTimeout: 2, MinBackoff: 3, MaxReconnect: 4,
		Forbidden: []string{"budgets"}, Overridable: []string{"retry.off"},
		Methods: []policy.MethodLimits{{[]string{"*"}, policy.Limits{MaxAttempts: 1}}},
	}
	require.NoError(t, l.Validate())
	for name, is := range fieldsOf(l) {
		assert.Equal(t, "set", is, "%s: set it in this test", name)
	}
	back, err := policy.LimitsFromProto(l.Proto())
	require.NoError(t, err)
	assert.Equal(t, l, back, "policy/limits_wire.go")
	fields := l.Proto().ProtoReflect().Descriptor().Fields()
	assert.Len(t, fieldsOf(l), fields.Len(), "proto/rego/v1/limits.proto and policy/limits.go")
}

// TestOverridden: a policy takes what another one has written, field by field.
func TestOverridden(t *testing.T) {
	t.Parallel()
	code := policy.Policy{
		Name:    "in code",
		Timeout: time.Second,
		Retry:   policy.Retry{MaxAttempts: 4, Codes: []codes.Code{codes.Unavailable, codes.Aborted}, Backoff: policy.Backoff{Initial: time.Millisecond, Jitter: policy.JitterNone}},
		Hedge:   policy.Hedge{Delay: time.Second},
	}
	set := policy.Policy{
		Name:        "of the set",
		Idempotency: classify.Idempotent,
		Retry:       policy.Retry{Off: true, Codes: []codes.Code{codes.Internal}, Backoff: policy.Backoff{Max: time.Second}},
		Hedge:       policy.Hedge{Off: true, MaxExtraLoad: 0.1},
	}
	for _, r := range []struct {
		fields []string
		want   func(*policy.Policy)
		writes []string
	}{
		{nil, func(*policy.Policy) {}, set.Writes()},
		{[]string{"retry.off"}, func(p *policy.Policy) { p.Retry.Off = true }, []string{"retry.off"}},
		{[]string{"retry.max_attempts", "timeout"}, func(*policy.Policy) {}, nil}, // which it does not write
		{[]string{"retry.codes"}, func(p *policy.Policy) { p.Retry.Codes = set.Retry.Codes }, []string{"retry.codes"}},
		{[]string{"retry"}, func(p *policy.Policy) {
			p.Retry.Off, p.Retry.Codes, p.Retry.Backoff.Max = true, set.Retry.Codes, time.Second
		}, []string{"retry.off", "retry.backoff.max", "retry.codes"}},
		{[]string{"hedge.off", "name"}, func(p *policy.Policy) { p.Hedge.Off, p.Name = true, "of the set" }, []string{"name", "hedge.off"}},
		{[]string{"hedge"}, func(p *policy.Policy) { p.Hedge.Off, p.Hedge.MaxExtraLoad = true, 0.1 }, []string{"hedge.off", "hedge.max_extra_load"}},
	} {
		want := code
		r.want(&want)
		assert.Equal(t, want, code.Overridden(set, r.fields), "%v", r.fields)
		assert.Equal(t, r.writes, set.Writes(r.fields...), "%v", r.fields)
	}
	require.Error(t, code.Overridden(set, []string{"hedge"}).Validate(), "two that exclude each other")
}

// fieldsOf says of each field whether it is zero.
func fieldsOf(v any) map[string]string {
	fields := make(map[string]string)
	s := reflect.ValueOf(v)
	for i := range s.NumField() {
		name := s.Type().Field(i).Name
		fields[name] = "set"
		if s.Field(i).IsZero() {
			fields[name] = "zero"
		}
	}
	return fields
}
