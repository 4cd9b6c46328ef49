package interceptor_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/hedge"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// slowFirst answers retries and hedges at once, and originals after what took says of the
// n-th of them; never if that is zero.
func (c client) slowFirst(took func(n int) time.Duration) {
	var mu sync.Mutex
	n := -1
	c.srv.Handle(testsrv.Get, func(a testsrv.Arrival) testsrv.Step {
		if a.Previous > 0 {
			return testsrv.OK()
		}
		mu.Lock()
		defer mu.Unlock()
		n++
		if d := took(n); d > 0 {
			return after(d, testsrv.OK())
		}
		return testsrv.Hang()
	})
}

// TestFailedAttemptIsReplacedDespiteAQueue: the budget is asked for what takes the place of a
// failed attempt, whoever waits for a hedge of theirs.
func TestFailedAttemptIsReplacedDespiteAQueue(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		b := new(tight)
		c := newClient(t, srv, interceptor.WithPolicy(after100(func(p *policy.Policy) { p.Retry.Off, p.Retry.MaxAttempts = true, 2 })), b.inTarget()).ready()
		c.number(testsrv.Get, testsrv.Hang())
		ctx, cancel := context.WithCancel(t.Context())
		var waits sync.WaitGroup
		waits.Go(func() { _, _ = c.call(ctx, testsrv.Get) })
		virtual.Sleep(150 * ms) // it has been denied
		b.left.Store(1)
		c.number(testsrv.Get, testsrv.Fail(codes.Unavailable, ""), testsrv.OK())
		_, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)
		cancel()
		waits.Wait()
	})
}

// TestQueuesOfBudgets: who waits for one budget does not stand before those of another.
func TestQueuesOfBudgets(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		p := after100(func(p *policy.Policy) { p.Budget = "none" })
		c := newClient(t, srv, interceptor.WithPolicy(after100()), interceptor.WithBudget("none", new(tight))).ready()
		c.slowFirst(func(int) time.Duration { return 0 })
		ctx, cancel := context.WithCancel(t.Context())
		var waits sync.WaitGroup
		waits.Go(func() { _, _ = c.call(ctx, testsrv.Get, interceptor.WithPolicy(p)) })
		virtual.Sleep(150 * ms)
		tl, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)
		assert.Equal(t, interceptor.WaitHedgeDelay, tl.Attempts[1].WaitedOn)
		assert.Equal(t, 100*ms, tl.Elapsed())
		cancel()
		waits.Wait()
	})
}

// TestQueueGoesOn: when the call of the first in the queue ends, the next is called.
func TestQueueGoesOn(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		b := new(tight)
		c := newClient(t, srv, interceptor.WithPolicy(after100(func(p *policy.Policy) { p.Retry.MaxAttempts = 2 })), b.inTarget()).ready()
		c.slowFirst(func(n int) time.Duration { return []time.Duration{1750 * ms, 0}[n] })
		var calls sync.WaitGroup
		lines := make([]*interceptor.Timeline, 2)
		for i := range lines {
			calls.Go(func() { lines[i], _ = c.call(t.Context(), testsrv.Get) })
			virtual.Sleep(10 * ms)
		}
		virtual.Sleep(1650 * ms)
		b.left.Store(1) // 80 ms before the first has its answer
		calls.Wait()
		require.Len(t, lines[1].Attempts, 2)
		assert.Equal(t, 1740*ms, lines[1].Attempts[1].Wait)
	})
}

// TestGoexitInATrigger: what has been granted for a hedge is given back.
func TestGoexitInATrigger(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		one, err := budget.NewConcurrency(budget.ConcurrencyConfig{Min: 1})
		require.NoError(t, err)
		tr := &trigger{next: func(h hedge.Call) (time.Duration, hedge.State) {
			if h.Running > 1 {
				runtime.Goexit()
			}
			return 100*ms - h.SinceLast, hedge.Ready
		}}
		c := newClient(t, srv, interceptor.WithTrigger("mine", tr), named(triggered()),
			interceptor.WithTargetBudget(func(string) budget.Budget { return one })).ready()
		c.number(testsrv.Get, testsrv.Hang())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = c.call(t.Context(), testsrv.Get)
		}()
		<-done
		synctest.Wait()
		assert.True(t, one.Acquire(budget.Hedge))
	})
}

// TestTriggerLearnsOfStreamsWithoutRetries: also while it wants no hedges.
func TestTriggerLearnsOfStreamsWithoutRetries(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		tr := &trigger{next: declined}
		c := newClient(t, srv, interceptor.WithTrigger("mine", tr), named(triggered(idempotent, func(p *policy.Policy) { p.Retry.Off = true }))).ready()
		s, err := testv1.NewTestServiceClient(c.conn).Watch(t.Context(), &testv1.WatchRequest{})
		require.NoError(t, err)
		for err == nil {
			_, err = s.Recv()
		}
		assert.Equal(t, []string{"1 0s OK complete=true []"}, tr.told)
	})
}

// TestTriggerHearsOfOneAtLeast: between a failed attempt and the one in its place none runs.
func TestTriggerHearsOfOneAtLeast(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		least := 1
		tr := &trigger{next: func(h hedge.Call) (time.Duration, hedge.State) {
			least = min(least, h.Running)
			return 100*ms - h.SinceLast, hedge.Ready
		}}
		c := newClient(t, srv, interceptor.WithTrigger("mine", tr), named(triggered()), interceptor.WithObserver(sleepy(40*ms))).ready()
		c.number(testsrv.Get, after(30*ms, testsrv.Fail(codes.Unavailable, "")), testsrv.OK())
		_, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)
		assert.Equal(t, 1, least)
	})
}

// sleepy is an observer that takes its time.
type sleepy time.Duration

func (sleepy) Start(ctx context.Context, _ *interceptor.Event) context.Context { return ctx }

func (s sleepy) Observe(context.Context, *interceptor.Event) { virtual.Sleep(time.Duration(s)) }
