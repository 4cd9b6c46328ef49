package interceptor_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
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
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// tight is a budget that grants hedges as a test wants it, and counts who asks.
type tight struct {
	left  atomic.Int64
	asked atomic.Int64
}

func (b *tight) Acquire(k budget.Kind) bool {
	if k != budget.Hedge {
		return true
	}
	b.asked.Add(1)
	if b.left.Add(-1) >= 0 {
		return true
	}
	b.left.Add(1)
	return false
}
func (b *tight) Release(budget.Kind, budget.Result) {}
func (b *tight) inTarget() interceptor.Option {
	return interceptor.WithTargetBudget(func(string) budget.Budget { return b })
}

// TestDeniedHedgeAsksAgain: at the pace of the delay while nothing else happens.
func TestDeniedHedgeAsksAgain(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name     string
		policy   policy.Policy
		steps    []testsrv.Step
		grant    time.Duration // when the budget has one hedge
		attempts []string
	}{
		{
			"granted at the second question", after100(), []testsrv.Step{testsrv.Hang(), after(10*ms, testsrv.OK())}, 110 * ms,
			[]string{"original 0s..210ms lost at 210ms", "hedge 200ms..210ms won", "no hedge 100ms budget-denied"},
		},
		{
			"and at the third", after100(), []testsrv.Step{testsrv.Hang(), after(10*ms, testsrv.OK())}, 210 * ms,
			[]string{"original 0s..410ms lost at 410ms", "hedge 400ms..410ms won", "no hedge 100ms budget-denied"},
		},
		{
			"it has kept its place", after100(func(p *policy.Policy) { p.Retry.MaxAttempts = 2 }), []testsrv.Step{testsrv.Hang(), after(10*ms, testsrv.OK())}, 210 * ms,
			[]string{"original 0s..410ms lost at 410ms", "hedge 400ms..410ms won", "no hedge 100ms budget-denied"},
		},
		{
			"the answer comes before", after100(), []testsrv.Step{after(350*ms, testsrv.OK())}, 360 * ms,
			[]string{"original 0s..350ms won", "no hedge 100ms budget-denied"},
		},
		{
			"the original fails, and so does what was wanted in its place", after100(func(p *policy.Policy) { p.Retry.Off = true }), []testsrv.Step{after(150*ms, down)}, time.Hour,
			[]string{"original 0s..150ms failed", "no hedge 100ms budget-denied", "no hedge 150ms budget-denied"},
		},
		{
			"retries take over", after100(), []testsrv.Step{after(150*ms, down), after(10*ms, testsrv.OK())}, 190 * ms,
			[]string{"original 0s..150ms failed", "retry 200ms..210ms won", "no hedge 100ms budget-denied", "no hedge 150ms budget-denied"},
		},
		{
			"as gRFC A6 has it, it is not asked for again", after100(likeA6, func(p *policy.Policy) { p.Retry.MaxAttempts = 3 }), []testsrv.Step{after(500*ms, testsrv.OK())}, 210 * ms,
			[]string{"original 0s..500ms won", "no hedge 100ms budget-denied", "no hedge 200ms budget-denied"},
		},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				b := new(tight)
				c := newClient(t, srv, interceptor.WithPolicy(r.policy), b.inTarget()).ready()
				c.number(testsrv.Get, r.steps...)
				time.AfterFunc(r.grant, func() { b.left.Store(1) })
				tl, _ := c.call(t.Context(), testsrv.Get)
				assert.Equal(t, r.attempts, raced(tl), "%v", tl)
				for _, a := range tl.Attempts {
					if a.Kind == budget.Hedge {
						assert.Equal(t, interceptor.WaitBudget, a.WaitedOn)
						assert.Equal(t, a.Start.Sub(tl.Start), a.Wait, "the delay, and then for the budget")
					}
				}
			})
		})
	}
}

// TestLongestWaitingFirst: when an attempt ends the first in the queue asks, and nobody
// before it.
func TestLongestWaitingFirst(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		b := new(tight)
		c := newClient(t, srv, interceptor.WithPolicy(after100(func(p *policy.Policy) { p.Retry.MaxAttempts = 2 })), b.inTarget()).ready()
		srv.Handle(testsrv.Get, func(a testsrv.Arrival) testsrv.Step {
			if a.Previous == 0 {
				return testsrv.Hang()
			}
			return after(100*ms, testsrv.OK())
		})
		srv.Script(testsrv.Put, testsrv.OK()) // another method, in the same budget
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var calls sync.WaitGroup
		slow := make([]*interceptor.Timeline, 4)
		for i := range slow {
			virtual.Sleep(10 * ms)
			calls.Go(func() { slow[i], _ = c.call(ctx, testsrv.Get) })
		}
		virtual.Sleep(150*ms - time.Since(begun)) // all have been denied by now, the first at 110 ms
		assert.Equal(t, int64(4), b.asked.Load(), "whoever comes later has the first ask, and does not ask")
		b.left.Store(1)
		_, err := c.call(t.Context(), testsrv.Put) // a method of its own calls nobody
		require.NoError(t, err)
		assert.Equal(t, int64(4), b.asked.Load())

		quick := func() { // an attempt of the method that ends
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := c.call(ctx, testsrv.Get)
			require.Equal(t, codes.Canceled, status.Code(err))
		}
		quick()
		virtual.Sleep(20 * ms)
		b.left.Store(1)
		quick()
		virtual.Sleep(15 * ms) // 185 ms
		b.left.Store(0)
		calls.Wait() // the others ask each for themselves, or when a hedge has ended
		var started []string
		for _, tl := range slow[:2] {
			require.Len(t, tl.Attempts, 2)
			started = append(started, fmt.Sprint(tl.Attempts[1].Start.Sub(begun)))
		}
		assert.Equal(t, []string{"150ms", "170ms"}, started)
	})
}

// TestDeniedHedgesAreBounded: a call that is denied for an hour asks ever more slowly, tells
// of one denial, and leaves nothing behind.
func TestDeniedHedgesAreBounded(t *testing.T) {
	t.Parallel()
	for name, delay := range map[string]time.Duration{"6 ms": 6 * ms, "no delay": policy.NoWait} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				b, events := new(tight), new(countingObserver)
				c := newClient(t, srv, interceptor.WithPolicy(after100(func(p *policy.Policy) { p.Hedge.Delay = delay })), b.inTarget(), interceptor.WithObserver(events)).ready()
				srv.Script(testsrv.Get, testsrv.Hang())
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				tl, err := c.call(ctx, testsrv.Get)
				require.Equal(t, codes.DeadlineExceeded, status.Code(err))
				assert.Len(t, tl.Attempts, 1)
				assert.Len(t, tl.Denials, 1)
				assert.Equal(t, int64(1), events.denied.Load())
				assert.Less(t, b.asked.Load(), int64(3700), "about one in a second")
			})
		})
	}
}

// countingObserver counts denials.
type countingObserver struct{ denied atomic.Int64 }

func (*countingObserver) Start(ctx context.Context, _ *interceptor.Event) context.Context {
	return ctx
}

func (o *countingObserver) Observe(_ context.Context, e *interceptor.Event) {
	if e.Kind == interceptor.AttemptDenied {
		o.denied.Add(1)
	}
}

// TestStallAsksLittle: for 200 calls that all stall the budget is asked once each time
// one ends, and at their own pace, which becomes slow.
func TestStallAsksLittle(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		b := new(tight)
		c := newClient(t, srv, interceptor.WithPolicy(after100(func(p *policy.Policy) { p.Hedge.Delay = 6 * ms })), b.inTarget()).ready()
		srv.Script(testsrv.Get, testsrv.Hang())
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var calls sync.WaitGroup
		for range 200 {
			calls.Go(func() { _, _ = c.call(ctx, testsrv.Get) })
		}
		calls.Wait()
		assert.Less(t, b.asked.Load(), int64(200*(7+10)), "while the pace doubles, and then once a second")
		assert.Greater(t, b.asked.Load(), int64(200*10))
	})
}

// TestDeniedHedgeOfStream: until the first message a stream asks again as a call does.
func TestDeniedHedgeOfStream(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		b := new(tight)
		c := newClient(t, srv, interceptor.WithPolicy(after100(func(p *policy.Policy) { p.Idempotency = classify.Idempotent })), b.inTarget()).ready()
		c.number(testsrv.Watch, testsrv.Hang(), testsrv.Do(testsrv.Send(1), testsrv.OK()))
		time.AfterFunc(150*ms, func() { b.left.Store(1) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var tl interceptor.Timeline
		s, err := testv1.NewTestServiceClient(c.conn).Watch(ctx, &testv1.WatchRequest{}, interceptor.WithTimeline(&tl))
		require.NoError(t, err)
		for err == nil {
			_, err = s.Recv()
		}
		assert.Equal(t, []string{"original 0s..200ms lost at 200ms", "hedge 200ms..200ms won", "no hedge 100ms budget-denied"}, raced(&tl), "%v", &tl)
	})
}

// TestSocketDeniedHedge: the same over a socket, in real time.
func TestSocketDeniedHedge(t *testing.T) {
	t.Parallel()
	srv := testsrv.Start(t, testsrv.TCP(""))
	b := new(tight)
	c := newClient(t, srv, interceptor.WithPolicy(after100(func(p *policy.Policy) { p.Hedge.Delay, p.Retry.MaxAttempts = ms, 2 })), b.inTarget()).ready()
	c.number(testsrv.Get, testsrv.Hang(), testsrv.OK())
	deniedOnce := make(chan struct{})
	go func() { // ends when the call has been denied
		<-deniedOnce
		b.left.Store(1)
	}()
	tl, err := c.call(t.Context(), testsrv.Get, interceptor.WithObserver(whenDenied(func() { close(deniedOnce) })))
	require.NoError(t, err, "%v", tl)
	require.Len(t, tl.Attempts, 2)
	assert.Equal(t, interceptor.AttemptWon, tl.Attempts[1].Result)
	assert.Equal(t, interceptor.WaitBudget, tl.Attempts[1].WaitedOn)
	require.Len(t, tl.Denials, 1)
	assert.Equal(t, tl.Denials[0].Wait+tl.Attempts[1].Start.Sub(tl.Denials[0].Time), tl.Attempts[1].Wait)
}

// whenDenied is called for each denial.
type whenDenied func()

func (whenDenied) Start(ctx context.Context, _ *interceptor.Event) context.Context { return ctx }
func (f whenDenied) Observe(_ context.Context, e *interceptor.Event) {
	if e.Kind == interceptor.AttemptDenied {
		f()
	}
}

// TestDeniedHedgesRace: calls that are denied, called, granted, answered and cancelled all
// at the same moments neither hang nor leak.
func TestDeniedHedgesRace(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		b := grantHedges(0)
		unary := newInterceptor(t, interceptor.WithPolicy(after100(func(p *policy.Policy) { p.Hedge.Delay = ms })), b.inTarget()).Unary()
		var calls sync.WaitGroup
		for i := range 100 {
			calls.Go(func() {
				for j := range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(4+(i+j)%5)*ms)
					_ = unary(ctx, testsrv.Get, nil, new(testv1.GetResponse), nil,
						func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
							if (i+j)%3 == 0 {
								b.budget.(*hedges).left.Store(1)
							}
							return sleepFor(ctx, time.Duration((i*j)%7/attemptNumber(ctx))*ms)
						})
					cancel()
				}
			})
		}
		calls.Wait()
		assert.Zero(t, b.held)
		for _, result := range []string{"hedge success", "hedge neutral"} {
			assert.True(t, slices.Contains(b.results, result), result)
		}
	})
}
