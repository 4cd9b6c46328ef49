package interceptor_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/hedge"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// trigger is a trigger that does as a test wants it, and notes what it is asked and told.
type trigger struct {
	next  func(c hedge.Call) (time.Duration, hedge.State)
	ended func(a hedge.EndedAttempt)

	mu    sync.Mutex
	asked []string
	told  []string
}

func (tr *trigger) Next(c hedge.Call) (time.Duration, hedge.State) {
	tr.mu.Lock()
	tr.asked = append(tr.asked, fmt.Sprintf("%d run @%v, the last for %v", c.Running, c.Elapsed, c.SinceLast))
	tr.mu.Unlock()
	return tr.next(c)
}

func (tr *trigger) Ended(a hedge.EndedAttempt) {
	tr.mu.Lock()
	tr.told = append(tr.told, fmt.Sprintf("%d %v %v complete=%v %v", a.Number, a.End.Sub(a.Start), status.Code(a.Err), a.Complete, a.Trailer["load"]))
	tr.mu.Unlock()
	if tr.ended != nil {
		tr.ended(a)
	}
}

// each wants a hedge each time d has passed, as hedge.Fixed.
func each(d time.Duration) func(hedge.Call) (time.Duration, hedge.State) {
	return func(c hedge.Call) (time.Duration, hedge.State) { return d - c.SinceLast, hedge.Ready }
}

func declined(hedge.Call) (time.Duration, hedge.State) { return 0, hedge.Declined }

// triggered is a policy that names the trigger "mine", with four attempts.
func triggered(change ...func(*policy.Policy)) policy.Policy {
	return exact(append([]func(*policy.Policy){func(p *policy.Policy) { p.Hedge.Trigger, p.Retry.MaxAttempts = "mine", 4 }}, change...)...)
}

func reports(load string, then testsrv.Step) testsrv.Step {
	return testsrv.Do(testsrv.Trailer(metadata.Pairs("load", load)), then)
}

// TestTriggerRules: when a trigger is asked, what follows from what it says, and what it is
// told.
func TestTriggerRules(t *testing.T) {
	t.Parallel()
	hang, ok := testsrv.Hang(), testsrv.OK()
	for _, r := range []struct {
		name     string
		next     func(hedge.Call) (time.Duration, hedge.State)
		steps    []testsrv.Step
		attempts []string
		asked    []string
		told     []string
	}{
		{
			"as a fixed delay", each(100 * ms), []testsrv.Step{hang, hang, reports("7", after(50*ms, ok))},
			[]string{"original 0s..250ms lost at 250ms", "hedge 100ms..250ms lost at 250ms", "hedge 200ms..250ms won"},
			[]string{
				"1 run @0s, the last for 0s", "1 run @100ms, the last for 100ms", "2 run @100ms, the last for 0s",
				"2 run @200ms, the last for 100ms", "3 run @200ms, the last for 0s",
			},
			[]string{"3 50ms OK complete=true [7]", "1 250ms Canceled complete=false []", "2 150ms Canceled complete=false []"},
		},
		{
			"each hedge at its own time", func(c hedge.Call) (time.Duration, hedge.State) {
				at := []time.Duration{0, 100 * ms, 110 * ms, 300 * ms}
				return at[c.Running] - c.Elapsed, hedge.Ready
			}, []testsrv.Step{after(200*ms, ok), hang, hang},
			[]string{"original 0s..200ms won", "hedge 100ms..200ms lost at 200ms", "hedge 110ms..200ms lost at 200ms"}, nil, nil,
		},
		{
			"put off", func(c hedge.Call) (time.Duration, hedge.State) {
				if c.Elapsed < 150*ms {
					return 50 * ms, hedge.Ready
				}
				return 0, hedge.Ready
			}, []testsrv.Step{hang, after(10*ms, ok), hang},
			[]string{"original 0s..160ms lost at 160ms", "hedge 150ms..160ms won", "hedge 150ms..160ms lost at 160ms", "hedge 150ms..160ms lost at 160ms"}, nil, nil,
		},
		{
			"none from the start", declined, []testsrv.Step{reports("3", after(500*ms, ok))},
			[]string{"original 0s..500ms won", "no hedge 0s trigger"},
			[]string{"1 run @0s, the last for 0s"}, []string{"1 500ms OK complete=true [3]"},
		},
		{
			"none when the first is due", func(c hedge.Call) (time.Duration, hedge.State) {
				if c.Elapsed > 0 {
					return 0, hedge.Declined
				}
				return 100 * ms, hedge.Ready
			}, []testsrv.Step{after(500*ms, ok)},
			[]string{"original 0s..500ms won", "no hedge 100ms trigger"},
			[]string{"1 run @0s, the last for 0s", "1 run @100ms, the last for 100ms"}, nil,
		},
		{
			"one and no more, also not in the place of a failed one", func(c hedge.Call) (time.Duration, hedge.State) {
				if c.Running > 1 {
					return 0, hedge.Declined
				}
				return 100*ms - c.SinceLast, hedge.Ready
			}, []testsrv.Step{after(500*ms, ok), down},
			[]string{"original 0s..500ms won", "hedge 100ms..100ms failed", "no hedge 100ms trigger"}, nil,
			[]string{"2 0s Unavailable complete=false []", "1 500ms OK complete=true []"},
		},
		{
			"a built-in delay within", func(c hedge.Call) (time.Duration, hedge.State) { return hedge.Fixed(30 * ms).Next(c) },
			[]testsrv.Step{hang, after(10*ms, ok)}, []string{"original 0s..40ms lost at 40ms", "hedge 30ms..40ms won"}, nil, nil,
		},
		{
			"a built-in delay within, which does not know yet", func(c hedge.Call) (time.Duration, hedge.State) { return 0, hedge.Cold },
			[]testsrv.Step{after(10*ms, ok)}, []string{"original 0s..10ms won", "no hedge 0s few-samples"}, nil, nil,
		},
		{
			"a failure is replaced at once, and those after it are asked for", each(100 * ms), []testsrv.Step{after(30*ms, down), hang, after(50*ms, ok)},
			[]string{"original 0s..30ms failed", "hedge 30ms..180ms lost at 180ms", "hedge 130ms..180ms won"},
			[]string{"1 run @0s, the last for 0s", "1 run @30ms, the last for 0s", "1 run @130ms, the last for 100ms", "2 run @130ms, the last for 0s"}, nil,
		},
		{
			"a retry begins a round, for which it is asked anew", each(100 * ms), []testsrv.Step{pushback("20"), hang, after(50*ms, ok)},
			[]string{"original 0s..0s failed", "retry 20ms..170ms lost at 170ms", "hedge 120ms..170ms won"},
			[]string{"1 run @0s, the last for 0s", "1 run @20ms, the last for 0s", "1 run @120ms, the last for 100ms", "2 run @120ms, the last for 0s"}, nil,
		},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				tr := &trigger{next: r.next}
				c := newClient(t, srv, interceptor.WithPolicy(triggered()), interceptor.WithTrigger("mine", tr), interceptor.WithTargetBudget(unlimited)).ready()
				c.number(testsrv.Get, r.steps...)
				tl, err := c.call(t.Context(), testsrv.Get)
				require.NoError(t, err)
				assert.Equal(t, r.attempts, raced(tl), "%v", tl)
				if r.asked != nil {
					assert.Equal(t, r.asked, tr.asked)
				}
				if r.told != nil {
					assert.ElementsMatch(t, r.told, tr.told)
				}
				assert.Len(t, tr.told, len(tl.Attempts))
			})
		})
	}
}

// TestTriggerIsAskedSlowly: one that puts a hedge off by nothing, again and again, is asked
// each millisecond.
func TestTriggerIsAskedSlowly(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		tr := &trigger{next: func(hedge.Call) (time.Duration, hedge.State) { return 1, hedge.Ready }}
		c := newClient(t, srv, interceptor.WithPolicy(triggered()), interceptor.WithTrigger("mine", tr)).ready()
		srv.Script(testsrv.Get, after(100*ms, testsrv.OK()))
		tl, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)
		assert.Len(t, tl.Attempts, 1)
		assert.Empty(t, tl.Denials)
		assert.InDelta(t, 100, len(tr.asked), 3)
	})
}

// TestTriggerWithinBudget: MaxExtraLoad beside a trigger bounds what it wants.
func TestTriggerWithinBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		unary := newInterceptor(t, interceptor.WithPolicy(triggered(func(p *policy.Policy) { p.Hedge.MaxExtraLoad = 0.02 })),
			interceptor.WithTrigger("mine", &trigger{next: each(0)}), interceptor.WithTargetBudget(unlimited)).Unary()
		hedges := 0
		for range 1500 {
			err := unary(t.Context(), testsrv.Get, nil, new(testv1.GetResponse), nil,
				func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
					if attemptNumber(ctx) > 1 {
						hedges++ // one at a time
					}
					return sleepFor(ctx, 10*ms)
				})
			require.NoError(t, err)
		}
		assert.InDelta(t, 30, hedges, 2)
	})
}

// TestTriggerPanics: the call goes on without hedges, and it is logged once.
func TestTriggerPanics(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name     string
		next     func(hedge.Call) (time.Duration, hedge.State)
		ended    func(hedge.EndedAttempt)
		attempts []string
	}{
		{"asked at the start", func(hedge.Call) (time.Duration, hedge.State) { panic("next") }, nil, []string{"original 0s..500ms won", "no hedge 0s trigger"}},
		{
			"asked when a hedge is due", func(c hedge.Call) (time.Duration, hedge.State) {
				if c.Elapsed > 0 {
					panic("next")
				}
				return 100 * ms, hedge.Ready
			}, nil, []string{"original 0s..500ms won", "no hedge 100ms trigger"},
		},
		{
			"asked when a hedge has started", func(c hedge.Call) (time.Duration, hedge.State) {
				if c.Running > 1 {
					panic("next")
				}
				return 100*ms - c.SinceLast, hedge.Ready
			}, nil, []string{"original 0s..500ms won", "hedge 100ms..100ms failed", "no hedge 100ms trigger"},
		},
		{"told of the first end", each(100 * ms), func(hedge.EndedAttempt) { panic("ended") }, []string{"original 0s..500ms won", "hedge 100ms..100ms failed"}},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				c := newClient(t, srv, interceptor.WithPolicy(triggered()), interceptor.WithTrigger("mine", &trigger{next: r.next, ended: r.ended}),
					interceptor.WithTargetBudget(unlimited), interceptor.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))).ready()
				c.number(testsrv.Get, after(500*ms, testsrv.OK()), down)
				for range 3 {
					tl, err := c.call(t.Context(), testsrv.Get)
					require.NoError(t, err)
					assert.Equal(t, r.attempts, raced(tl), "%v", tl)
				}
			})
			assert.Equal(t, 1, strings.Count(log.String(), "a trigger panicked"), log.String())
			assert.Contains(t, log.String(), "trigger=mine")
		})
	}
}

// TestTriggerIsCalledWithoutLocks: it may make calls itself.
func TestTriggerIsCalledWithoutLocks(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		var c client
		put := func() {
			if _, err := c.call(t.Context(), testsrv.Put, interceptor.WithPolicy(policy.Policy{})); err != nil {
				t.Error(err)
			}
		}
		tr := &trigger{next: func(call hedge.Call) (time.Duration, hedge.State) { put(); return 100*ms - call.SinceLast, hedge.Ready }, ended: func(hedge.EndedAttempt) { put() }}
		c = newClient(t, srv, interceptor.WithPolicy(triggered()), interceptor.WithTrigger("mine", tr), interceptor.WithTargetBudget(unlimited)).ready()
		c.number(testsrv.Get, testsrv.Hang(), after(10*ms, testsrv.OK()))
		_, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)
		assert.Equal(t, len(tr.asked)+len(tr.told), srv.Count(testsrv.Put))
	})
}

// TestTriggerOfStreams: an attempt counts as ended once its first message is there.
func TestTriggerOfStreams(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		tr := &trigger{next: each(100 * ms)}
		c := newClient(t, srv, interceptor.WithPolicy(triggered(func(p *policy.Policy) { p.Idempotency = classify.Idempotent })),
			interceptor.WithTrigger("mine", tr), interceptor.WithTargetBudget(unlimited)).ready()
		c.number(testsrv.Watch, testsrv.Hang(), testsrv.Do(testsrv.Delay(10*ms), testsrv.Send(1), testsrv.Delay(time.Minute), reports("9", testsrv.OK())))
		s, err := testv1.NewTestServiceClient(c.conn).Watch(t.Context(), &testv1.WatchRequest{})
		require.NoError(t, err)
		_, err = s.Recv()
		require.NoError(t, err)
		synctest.Wait()
		want := []string{"2 10ms OK complete=true []", "1 110ms Canceled complete=false []"}
		assert.ElementsMatch(t, want, tr.told)
		for err == nil {
			_, err = s.Recv()
		}
		assert.ElementsMatch(t, want, tr.told)
	})
}

// TestUnknownTriggers are refused where the policy is accepted.
func TestUnknownTriggers(t *testing.T) {
	t.Parallel()
	p := policy.Policy{Name: "users", Hedge: policy.Hedge{Trigger: "none-such"}}
	const fault = `hedge.trigger: no trigger is named "none-such"`
	_, err := interceptor.New(interceptor.WithPolicy(p))
	require.EqualError(t, err, `rego: rules[0]: policy "users": `+fault)

	st := new(policy.Store)
	set := policy.Set{Rules: []policy.Rule{{Methods: []string{"*"}, Policy: p}}}
	it := newInterceptor(t, interceptor.WithPolicies(st), interceptor.WithTrigger("mine", &trigger{next: declined}))
	require.EqualError(t, st.Update(set), `rules[0]: policy "users": `+fault)
	set.Rules[0].Policy.Hedge.Trigger = "mine"
	require.NoError(t, st.Update(set))

	err = it.Unary()(t.Context(), testsrv.Get, nil, new(testv1.GetResponse), nil,
		func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
			t.Error("it is sent")
			return nil
		}, interceptor.WithPolicy(p))
	assert.Equal(t, codes.Internal, status.Code(err))
	assert.Contains(t, err.Error(), fault)
}

// TestNoTrigger: nil never wants a hedge.
func TestNoTrigger(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(triggered()), interceptor.WithTrigger("mine", nil)).ready()
		tl, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)
		assert.Equal(t, []string{"original 0s..0s won", "no hedge 0s trigger"}, raced(tl))
	})
}

// TestSocketTrigger: what a server reports in a trailer decides over a socket, too.
func TestSocketTrigger(t *testing.T) {
	t.Parallel()
	srv := testsrv.Start(t, testsrv.TCP(""))
	busy := false // calls come one after the other
	var mu sync.Mutex
	tr := &trigger{next: func(c hedge.Call) (time.Duration, hedge.State) {
		mu.Lock()
		defer mu.Unlock()
		if !busy {
			return 0, hedge.Declined
		}
		return ms - c.SinceLast, hedge.Ready
	}, ended: func(a hedge.EndedAttempt) {
		mu.Lock()
		defer mu.Unlock()
		if load := a.Trailer.Get("load"); len(load) > 0 {
			busy = load[0] == "high"
		}
	}}
	c := newClient(t, srv, interceptor.WithPolicy(triggered(func(p *policy.Policy) { p.Retry.MaxAttempts = 2 })), interceptor.WithTrigger("mine", tr),
		interceptor.WithTargetBudget(unlimited)).ready()
	for _, r := range []struct {
		steps    []testsrv.Step
		attempts int
	}{
		{[]testsrv.Step{reports("low", testsrv.OK())}, 1},
		{[]testsrv.Step{reports("high", testsrv.OK())}, 1},
		{[]testsrv.Step{testsrv.Hang(), reports("low", testsrv.OK())}, 2},
		{[]testsrv.Step{testsrv.OK()}, 1},
	} {
		c.number(testsrv.Get, r.steps...)
		tl, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)
		assert.Len(t, tl.Attempts, r.attempts, "%v", tl)
	}
}
