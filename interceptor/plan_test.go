package interceptor

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/classify"
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
	c := newCall()
	c.req, c.reply, c.method = "req", "reply", "m"
	c.attempt.Reply, c.attempt.Err = "reply", context.Canceled
	c.opts = append(c.opts, WithIdempotencyKey("k"))
	c.said = settings{timelineTo: new(Timeline), sendKey: true, idempotencyKey: "k"}
	c.own.Attempts = append(c.own.Attempts, Attempt{Number: 1})
	c.reset()
	fresh := newCall()
	assert.Len(t, c.opts, privateOutputs)
	assert.Nil(t, c.opts[:cap(c.opts)][privateOutputs])
	c.opts, fresh.opts = nil, nil
	c.own.Attempts = nil
	assert.Equal(t, fresh, c)
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
