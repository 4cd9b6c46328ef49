package interceptor_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// What a set brings besides rules, and what a proto file says.

// TestBudgetsOfSets: policies of a set are held to its budgets, which keep what was
// spent as long as their definition stays.
func TestBudgetsOfSets(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		srv.Script(testsrv.Put, testsrv.Fail(codes.Unavailable, "down"))
		p := exact(idempotent, func(p *policy.Policy) { p.Budget = "two"; p.Retry.Backoff.Initial = policy.NoWait })
		set := func(version string, burst float64) policy.Set {
			return policy.Set{
				Version: version,
				Rules:   []policy.Rule{{Methods: []string{"*"}, Policy: p}},
				Budgets: []policy.NamedBudget{{Name: "two", TokenBucket: &budget.TokenBucketConfig{PerSecond: 0.001, Burst: burst}}},
			}
		}
		st, err := policy.NewStore(set("1", 2))
		require.NoError(t, err)
		c := newClient(t, srv, interceptor.WithPolicies(st))
		attempts := func() int {
			tl, err := c.call(t.Context(), testsrv.Put)
			require.Equal(t, codes.Unavailable, status.Code(err))
			return len(tl.Attempts)
		}
		assert.Equal(t, 3, attempts(), "the budget has two")
		assert.Equal(t, 1, attempts())
		require.NoError(t, st.Update(set("2", 2)))
		assert.Equal(t, 1, attempts(), "the same budget")
		require.NoError(t, st.Update(set("3", 1)))
		assert.Equal(t, 2, attempts(), "another one")

		other := newInterceptor(t, interceptor.WithPolicies(st))
		tl := new(interceptor.Timeline)
		conn := testsrv.Start(t).Conn(t, other.DialOptions()...)
		_, err = testv1.NewTestServiceClient(conn).Put(t.Context(), &testv1.PutRequest{}, interceptor.WithTimeline(tl))
		require.NoError(t, err)

		none := set("4", 2)
		none.Budgets = nil
		require.EqualError(t, st.Update(none), `rules[0].policy.budget: no budget is named "two"`)
		assert.Equal(t, "3", st.Current().Version())
	})
}

// TestBudgetInCodeIsStronger: a set cannot take the place of a limit in code.
func TestBudgetInCodeIsStronger(t *testing.T) {
	t.Parallel()
	b, err := budget.NewTokenBucket(budget.TokenBucketConfig{PerSecond: 1})
	require.NoError(t, err)
	st := new(policy.Store)
	newInterceptor(t, interceptor.WithPolicies(st), interceptor.WithBudget("mine", b))
	set := policy.Set{Budgets: []policy.NamedBudget{{Name: "mine", Ratio: &budget.RatioConfig{Ratio: 1}}}}
	require.EqualError(t, st.Update(set), `budgets[0].name: "mine" is defined in code`)
}

func TestClassifierNone(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		srv.Script(testsrv.Put, testsrv.Fail(codes.Unavailable, "down"))
		c := newClient(t, srv)
		tl, err := c.call(t.Context(), testsrv.Put, interceptor.WithPolicy(exact(idempotent, func(p *policy.Policy) { p.Classifier = policy.ClassifierNone })))
		require.Equal(t, codes.Unavailable, status.Code(err))
		assert.Len(t, tl.Attempts, 1)
		assert.Equal(t, interceptor.EndNonRetryable, tl.Reason)
	})
	_, err := interceptor.New(interceptor.WithClassifier(policy.ClassifierNone, nil))
	require.EqualError(t, err, `rego: a classifier cannot be named "none"`)
}

// TestWaitForReady: a policy has calls wait for a connection, unless they say
// themselves what to do.
func TestWaitForReady(t *testing.T) {
	t.Parallel()
	once := exact(func(p *policy.Policy) { p.Retry.MaxAttempts = 1 })
	p := once
	p.WaitForReady = true
	for _, r := range []struct {
		opts []grpc.CallOption
		want codes.Code
	}{
		{[]grpc.CallOption{interceptor.WithPolicy(once)}, codes.Unavailable},
		{[]grpc.CallOption{interceptor.WithPolicy(p)}, codes.OK},
		{[]grpc.CallOption{interceptor.WithPolicy(p), grpc.WaitForReady(false)}, codes.Unavailable},
		{[]grpc.CallOption{grpc.WaitForReady(false), interceptor.WithPolicy(p)}, codes.Unavailable},
		{[]grpc.CallOption{interceptor.WithPolicy(once), grpc.WaitForReady(true)}, codes.OK},
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			require.NoError(t, srv.Refuse(true))
			c := newClient(t, srv)
			time.AfterFunc(time.Second/2, func() { assert.NoError(t, srv.Refuse(false)) })
			_, err := c.call(t.Context(), testsrv.Pay, r.opts...)
			assert.Equal(t, r.want, status.Code(err), "%v", r.opts)
		})
	}
}

// TestAnnotations: what a method's proto file says is weaker than any rule, and
// stronger than the default. One that cannot be used is logged, and the default is.
func TestAnnotations(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		st := new(policy.Store)
		c := newClient(t, srv, interceptor.WithPolicies(st))
		call := func(method string) *interceptor.Timeline {
			tl := new(interceptor.Timeline)
			err := c.conn.Invoke(t.Context(), method, &testv1.OwnRequest{}, &testv1.OwnResponse{}, interceptor.WithTimeline(tl))
			require.Equal(t, codes.Unimplemented, status.Code(err))
			return tl
		}
		own := call(testv1.AnnotatedService_Own_FullMethodName)
		assert.Equal(t, "of the method", own.Policy)
		assert.Len(t, own.Attempts, 4)
		assert.Equal(t, 20*ms, own.Attempts[1].Wait)
		assert.Equal(t, "of the service", call(testv1.AnnotatedService_Inherits_FullMethodName).Policy)
		assert.Empty(t, call(testv1.AnnotatedService_Invalid_FullMethodName).Policy)
		assert.Empty(t, call(testv1.AnnotatedService_Unresolved_FullMethodName).Policy)

		require.NoError(t, st.Update(policy.Set{Rules: []policy.Rule{{Methods: []string{"*"}, Policy: policy.Policy{Name: "of the store"}}}}))
		own = call(testv1.AnnotatedService_Own_FullMethodName)
		assert.Equal(t, "of the store", own.Policy)
		assert.Len(t, own.Attempts, 1)
	})
}
