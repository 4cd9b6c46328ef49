package interceptor_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// budgetsOf returns the budgets of a kind.
func budgetsOf(it *interceptor.Interceptor, k interceptor.BudgetKind) (list []interceptor.BudgetState) {
	for _, t := range it.State().Targets {
		for _, b := range t.Budgets {
			if b.Kind == k {
				list = append(list, b)
			}
		}
	}
	return list
}

// TestBudgetOfAMethodCountsOn when its policy gets another max_extra_load, and the first one back,
// also when so many policies of calls were met that what was kept of them is forgotten.
func TestBudgetOfAMethodCountsOn(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		with := func(load float64) policy.Policy {
			return triggered(idempotent, func(p *policy.Policy) { p.Hedge.MaxExtraLoad = load })
		}
		set := func(load float64) policy.Set {
			return policy.Set{Rules: []policy.Rule{{Methods: []string{testsrv.Get}, Policy: with(load)}}}
		}
		store, err := policy.NewStore(set(0.9))
		require.NoError(t, err)
		it := newInterceptor(t, interceptor.WithPolicies(store), interceptor.WithTargetBudget(func(string) budget.Budget { return new(counting) }), interceptor.WithTrigger("mine", &trigger{next: each(10 * ms)}))
		c := client{t, srv, srv.Conn(t, it.DialOptions()...)}.ready()
		srv.Script(testsrv.Get, testsrv.Do(testsrv.Delay(15*ms), testsrv.Echo()))
		call := func(opts ...grpc.CallOption) {
			for range 4 {
				_, err := c.call(t.Context(), testsrv.Get, opts...)
				require.NoError(t, err)
			}
		}
		asked := func() int64 {
			list := budgetsOf(it, interceptor.BudgetOfMethod)
			require.Len(t, list, 1)
			return list[0].Granted + list[0].Denied
		}
		call()
		first := asked()
		require.Positive(t, first)
		for _, load := range []float64{0.5, 0.9, 0.5, 0.9} {
			require.NoError(t, store.Update(set(load)))
			assert.Equal(t, first, asked(), "no call was made since")
		}
		call()
		before := asked()
		assert.Greater(t, before, first)
		for i := range 40 {
			call(interceptor.WithPolicy(with(0.8 - float64(i)/100)))
		}
		after := asked()
		assert.Greater(t, after, before, "those of calls count")
		call()
		assert.Greater(t, asked(), after)
	})
}

// TestBudgetThatItsMakerHad: it counts from zero where it is taken into use, so that what it has
// answered before counts once.
func TestBudgetThatItsMakerHad(t *testing.T) {
	t.Parallel()
	had := &counting{granted: 70, denied: 7}
	it := newInterceptor(t, interceptor.WithPolicy(exact(idempotent, func(p *policy.Policy) { p.Retry.Backoff.Initial = policy.NoWait })),
		interceptor.WithTargetBudget(func(string) budget.Budget { return had }))
	call := func(target string) {
		conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_ = it.Unary()(t.Context(), testsrv.Get, nil, new(testv1.GetResponse), conn,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
				return status.Error(codes.Unavailable, "")
			})
	}
	answers := func() (list [][2]int64) {
		for _, b := range budgetsOf(it, interceptor.BudgetOfTarget) {
			list = append(list, [2]int64{b.Granted, b.Denied})
		}
		return list
	}
	call("passthrough:///a")
	assert.Equal(t, [][2]int64{{2, 0}}, answers(), "of a call with three attempts")
	call("passthrough:///b") // which shares it
	assert.Equal(t, [][2]int64{{4, 0}, {2, 0}}, answers())
}

// counting is a budget that grants all, and counts.
type counting struct{ granted, denied int64 }

func (c *counting) Acquire(k budget.Kind) bool {
	if k != budget.Original {
		atomic.AddInt64(&c.granted, 1)
	}
	return true
}

func (*counting) Release(budget.Kind, budget.Result) {}

func (c *counting) Answers() (granted, denied int64) {
	return atomic.LoadInt64(&c.granted), c.denied
}

// TestStateTellsMadeUpBudgets: a budget of a method says whether its name is the program's own.
func TestStateTellsMadeUpBudgets(t *testing.T) {
	t.Parallel()
	it := newInterceptor(t, interceptor.WithPolicy(policy.Policy{Hedge: policy.Hedge{MaxExtraLoad: 0.02}}))
	for _, method := range []string{"/made.up/A", testsrv.Get} {
		_ = it.Unary()(t.Context(), method, nil, new(testv1.GetResponse), nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil })
	}
	registered := make(map[string]bool)
	for _, b := range it.State().Targets[0].Budgets {
		registered[b.Name] = b.Registered
	}
	assert.Equal(t, map[string]bool{"": true, "/made.up/A": false, testsrv.Get: true}, registered)
}
