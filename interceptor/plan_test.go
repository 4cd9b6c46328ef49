package interceptor

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/classify"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// TestPlainCallAllocatesNothing holds the promise of the fast path.
func TestPlainCallAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties sync.Pool at random")
	}
	unary := newBench(t, WithPolicy(idempotentNow))
	ctx := context.Background()
	assert.Zero(t, testing.AllocsPerRun(1000, func() { _ = unary(ctx, benchMethod, nil, nil, nil, fakeOK) }))
}

// TestNothingIsKeptOfACall: the pool must not pin what a call was given.
func TestNothingIsKeptOfACall(t *testing.T) {
	u := newUnary()
	u.req, u.reply, u.method = "req", "reply", "m"
	u.lead = &u.original
	u.lead.reply, u.lead.seen.Reply, u.lead.seen.Err = "reply", "reply", context.Canceled
	u.lead.opts = append(u.lead.opts, WithIdempotencyKey("k"))
	u.lead.leash(t.Context())
	u.said = settings{timelineTo: new(Timeline), sendKey: true, idempotencyKey: "k"}
	u.own.Attempts = append(u.own.Attempts, Attempt{Number: 1})
	u.running = append(u.running, u.lead)
	u.timer, u.decided, u.hedged = time.NewTimer(time.Hour), u.lead, true
	u.lead.cancel()
	u.reset()
	fresh := newUnary()
	assert.Len(t, u.original.opts, privateOutputs)
	assert.Nil(t, u.original.opts[:cap(u.original.opts)][privateOutputs])
	assert.Equal(t, []*attempt{nil}, u.running[:1])
	assert.NotNil(t, u.fireFunc)
	assert.Same(t, u, u.maker)
	for _, u := range []*unary{u, fresh} {
		u.original.opts, u.own.Attempts, u.running, u.fireFunc, u.maker = nil, nil, nil, nil, nil
	}
	assert.Equal(t, fresh, u)
}

func TestTypicalIsNotMovedByATail(t *testing.T) {
	var u typical
	for i := range 1000 {
		d := 10 * time.Millisecond
		if i%20 == 0 {
			d = time.Second
		}
		u.add(d)
	}
	assert.InDelta(t, 10*time.Millisecond, u.duration(), float64(time.Millisecond))
	for range 100 {
		u.add(40 * time.Millisecond)
	}
	assert.InDelta(t, 40*time.Millisecond, u.duration(), float64(4*time.Millisecond), "it follows a lasting change")
}

// TestPlansAreBounded: a client that makes up method names does not grow us.
func TestPlansAreBounded(t *testing.T) {
	it, err := New()
	require.NoError(t, err)
	tg := it.target(nil)
	for i := range maxMethods + 100 {
		require.NotNil(t, tg.plan(fmt.Sprintf("/made.Up/%d", i)))
	}
	assert.Len(t, tg.learned, maxMethods)
	assert.LessOrEqual(t, len(tg.pending.byMethod), maxMethods)
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
		require.NotNil(t, tg.ownPlan(&p, benchMethod))
	}
	assert.NotEmpty(t, tg.learned[benchMethod].hedgings)
	assert.LessOrEqual(t, len(tg.learned[benchMethod].hedgings), maxHedgings)
}

// TestHedgeIsPostponed: a timer whose goroutine is on the way cannot be set again,
// so it looks whether it is early.
func TestHedgeIsPostponed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newUnary()
		c.plan = &plan{policy: &policy.Policy{}, maxAttempts: 3, method: new(method)}
		c.timeline, c.made = &c.own, 1
		c.replies, _ = c.plan.method.repliesLike(new(testv1.GetResponse))
		c.ctx = t.Context()
		c.workers = 1
		c.timer = time.AfterFunc(0, func() {})
		synctest.Wait() // it has run, and armed says that its goroutine has not looked
		c.armed = true

		c.armLocked(time.Now(), time.Second, WaitPushback)
		assert.Nil(t, c.startHedge(), "it is early")
		assert.True(t, c.armed)
		time.Sleep(time.Second)
		a := c.startHedge()
		require.NotNil(t, a)
		assert.Equal(t, WaitPushback, a.WaitedOn)
		c.stopLocked()
		assert.ErrorIs(t, a.ctx.Err(), context.Canceled)
	})
}
