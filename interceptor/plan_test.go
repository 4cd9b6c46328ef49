package interceptor

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// TestPlainCallAllocatesNothing holds the promise of the fast path.
func TestPlainCallAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties sync.Pool at random")
	}
	unary := newBench(t, WithPolicy(idempotentNow))
	ctx := context.Background()
	assert.Zero(t, testing.AllocsPerRun(1000, func() { _ = unary(ctx, benchMethod, nil, nil, nil, answeringOK) }))
}

// TestPlansAreBounded: a client that makes up method names does not grow us.
func TestPlansAreBounded(t *testing.T) {
	it, err := New()
	require.NoError(t, err)
	tg := it.target(nil)
	for i := range maxMethods + 100 {
		require.NotNil(t, tg.plan(fmt.Sprintf("/made.Up/%d", i)))
	}
	assert.Len(t, tg.learned, maxMethods+1, "with the one that the others share")
	assert.LessOrEqual(t, len(tg.pending.byMethod), maxMethods+1)
}

// TestMethodsBeyondTheLimit share a plan only while they have the same policy, and are named by a rule
// alike.
func TestMethodsBeyondTheLimit(t *testing.T) {
	t.Parallel()
	it, err := New(WithRules(
		policy.Rule{Methods: []string{"/a.B/Named", "/a.B/*"}, Policy: policy.Policy{Name: "service"}},
		policy.Rule{Methods: []string{"*"}, Policy: policy.Policy{Name: "all"}},
	))
	require.NoError(t, err)
	tg := it.target(nil)
	for i := range maxMethods {
		tg.learned[strconv.Itoa(i)] = new(method)
	}
	for _, r := range []struct {
		method, policy string
		named, same    bool // same is as before
	}{
		{"/a.B/Named", "service", true, false},
		{"/a.B/Other", "service", false, false},
		{"/a.B/Another", "service", false, true},
		{"/a.B/Named", "service", true, false},
		{"/c.D/E", "all", false, false},
		{"/c.D/F", "all", false, true},
		{"/a.B/Other", "service", false, false},
	} {
		before := tg.pending.byMethod[otherMethods]
		p := tg.plan(r.method)
		assert.Equal(t, r.policy, p.policy.Name, r.method)
		assert.Equal(t, r.named, p.named, r.method)
		assert.Equal(t, r.same, p == before, r.method)
	}
}

// TestRecentPlans: names that have the same place among the recent are not mixed up.
func TestRecentPlans(t *testing.T) {
	t.Parallel()
	it, err := New()
	require.NoError(t, err)
	tg := it.target(nil)
	for range 3 {
		for _, m := range []string{"/shop.Orders/Get", "/shop.Places/Get", "/a/b", "/b", "", "a", "ab", "abc"} {
			assert.Equal(t, m, tg.plan(m).method.name)
		}
	}
}

// TestPlansFollowTheStore from many goroutines: a call sees one table whole.
func TestPlansFollowTheStore(t *testing.T) {
	var st policy.Store
	it, err := New(WithPolicies(&st))
	require.NoError(t, err)
	tg := it.target(nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			last := 0
			for range 2000 {
				p := tg.plan(benchMethod)
				n := 0
				_, _ = fmt.Sscan(p.version, &n)
				assert.GreaterOrEqual(t, n, last, "versions do not go back")
				last = n
				assert.Equal(t, p.version, p.policy.Name, "of one table")
			}
		})
	}
	for v := range 100 {
		name := fmt.Sprint(v)
		require.NoError(t, st.Update(policy.Set{Version: name, Rules: []policy.Rule{{Methods: []string{"*"}, Policy: policy.Policy{Name: name}}}}))
	}
	wg.Wait()
	assert.Equal(t, "99", tg.plan(benchMethod).version)
	assert.Equal(t, classify.NoSideEffects, tg.plan(benchMethod).idempotency, "from the descriptor")
}

// TestHedgingsAreBounded: a caller that makes up policies does not grow us.
func TestHedgingsAreBounded(t *testing.T) {
	it, err := New()
	require.NoError(t, err)
	tg := it.target(nil)
	for i := range 1000 {
		p := policy.Default()
		p.Hedge.MaxExtraLoad = float64(i+1) / 1001
		_, err := tg.ownPlan(&p, benchMethod)
		require.NoError(t, err)
	}
	assert.LessOrEqual(t, tg.own.Load().many, maxOwn)
	assert.NotEmpty(t, tg.learned[benchMethod].hedgings)
	assert.LessOrEqual(t, len(tg.learned[benchMethod].hedgings), maxHedgings)
}

// TestOwnPolicies: a call gets the policy that it brings, also when others bring theirs at the same
// time, and one that is made anew has the plan that it had.
func TestOwnPolicies(t *testing.T) {
	it, err := New()
	require.NoError(t, err)
	tg := it.target(nil)
	planOf := func(p policy.Policy) *plan {
		var c call
		require.NoError(t, WithPolicy(p).CallOption.set(&c))
		pl, err := tg.ownPlan(c.settings.policy, benchMethod)
		require.NoError(t, err)
		return pl
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for round := range 1000 {
				p := policy.Policy{Timeout: time.Duration(1+round%(8*(i+1))) * time.Second, Retry: policy.Retry{Codes: []codes.Code{codes.Code(1 + i)}}}
				got := planOf(p).policy
				if got.Timeout != p.Timeout || !slices.Equal(got.Retry.Codes, p.Retry.Codes) {
					t.Errorf("%v: got %v", p, got)
				}
				p.Retry.Codes[0] = codes.DataLoss // the caller's slice is its own
			}
		})
	}
	wg.Wait()
	assert.LessOrEqual(t, len(*recently.Load()), maxRecent)
	a := planOf(policy.Policy{Name: "a"})
	assert.NotSame(t, a, planOf(policy.Policy{Name: "b"}))
	assert.Same(t, a, planOf(policy.Policy{Name: "a"}))
	var c call
	require.Error(t, WithPolicy(policy.Policy{Timeout: -1}).CallOption.set(&c))
	require.Error(t, WithPolicy(policy.Policy{Timeout: -1}).CallOption.set(&c))
}

// TestHedgeIsPostponed: a timer whose goroutine is on the way cannot be set again,
// so it looks whether it is early.
func TestHedgeIsPostponed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newUnary()
		c.timer = time.AfterFunc(0, func() {})
		synctest.Wait() // it has run, and armed says that its goroutine has not looked
		c.armed = true

		c.schedule(time.Now(), wanted{budget.Hedge, time.Second, WaitPushback})
		c.armLocked(time.Now(), step{setTimer: true})
		_, due := c.isDue()
		assert.False(t, due, "it is early")
		assert.True(t, c.armed)
		virtual.Sleep(time.Second)
		h, due := c.isDue()
		assert.True(t, due)
		assert.Equal(t, wanted{budget.Hedge, time.Second, WaitPushback}, h.next)
		assert.False(t, c.armed)
		assert.Equal(t, 1, c.workers)
		c.stopLocked()
	})
}

// TestOneBudgetOfAName: however fast sets follow each other, a set has one budget of a name.
func TestOneBudgetOfAName(t *testing.T) {
	t.Parallel()
	st := new(policy.Store)
	update := func(n int) {
		assert.NoError(t, st.Update(policy.Set{
			Version: strconv.Itoa(n),
			Budgets: []policy.NamedBudget{{Name: "b", TokenBucket: &budget.TokenBucketConfig{PerSecond: float64(n + 1), Burst: 2}}},
			Rules:   []policy.Rule{{Methods: []string{"*"}, Policy: policy.Policy{Budget: "b"}}},
		}))
	}
	update(0)
	it, err := New(WithPolicies(st))
	require.NoError(t, err)
	target := it.door(true).target(nil)
	var mu sync.Mutex
	seen := make(map[string]budget.Budget) // by version
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				p := target.plan(fmt.Sprintf("/a.B/M%d", i%20))
				mu.Lock()
				if _, ok := seen[p.version]; !ok {
					seen[p.version] = p.budget
				}
				if seen[p.version] != p.budget {
					t.Errorf("version %s has two", p.version)
				}
				mu.Unlock()
			}
		})
	}
	for n := range 3000 {
		update(n + 1)
		runtime.Gosched()
	}
	close(stop)
	wg.Wait()
}
