package interceptor_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// called returns the state of a method after a call of it.
func called(t *testing.T, method string, dial []grpc.DialOption, opts ...interceptor.Option) (interceptor.State, interceptor.MethodState) {
	t.Helper()
	srv := testsrv.Start(t)
	it := newInterceptor(t, opts...)
	conn := srv.Conn(t, append(it.DialOptions(), dial...)...)
	req, reply := messages(method)
	require.NoError(t, conn.Invoke(t.Context(), method, req, reply))
	return it.State(), stateOf(t, it, method)
}

// fields returns fields of a policy as "name = value, from".
func fields(s interceptor.PolicyState, names ...string) (list []string) {
	for _, f := range s.Fields {
		for _, name := range names {
			if f.Name == name {
				list = append(list, f.Name+" = "+f.Value+", "+f.From)
			}
		}
	}
	return list
}

func used(s interceptor.PolicyState) (list []interceptor.PolicySource) {
	for _, source := range s.Sources {
		if source.Used {
			list = append(list, source.Source)
		}
	}
	return list
}

// TestStateSaysWherePoliciesAreFrom: for each field the source that says it.
func TestStateSaysWherePoliciesAreFrom(t *testing.T) {
	t.Parallel()
	set, err := policy.NewStore(policy.Set{Version: "7", RetriesOff: true, Rules: []policy.Rule{
		{Methods: []string{"/rego.test.v1.TestService/*"}, Policy: policy.Policy{Name: "all", Retry: policy.Retry{MaxAttempts: 9}}},
	}})
	require.NoError(t, err)

	t.Run("set", func(t *testing.T) {
		t.Parallel()
		_, m := called(t, testsrv.Pay, nil, interceptor.WithPolicies(set))
		assert.Equal(t, "all", m.Policy.Name)
		assert.Equal(t, "7", m.Policy.Version)
		assert.Equal(t, []interceptor.PolicySource{interceptor.FromSet}, used(m.Policy))
		assert.Equal(t, interceptor.SourceState{Source: interceptor.FromSet, Selector: "/rego.test.v1.TestService/*", Has: true, Used: true}, m.Policy.Sources[1])
		assert.Equal(t, 5, m.Policy.Effective.Retry.MaxAttempts)
		assert.True(t, m.Policy.Effective.Retry.Off)
		assert.False(t, m.Policy.Effective.Hedge.Off)
		assert.Equal(t, []string{
			"retry.off = true, switch of the set",
			"retry.max_attempts = 5, WithMaxAttempts, the policy says 9",
			"retry.reconnect = 5s, default",
		}, fields(m.Policy, "retry.max_attempts", "retry.off", "retry.reconnect"))
	})
	t.Run("code hides the set", func(t *testing.T) {
		t.Parallel()
		s, m := called(t, testsrv.Pay, nil, interceptor.WithPolicies(set), interceptor.WithPolicy(policy.Policy{Name: "mine"}))
		assert.Equal(t, "mine", m.Policy.Name)
		assert.Equal(t, []interceptor.PolicySource{interceptor.FromCode}, used(m.Policy))
		assert.True(t, m.Policy.Sources[1].Has)
		require.EqualError(t, s.Rules.NoEffect, `rules[0]: retry.max_attempts: no effect on "/rego.test.v1.TestService/*", since a rule in code is stronger`)
	})
	t.Run("default", func(t *testing.T) {
		t.Parallel()
		_, m := called(t, testsrv.Pay, nil)
		assert.Equal(t, []interceptor.PolicySource{interceptor.FromDefault}, used(m.Policy))
		assert.Equal(t, []string{"retry.max_attempts = 3, default"}, fields(m.Policy, "retry.max_attempts"))
	})
	t.Run("proto file", func(t *testing.T) {
		t.Parallel()
		_, m := called(t, testsrv.Get, nil)
		assert.Equal(t, []string{"idempotency = no-side-effects, proto file"}, fields(m.Policy, "idempotency"))
	})
}

// TestStateSaysWhatTheChannelSays: the retryPolicy of a service config is the policy once a
// call has needed one.
func TestStateSaysWhatTheChannelSays(t *testing.T) {
	t.Parallel()
	srv := testsrv.Start(t)
	it := newInterceptor(t)
	conn := srv.Conn(t, append(it.DialOptions(), grpc.WithDefaultServiceConfig(`{"methodConfig":[{"name":[{}],"retryPolicy":{
		"maxAttempts":4,"initialBackoff":"0.001s","maxBackoff":"0.001s","backoffMultiplier":1,"retryableStatusCodes":["ABORTED"]}}]}`))...)
	srv.Script(testsrv.Pay, testsrv.Fail(codes.Aborted, ""), testsrv.Echo())
	require.NoError(t, conn.Invoke(t.Context(), testsrv.Pay, &testv1.PayRequest{Id: "1"}, new(testv1.PayResponse)))
	m := stateOf(t, it, testsrv.Pay)
	assert.Equal(t, []interceptor.PolicySource{interceptor.FromServiceConfig}, used(m.Policy))
	assert.Equal(t, []string{"retry.max_attempts = 4, service config", "retry.codes = ABORTED, service config"}, fields(m.Policy, "retry.max_attempts", "retry.codes"))
}

// TestStateFollowsTheChannel: the policy that is shown is that of the service config in force,
// also before a call has needed it.
func TestStateFollowsTheChannel(t *testing.T) {
	t.Parallel()
	srv := testsrv.Start(t)
	it := newInterceptor(t)
	r := manual.NewBuilderWithScheme("changing")
	built := make(chan resolver.ClientConn, 1)
	r.BuildCallback = func(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) { built <- cc }
	conn, err := grpc.NewClient("changing:///x", append(it.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithResolvers(r), grpc.WithContextDialer(srv.DialContext))...)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	conn.Connect()
	cc := <-built
	update := func(attempts int) {
		text := "{}"
		if attempts > 0 {
			text = fmt.Sprintf(`{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":%d,"initialBackoff":"0.001s","maxBackoff":"0.001s",
				"backoffMultiplier":1,"retryableStatusCodes":["ABORTED"]}}]}`, attempts)
		}
		require.NoError(t, cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "x"}}, ServiceConfig: cc.ParseServiceConfig(text)}))
	}
	attempts := func() string {
		require.NoError(t, conn.Invoke(t.Context(), testsrv.Pay, &testv1.PayRequest{Id: "1"}, new(testv1.PayResponse)))
		return fields(stateOf(t, it, testsrv.Pay).Policy, "retry.max_attempts")[0]
	}
	update(2)
	assert.Equal(t, "retry.max_attempts = 2, service config", attempts())
	update(5)
	assert.Equal(t, "retry.max_attempts = 5, service config", attempts())
	update(0)
	assert.Equal(t, "retry.max_attempts = 3, default", attempts())
}

// TestRegisteredAreMethods: a name that only resembles one in a proto file may be made up.
func TestRegisteredAreMethods(t *testing.T) {
	t.Parallel()
	it := newInterceptor(t)
	for name, want := range map[string]bool{
		testsrv.Get: true, "/rego.test.v1.GetRequest/id": false, "/rego/test.v1.TestService.Get": false,
		"rego.test.v1.TestService/Get": false, "/rego.test.v1.TestService/Gte": false, "/": false, "": false,
	} {
		_ = it.Unary()(t.Context(), name, nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil })
		assert.Equal(t, want, stateOf(t, it, name).Registered, name)
	}
}

// TestSamplesAreApart: the caller may change its own timeline.
func TestSamplesAreApart(t *testing.T) {
	t.Parallel()
	it := newInterceptor(t)
	var tl interceptor.Timeline
	_ = it.Unary()(t.Context(), testsrv.Get, nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		return status.Error(codes.NotFound, "")
	}, interceptor.WithTimeline(&tl))
	tl.Attempts[0].Code = codes.OK
	assert.Equal(t, codes.NotFound, stateOf(t, it, testsrv.Get).Samples[0].Timeline.Attempts[0].Code)
}

// TestStateSuspectsSelectors: a method that its service does not have is misspelt.
func TestStateSuspectsSelectors(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	it := newInterceptor(t, interceptor.WithLogger(slog.New(slog.NewTextHandler(&log, nil))), interceptor.WithRules(policy.Rule{Methods: []string{
		testsrv.Get, "/rego.test.v1.TestService/Gte", "/rego.test.v1.TestService/*", "/not.linked.Service/Get", "*",
	}}))
	assert.Equal(t, []string{"/rego.test.v1.TestService/Gte"}, it.State().Rules.Unknown)
	assert.Equal(t, 1, strings.Count(log.String(), "/rego.test.v1.TestService/Gte"))
}

// TestStateOfBudgets: the target's own, those of rules, and what max_extra_load is kept with.
func TestStateOfBudgets(t *testing.T) {
	t.Parallel()
	store, err := policy.NewStore(policy.Set{
		Budgets: []policy.NamedBudget{{Name: "shared", TokenBucket: &budget.TokenBucketConfig{PerSecond: 1, Burst: 5}}},
		Rules: []policy.Rule{
			{Methods: []string{testsrv.Get}, Policy: policy.Policy{Budget: "shared", Hedge: policy.Hedge{MaxExtraLoad: 0.02}}},
		},
	})
	require.NoError(t, err)
	s, m := called(t, testsrv.Get, nil, interceptor.WithPolicies(store))
	var seen []string
	for _, b := range s.Targets[0].Budgets {
		assert.True(t, b.HasBalance)
		seen = append(seen, b.Name)
	}
	assert.Equal(t, []string{"", "shared", testsrv.Get}, seen)
	assert.InDelta(t, 5, s.Targets[0].Budgets[1].Balance, 0.1)
	require.NotNil(t, m.Hedging)
	assert.Equal(t, "cold", m.Hedging.State)
	assert.InDelta(t, 0.02, m.Hedging.MaxExtraLoad, 1e-9)
	assert.EqualValues(t, 1, m.Hedging.Samples)
	require.NotNil(t, m.Policy.Budget)
	assert.Equal(t, "shared", m.Policy.Budget.Name)
}

// TestCountersAreThoseOfState: what is taken more cheaply says the same.
func TestCountersAreThoseOfState(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		it := newInterceptor(t, named(exact(idempotent)))
		conn := srv.Conn(t, it.DialOptions()...)
		srv.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "away"), testsrv.OK(), testsrv.Fail(codes.NotFound, "gone"))
		for range 3 {
			_ = conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse))
		}
		want := it.State()
		target := want.Targets[0].Name
		one, ok := it.MethodState(target, testsrv.Get)
		require.True(t, ok)
		assert.Equal(t, want.Targets[0].Methods[0], one)
		assert.NotEmpty(t, one.Samples)

		m := &want.Targets[0].Methods[0]
		m.Policy, m.Hedging, m.Samples = interceptor.PolicyState{}, nil, nil
		assert.Equal(t, want, it.Counters())

		_, ok = it.MethodState(target, testsrv.Put)
		assert.False(t, ok)
		_, ok = it.MethodState("elsewhere", testsrv.Get)
		assert.False(t, ok)
		_, ok = (*interceptor.Interceptor)(nil).MethodState(target, testsrv.Get)
		assert.False(t, ok)
	})
}

// TestStateKeepsSamples: of what is worth seeing a few of each kind, one in a second.
func TestStateKeepsSamples(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		it := newInterceptor(t, named(exact(idempotent)))
		conn := srv.Conn(t, it.DialOptions()...)
		srv.Handle(testsrv.Get, func(a testsrv.Arrival) testsrv.Step {
			if a.Previous == 1 {
				return testsrv.Echo()
			}
			return testsrv.Fail(codes.Unavailable, "secret")
		})
		for range 100 { // in ten seconds
			require.NoError(t, conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{Id: "secret"}, new(testv1.GetResponse)))
			virtual.Sleep(100 * ms)
		}
		byKind := make(map[interceptor.SampleKind]int)
		for _, s := range stateOf(t, it, testsrv.Get).Samples {
			byKind[s.Kind]++
			assert.Len(t, s.Timeline.Attempts, 2)
			assert.Equal(t, s.Timeline.Untimed, strings.Contains(s.Timeline.String(), "counted from the end"))
			assert.NotContains(t, s.Timeline.String(), "secret")
			assert.True(t, strings.HasPrefix(s.Timeline.Method, "/rego.test"))
		}
		assert.Equal(t, 4, byKind[interceptor.SampleAttempts])
		assert.Zero(t, byKind[interceptor.SampleFailed])
	})
}

// BenchmarkState: what a look costs whose interceptor knows of a thousand methods, and has as
// many rules.
func BenchmarkState(b *testing.B) {
	var rules []policy.Rule
	for i := range 1000 {
		rules = append(rules, policy.Rule{Methods: []string{fmt.Sprintf("/bench.v1.Service/Method%d", i)}, Policy: policy.Policy{Hedge: policy.Hedge{MaxExtraLoad: 0.02}}})
	}
	it, err := interceptor.New(interceptor.WithRules(rules...), interceptor.WithLogger(silent))
	require.NoError(b, err)
	unary := it.Unary()
	for _, r := range rules {
		for i := range 10 {
			_ = unary(b.Context(), r.Methods[0], nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
				if i == 0 {
					return status.Error(codes.Unavailable, "")
				}
				return nil
			})
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		it.State()
	}
}

// TestStateOfAStrangeBudget: one whose balance is no number, or that panics, has none.
func TestStateOfAStrangeBudget(t *testing.T) {
	t.Parallel()
	for name, balance := range map[string]func() float64{
		"infinite": func() float64 { return math.Inf(1) },
		"panics":   func() float64 { panic("Balance") },
	} {
		s, _ := called(t, testsrv.Get, nil, interceptor.WithTargetBudget(func(string) budget.Budget { return strange{balance} }))
		b := s.Targets[0].Budgets[0]
		assert.Equal(t, interceptor.BudgetState{Registered: true, Since: b.Since}, b, name)
	}
}

type strange struct{ balance func() float64 }

func (strange) Acquire(budget.Kind) bool           { return true }
func (strange) Release(budget.Kind, budget.Result) {}
func (s strange) Balance() float64                 { return s.balance() }

// TestStateWithManyConnections: connections are walked once for all methods, so that methods and
// connections do not multiply.
func TestStateWithManyConnections(t *testing.T) { //nolint:paralleltest // it counts allocations
	it := newInterceptor(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dial := func(methods int) {
		conn, err := grpc.NewClient("passthrough:///x", append(it.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		for i := range methods {
			require.Error(t, conn.Invoke(ctx, fmt.Sprintf("/a.B/M%d", i), nil, nil))
		}
	}
	dial(200)
	allocs := func() float64 { return testing.AllocsPerRun(3, func() { it.Counters() }) }
	one := allocs()
	for range 300 {
		dial(1)
	}
	assert.Less(t, allocs(), 8*one, "so many are asked for the policy of a method, but not all")
}
