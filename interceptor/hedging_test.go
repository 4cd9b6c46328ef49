package interceptor_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// after100 hedges every 100 ms, with four attempts in all.
func after100(change ...func(*policy.Policy)) policy.Policy {
	return exact(append([]func(*policy.Policy){func(p *policy.Policy) {
		p.Hedge.Delay = 100 * ms
		p.Retry.MaxAttempts = 4
	}}, change...)...)
}

// likeA6 has no retries besides hedging, and gRPC's rules, as a hedgingPolicy of gRFC A6.
func likeA6(p *policy.Policy) { p.Retry.Off, p.AsGRPC = true, true }

func after(d time.Duration, then testsrv.Step) testsrv.Step {
	return testsrv.Do(testsrv.Delay(d), then)
}

// ready waits until the connection is, so that the first call can be hedged.
func (c client) ready() client {
	c.Helper()
	for s := c.conn.GetState(); s != connectivity.Ready; s = c.conn.GetState() {
		c.conn.Connect()
		require.True(c, c.conn.WaitForStateChange(c.Context(), s))
	}
	return c
}

// number makes attempts execute the step of their number, whichever arrives first.
func (c client) number(method string, steps ...testsrv.Step) {
	c.srv.Handle(method, func(a testsrv.Arrival) testsrv.Step { return steps[min(a.Previous, len(steps)-1)] })
}

// raced is an attempt as a timeline has it: kind, from, to, what became of it.
func raced(tl *interceptor.Timeline) (seen []string) {
	for i, a := range tl.Attempts {
		if a.Number != i+1 {
			return []string{"out of order"}
		}
		s := fmt.Sprintf("%s %v..%v %s", a.Kind, a.Start.Sub(tl.Start), a.End.Sub(tl.Start), a.Result)
		if !a.CancelledAt.IsZero() {
			s += fmt.Sprintf(" at %v", a.CancelledAt.Sub(tl.Start))
		}
		seen = append(seen, s)
	}
	for _, d := range tl.Denials {
		seen = append(seen, fmt.Sprintf("no %s %v %s", d.Kind, d.Time.Sub(tl.Start), d.Reason))
	}
	return seen
}

// TestHedgingRules has the rules of gRFC A6, and rego's own, one by one: what each
// attempt does at the server, and when attempts begin and end. docs/conformance.md
// names its rows.
func TestHedgingRules(t *testing.T) {
	t.Parallel()
	hang, ok := testsrv.Hang(), testsrv.OK()
	script := func(s ...testsrv.Step) []testsrv.Step { return s }
	fatal := testsrv.Fail(codes.NotFound, "fatal")
	for _, r := range []struct {
		name     string
		policy   policy.Policy
		steps    []testsrv.Step // of the attempts, by their numbers
		deadline time.Duration
		code     codes.Code
		reason   interceptor.EndReason
		attempts []string
	}{
		{
			name: "an answer before the delay", policy: after100(),
			steps: script(after(99*ms, ok)), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..99ms won"},
		},
		{
			name: "a hedge each delay, up to MaxAttempts", policy: after100(),
			steps: script(hang), deadline: time.Second, code: codes.DeadlineExceeded, reason: interceptor.EndDeadline,
			attempts: []string{"original 0s..1s cancelled", "hedge 100ms..1s cancelled", "hedge 200ms..1s cancelled", "hedge 300ms..1s cancelled"},
		},
		{
			name: "the first answer wins, all others are cancelled", policy: after100(),
			steps: script(hang, hang, after(30*ms, ok)), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..230ms lost at 230ms", "hedge 100ms..230ms lost at 230ms", "hedge 200ms..230ms won"},
		},
		{
			name: "the original may win", policy: after100(),
			steps: script(after(150*ms, ok), hang), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..150ms won", "hedge 100ms..150ms lost at 150ms"},
		},
		{
			name: "a retryable failure starts the next hedge at once, and those after it at the delay", policy: after100(),
			steps: script(after(30*ms, down), hang, after(50*ms, ok)), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..30ms failed", "hedge 30ms..180ms lost at 180ms", "hedge 130ms..180ms won"},
		},
		{
			name: "a retryable failure of a hedge, too", policy: after100(),
			steps: script(hang, after(20*ms, down), after(50*ms, ok)), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..170ms lost at 170ms", "hedge 100ms..120ms failed", "hedge 120ms..170ms won"},
		},
		{
			name: "a fatal status of a hedge ends the call, as gRFC A6 has it", policy: after100(likeA6),
			steps: script(hang, hang, after(20*ms, fatal)), code: codes.NotFound, reason: interceptor.EndNonRetryable,
			attempts: []string{"original 0s..220ms cancelled at 220ms", "hedge 100ms..220ms cancelled at 220ms", "hedge 200ms..220ms failed"},
		},
		{
			name: "what every attempt would be told ends the call", policy: after100(),
			steps: script(hang, hang, after(20*ms, testsrv.Fail(codes.InvalidArgument, ""))), code: codes.InvalidArgument, reason: interceptor.EndNonRetryable,
			attempts: []string{"original 0s..220ms cancelled at 220ms", "hedge 100ms..220ms cancelled at 220ms", "hedge 200ms..220ms failed"},
		},
		{
			name: "what a hedge alone is told does not, and there are no more hedges", policy: after100(),
			steps: script(after(500*ms, ok), testsrv.Fail(codes.ResourceExhausted, "")), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..500ms won", "hedge 100ms..100ms failed"},
		},
		{
			name: "of a hedge that is refused and an original that fails, the original decides", policy: after100(),
			steps: script(after(150*ms, down), testsrv.Fail(codes.Unauthenticated, ""), ok), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..150ms failed", "hedge 100ms..100ms failed", "retry 200ms..200ms won"},
		},
		{
			name: "of an original that fails and a hedge that is refused, the hedge decides", policy: after100(),
			steps: script(after(120*ms, down), after(50*ms, fatal), after(10*ms, fatal)), code: codes.NotFound, reason: interceptor.EndNonRetryable,
			attempts: []string{"original 0s..120ms failed", "hedge 100ms..150ms failed", "hedge 120ms..130ms failed"},
		},
		{
			name: "a fatal status of the original ends the call", policy: after100(),
			steps: script(after(150*ms, fatal), hang), code: codes.NotFound, reason: interceptor.EndNonRetryable,
			attempts: []string{"original 0s..150ms failed", "hedge 100ms..150ms cancelled at 150ms"},
		},
		{
			name: "a failing hedge never beats a running attempt", policy: after100(),
			steps: script(after(500*ms, ok), down), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..500ms won", "hedge 100ms..100ms failed", "hedge 100ms..100ms failed", "hedge 100ms..100ms failed"},
		},
		{
			name: "all fail: the last one's status", policy: after100(),
			steps: script(after(150*ms, testsrv.Fail(codes.Unavailable, "first")), after(10*ms, testsrv.Fail(codes.Unavailable, "second")), after(200*ms, testsrv.Fail(codes.Unavailable, "third")), after(10*ms, testsrv.Fail(codes.Unavailable, "fourth"))),
			code:  codes.Unavailable, reason: interceptor.EndAttemptsExhausted,
			attempts: []string{"original 0s..150ms failed", "hedge 100ms..110ms failed", "hedge 110ms..310ms failed", "hedge 150ms..160ms failed"},
		},
		{
			name: "all fail at once", policy: after100(),
			steps: script(down), code: codes.Unavailable, reason: interceptor.EndAttemptsExhausted,
			attempts: []string{"original 0s..0s failed", "hedge 0s..0s failed", "hedge 0s..0s failed", "hedge 0s..0s failed"},
		},
		{
			name: "no delay: all at once", policy: after100(func(p *policy.Policy) { p.Hedge.Delay = policy.NoWait }),
			steps: script(after(40*ms, ok), after(30*ms, down), after(20*ms, ok), hang), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..20ms lost at 20ms", "hedge 0s..20ms lost at 20ms", "hedge 0s..20ms won", "hedge 0s..20ms lost at 20ms"},
		},
		{
			name: "the cap of the interceptor", policy: after100(func(p *policy.Policy) { p.Retry.MaxAttempts = 50 }),
			steps: script(hang), deadline: time.Second, code: codes.DeadlineExceeded, reason: interceptor.EndDeadline,
			attempts: []string{"original 0s..1s cancelled", "hedge 100ms..1s cancelled", "hedge 200ms..1s cancelled", "hedge 300ms..1s cancelled", "hedge 400ms..1s cancelled"},
		},
		{
			name: "one attempt", policy: after100(func(p *policy.Policy) { p.Retry.MaxAttempts = 1 }),
			steps: script(after(500*ms, ok)), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..500ms won"},
		},

		{
			name: "pushback that forbids: no more hedges, running attempts go on", policy: after100(),
			steps: script(after(500*ms, ok), pushback("-1")), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..500ms won", "hedge 100ms..100ms failed"},
		},
		{
			name: "pushback that forbids, and all fail", policy: after100(),
			steps: script(after(500*ms, down), pushback("no")), code: codes.Unavailable, reason: interceptor.EndPushback,
			attempts: []string{"original 0s..500ms failed", "hedge 100ms..100ms failed"},
		},
		{
			name: "pushback that forbids, to the original alone", policy: after100(),
			steps: script(pushback("-1")), code: codes.Unavailable, reason: interceptor.EndPushback,
			attempts: []string{"original 0s..0s failed"},
		},
		{
			name: "pushback with a fatal status", policy: after100(likeA6),
			steps: script(hang, testsrv.Do(testsrv.Pushback("-1"), fatal)), code: codes.NotFound, reason: interceptor.EndPushback,
			attempts: []string{"original 0s..100ms cancelled at 100ms", "hedge 100ms..100ms failed"},
		},
		{
			name: "pushback delays the next hedge, those after it come at the delay", policy: after100(),
			steps: script(hang, pushback("250"), hang, after(10*ms, ok)), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..460ms lost at 460ms", "hedge 100ms..100ms failed", "hedge 350ms..460ms lost at 460ms", "hedge 450ms..460ms won"},
		},
		{
			name: "pushback may bring the next hedge forward", policy: after100(),
			steps: script(hang, pushback("20"), after(10*ms, ok)), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..130ms lost at 130ms", "hedge 100ms..100ms failed", "hedge 120ms..130ms won"},
		},
		{
			name: "pushback of 0: at once", policy: after100(),
			steps: script(hang, pushback("0"), after(10*ms, ok)), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..110ms lost at 110ms", "hedge 100ms..100ms failed", "hedge 100ms..110ms won"},
		},
		{
			name: "pushback when nothing else runs, with retries", policy: after100(),
			steps: script(pushback("70"), hang, after(10*ms, ok)), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..0s failed", "retry 70ms..180ms lost at 180ms", "hedge 170ms..180ms won"},
		},
		{
			name: "pushback when nothing else runs, as gRFC A6 has it", policy: after100(likeA6),
			steps: script(pushback("70"), hang, after(10*ms, ok)), reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..0s failed", "hedge 70ms..180ms lost at 180ms", "hedge 170ms..180ms won"},
		},
		{
			name: "pushback after the last attempt", policy: after100(func(p *policy.Policy) { p.Retry.MaxAttempts = 2 }),
			steps: script(after(200*ms, pushback("70"))), code: codes.Unavailable, reason: interceptor.EndAttemptsExhausted,
			attempts: []string{"original 0s..200ms failed", "hedge 100ms..300ms failed"},
		},

		{
			name: "an attempt timeout on each", policy: after100(func(p *policy.Policy) { p.AttemptTimeout = 150 * ms }),
			steps: script(hang), code: codes.DeadlineExceeded, reason: interceptor.EndAttemptsExhausted,
			attempts: []string{"original 0s..150ms failed", "hedge 100ms..250ms failed", "hedge 150ms..300ms failed", "hedge 250ms..400ms failed"},
		},
		{
			name: "when no attempt is left, those that run have what is left of the deadline", policy: after100(func(p *policy.Policy) { p.AttemptTimeout = 150 * ms; p.Retry.MaxAttempts = 2 }),
			steps: script(hang, after(600*ms, ok)), deadline: time.Second, reason: interceptor.EndSucceeded,
			attempts: []string{"original 0s..700ms lost at 700ms", "hedge 100ms..700ms won"},
		},
		{
			name: "the policy's timeout", policy: after100(func(p *policy.Policy) { p.Timeout = 120 * ms }),
			steps: script(hang), code: codes.DeadlineExceeded, reason: interceptor.EndDeadline,
			attempts: []string{"original 0s..120ms cancelled", "hedge 100ms..120ms cancelled"},
		},
		{
			name: "listed codes are those that are not fatal", policy: after100(func(p *policy.Policy) { p.Retry.Codes, p.AsGRPC = []codes.Code{codes.Internal}, true }),
			steps: script(hang, testsrv.Fail(codes.Internal, ""), down), code: codes.Unavailable, reason: interceptor.EndNonRetryable,
			attempts: []string{"original 0s..100ms cancelled at 100ms", "hedge 100ms..100ms failed", "hedge 100ms..100ms failed"},
		},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				c := newClient(t, srv, interceptor.WithPolicy(r.policy), interceptor.WithTargetBudget(unlimited)).ready()
				c.number(testsrv.Get, r.steps...)
				ctx := t.Context()
				if r.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, r.deadline)
					defer cancel()
				}
				tl, err := c.call(ctx, testsrv.Get)
				assert.Equal(t, r.attempts, raced(tl), "%v", tl)
				assert.Equal(t, r.code, status.Code(err))
				assert.Equal(t, r.reason, tl.Reason, "%v", tl)
				sent := len(tl.Attempts)
				virtual.Sleep(time.Hour)
				assert.Equal(t, sent, srv.Count(testsrv.Get), "nothing is sent after the call")
				for _, a := range srv.Arrivals(testsrv.Get) {
					switch tl.Attempts[a.Previous].Result {
					case interceptor.AttemptLost, interceptor.AttemptCancelled:
						assert.True(t, a.Cancelled, "attempt %d at the server", a.Previous+1)
					case interceptor.AttemptWon:
						assert.False(t, a.Cancelled, "attempt %d at the server", a.Previous+1)
					default:
					}
				}
			})
		})
	}
}

func unlimited(string) budget.Budget { return nil }

// TestHedgesNeedAReadyChannel: another attempt would wait for the connection, as
// the one beside it does.
func TestHedgesNeedAReadyChannel(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(after100()))
		require.NoError(t, srv.Refuse(true))
		time.AfterFunc(250*ms, func() { _ = srv.Refuse(false) }) // grpc dials again after 0.8 to 1.2 s
		tl, err := c.call(t.Context(), testsrv.Get, grpc.WaitForReady(true))
		require.NoError(t, err)
		require.Len(t, tl.Attempts, 1)
		assert.Equal(t, []string{"no hedge 100ms not-ready", "no hedge 200ms not-ready", "no hedge 300ms not-ready"}, raced(tl)[1:],
			"each has had its place")
	})
}

// TestRetriesTakeOver when all attempts of a round have failed and attempts are
// left; the round that follows is hedged as well.
func TestRetriesTakeOver(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		b := grantHedges(1)
		c := newClient(t, srv, interceptor.WithPolicy(after100(func(p *policy.Policy) { p.Retry.MaxAttempts = 5 })),
			b.inTarget()).ready()
		c.number(testsrv.Get, after(150*ms, down), after(120*ms, down), down, testsrv.Hang(), after(10*ms, testsrv.OK()))
		time.AfterFunc(300*ms, func() { b.budget.(*hedges).left.Store(1) })
		tl, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)
		assert.Equal(t, []string{
			"original 0s..150ms failed",
			"hedge 100ms..220ms failed",
			"retry 270ms..270ms failed", // 50 ms of backoff after the last one
			"retry 370ms..480ms lost at 480ms",
			"hedge 470ms..480ms won",
			"no hedge 150ms budget-denied", // in place of the original
			"no hedge 220ms budget-denied",
			"no hedge 270ms budget-denied",
		}, raced(tl))
	})
}

// TestLeasesOfHedges: budgets hear how each attempt ended, and every lease returns.
func TestLeasesOfHedges(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name  string
		steps []testsrv.Step
		want  []string
	}{
		{"hedge wins", []testsrv.Step{testsrv.Hang(), testsrv.OK()}, []string{"hedge success", "original neutral"}},
		{"original wins", []testsrv.Step{after(150*ms, testsrv.OK()), testsrv.Hang()}, []string{"original success", "hedge neutral"}},
		{"hedge fails", []testsrv.Step{after(150*ms, testsrv.OK()), down}, []string{"hedge failure", "original success"}},
		{"hedge is fatal", []testsrv.Step{testsrv.Hang(), testsrv.Fail(codes.InvalidArgument, "")}, []string{"hedge neutral", "original neutral"}},
		{"hedge is refused", []testsrv.Step{after(150*ms, testsrv.OK()), testsrv.Fail(codes.ResourceExhausted, "")}, []string{"hedge neutral", "original success"}},
		{"hedge is pushed back", []testsrv.Step{after(150*ms, testsrv.OK()), pushback("-1")}, []string{"hedge failure", "original success"}},
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			b := grantHedges(1)
			c := newClient(t, srv, interceptor.WithPolicy(after100()), b.inTarget()).ready()
			c.number(testsrv.Get, r.steps...)
			_, _ = c.call(t.Context(), testsrv.Get)
			assert.Equal(t, r.want, b.results, r.name)
			assert.Zero(t, b.held, r.name)
		})
	}
}

// TestHedgesThatAreNotSentCostNothing: the caller is gone before they are.
func TestHedgesThatAreNotSentCostNothing(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		b := grantHedges(1)
		c := newClient(t, srv, interceptor.WithPolicy(after100()), b.inTarget()).ready()
		srv.Script(testsrv.Get, testsrv.Hang())
		ctx, cancel := context.WithTimeout(t.Context(), 200*ms)
		defer cancel()
		_, err := c.call(ctx, testsrv.Get, interceptor.WithObserver(leaver{cancel}))
		assert.Equal(t, codes.Canceled, status.Code(err))
		assert.Equal(t, 1, srv.Count(testsrv.Get))
		assert.ElementsMatch(t, []string{"hedge unsent", "original neutral"}, b.results)
	})
}

// leaver cancels the call when a hedge begins.
type leaver struct{ cancel context.CancelFunc }

func (l leaver) Start(ctx context.Context, e *interceptor.Event) context.Context {
	if e.Kind == interceptor.AttemptStart && e.Attempt.Kind == budget.Hedge {
		l.cancel()
	}
	return ctx
}
func (leaver) Observe(context.Context, *interceptor.Event) {}

// TestHedgingGate: only methods that are known to be idempotent are hedged.
func TestHedgingGate(t *testing.T) {
	t.Parallel()
	says := func(i classify.Idempotency) func(*policy.Policy) {
		return func(p *policy.Policy) { p.Idempotency = i }
	}
	for _, r := range []struct {
		name   string
		method string
		policy policy.Policy
		opts   []grpc.CallOption
		denied string // empty if hedged
	}{
		{"no side effects", testsrv.Get, after100(), nil, ""},
		{"idempotent", testsrv.Put, after100(), nil, ""},
		{"unknown", testsrv.Pay, after100(), nil, "not-idempotent"},
		{"unknown, the policy says idempotent", testsrv.Pay, after100(says(classify.Idempotent)), nil, ""},
		{"idempotent, the policy takes it back", testsrv.Put, after100(says(classify.NotIdempotent)), nil, "not-idempotent"},
		{"unknown, the call says idempotent", testsrv.Pay, after100(), []grpc.CallOption{interceptor.WithIdempotency(classify.Idempotent)}, ""},
		{"unknown, the call has a key", testsrv.Pay, after100(), []grpc.CallOption{interceptor.WithIdempotencyKey("")}, ""},
		{"idempotent, the call takes it back", testsrv.Put, after100(), []grpc.CallOption{interceptor.WithIdempotency(classify.NotIdempotent)}, "not-idempotent"},
		{"listed codes say nothing of running twice at a time", testsrv.Pay, after100(func(p *policy.Policy) { p.Retry.Codes = []codes.Code{codes.Unavailable} }), nil, "not-idempotent"},
		{"switched off", testsrv.Get, after100(func(p *policy.Policy) { p.Hedge.Off = true }), nil, "disabled"},
		{"too few samples", testsrv.Get, exact(func(p *policy.Policy) { p.Hedge.MaxExtraLoad = 0.02 }), nil, "few-samples"},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				c := newClient(t, srv, interceptor.WithPolicy(r.policy), interceptor.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))).ready()
				for range 3 {
					srv.Script(r.method, after(150*ms, testsrv.OK()), testsrv.Hang())
					tl, err := c.call(t.Context(), r.method, r.opts...)
					require.NoError(t, err)
					want := []string{"original 0s..150ms won", "hedge 100ms..150ms lost at 150ms"}
					if r.denied != "" {
						want = []string{want[0], "no hedge 0s " + r.denied}
					}
					assert.Equal(t, want, raced(tl))
				}
			})
			told := 0
			if r.denied == "not-idempotent" {
				told = 1
			}
			assert.Equal(t, told, strings.Count(log.String(), "not hedged"), log.String())
		})
	}
}

// TestHedgesOff: the switch of a set is for every policy, those in code among them.
func TestHedgesOff(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		st := new(policy.Store)
		c := newClient(t, srv, interceptor.WithPolicies(st), interceptor.WithPolicy(after100())).ready()
		srv.Script(testsrv.Get, after(150*ms, testsrv.OK()))
		for _, off := range []bool{false, true, false} {
			require.NoError(t, st.Update(policy.Set{HedgesOff: off}))
			tl, err := c.call(t.Context(), testsrv.Get)
			require.NoError(t, err)
			assert.Equal(t, off, len(tl.Attempts) == 1, "%v", tl)
		}
	})
}

// TestHedgeTooLate: a hedge that could not answer in time is not sent.
func TestHedgeTooLate(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(after100())).ready()
		srv.Script(testsrv.Get, after(20*ms, testsrv.OK()))
		for range 20 {
			_, err := c.call(t.Context(), testsrv.Get)
			require.NoError(t, err)
		}
		srv.Script(testsrv.Get, testsrv.Hang())
		ctx, cancel := context.WithTimeout(t.Context(), 115*ms)
		defer cancel()
		tl, err := c.call(ctx, testsrv.Get)
		assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
		assert.Equal(t, []string{"original 0s..115ms cancelled", "no hedge 100ms deadline-too-close"}, raced(tl))
	})
}

// TestLosersAreWaitedFor, and are none of a classifier's business.
func TestLosersAreWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var classified []codes.Code
		unary := newInterceptor(t, interceptor.WithTargetBudget(unlimited),
			interceptor.WithPolicy(after100(func(p *policy.Policy) { p.Classifier = "noting" })),
			interceptor.WithClassifier("noting", classify.Func(func(a *classify.EndedAttempt) classify.Outcome {
				classified = append(classified, a.Code())
				return classify.Outcome{}
			}))).Unary()
		var tl interceptor.Timeline
		began := time.Now()
		err := unary(t.Context(), testsrv.Get, nil, new(testv1.GetResponse), nil,
			func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
				if attemptNumber(ctx) == 2 {
					return nil
				}
				<-ctx.Done()
				virtual.Sleep(30 * ms) // and takes its time
				return status.Error(codes.Unavailable, "")
			}, interceptor.WithTimeline(&tl))
		require.NoError(t, err)
		assert.Equal(t, 130*ms, time.Since(began))
		assert.Equal(t, 130*ms, tl.Elapsed())
		assert.Equal(t, []string{"original 0s..130ms lost at 100ms", "hedge 100ms..100ms won"}, raced(&tl))
		assert.Equal(t, 130*ms, tl.Attempts[0].Wasted())
		assert.Zero(t, tl.Attempts[1].Wasted())
		assert.Equal(t, classify.ReasonCallDecided, tl.Attempts[0].Outcome.Reason)
		assert.Equal(t, []codes.Code{codes.OK}, classified)
	})
}

// TestHedgingLearns what the method takes, from originals alone.
func TestHedgingLearns(t *testing.T) {
	t.Parallel()
	percentile := func(q float64) policy.Policy {
		return exact(func(p *policy.Policy) { p.Hedge.Percentile, p.Retry.MaxAttempts, p.Retry.Off = q, 2, true })
	}
	// play makes calls of which each attempt does what its number says.
	type play func(n int, steps ...testsrv.Step) *interceptor.Timeline
	for _, r := range []struct {
		name string
		opts []interceptor.Option
		call []grpc.CallOption
		do   func(t *testing.T, play play)
	}{
		{"hedges are no samples", []interceptor.Option{interceptor.WithPolicy(percentile(0.4))}, nil, func(t *testing.T, play play) {
			play(100, after(100*ms, testsrv.OK()))
			play(300, testsrv.Hang(), after(ms, testsrv.OK()))
			tl := play(1, testsrv.Hang(), testsrv.OK())
			assert.InDelta(t, 100*ms, tl.Elapsed(), float64(2*ms))
		}},
		{"cancelled originals are", []interceptor.Option{interceptor.WithPolicy(percentile(0.6))}, nil, func(t *testing.T, play play) {
			play(100, after(100*ms, testsrv.OK()))
			play(300, testsrv.Hang(), after(50*ms, testsrv.OK()))
			tl := play(1, testsrv.Hang(), testsrv.OK())
			assert.GreaterOrEqual(t, tl.Elapsed(), 150*ms)
		}},
		{"fast failures are not", []interceptor.Option{interceptor.WithPolicy(percentile(0.6))}, nil, func(t *testing.T, play play) {
			play(100, after(100*ms, testsrv.OK()))
			play(1000, after(ms, testsrv.Fail(codes.NotFound, "")))
			tl := play(1, testsrv.Hang(), testsrv.OK())
			assert.InDelta(t, 100*ms, tl.Elapsed(), float64(2*ms))
		}},
		{"a slow method is not hedged", []interceptor.Option{interceptor.WithPolicy(exact(func(p *policy.Policy) {
			p.Hedge.Percentile, p.Hedge.MaxDelay = 0.5, 50*ms
		}))}, nil, func(t *testing.T, play play) {
			play(200, after(100*ms, testsrv.OK()))
			assert.Equal(t, []string{"original 0s..100ms won", "no hedge 0s too-slow"}, raced(play(1, after(100*ms, testsrv.OK()))))
			play(2000, after(10*ms, testsrv.OK()))
			assert.Len(t, play(1, testsrv.Hang(), testsrv.OK()).Attempts, 2)
		}},
		{
			"policies of calls have a budget in common", nil,
			// What may be borrowed on the strength of 100 calls a second is less than one.
			[]grpc.CallOption{interceptor.WithPolicy(exact(func(p *policy.Policy) { p.Hedge.MaxExtraLoad = 0.01 }))},
			func(t *testing.T, play play) {
				play(200, after(10*ms, testsrv.OK()))
				assert.Len(t, play(1, testsrv.Hang(), testsrv.OK()).Attempts, 2)
				tl := play(1, after(100*ms, testsrv.OK()))
				assert.Equal(t, "no hedge", raced(tl)[1][:8], "one hedge was paid for: %v", tl)
			},
		},
		{
			"pushback delays a hedge within the budget of hedges", []interceptor.Option{interceptor.WithPolicy(exact(likeA6, func(p *policy.Policy) { p.Hedge.MaxExtraLoad = 0.01 }))}, nil,
			func(t *testing.T, play play) {
				play(200, after(10*ms, testsrv.OK()))
				assert.Len(t, play(1, pushback("5"), testsrv.OK()).Attempts, 2)
				tl := play(1, pushback("5"))
				assert.Equal(t, interceptor.EndBudgetDenied, tl.Reason, "%v", tl)
			},
		},
		{
			"the shared budget is asked too", []interceptor.Option{
				interceptor.WithPolicy(exact(func(p *policy.Policy) { p.Hedge.MaxExtraLoad = 0.5 })), grantHedges(1).inTarget(),
			}, nil,
			func(t *testing.T, play play) {
				play(200, after(10*ms, testsrv.OK()))
				assert.Len(t, play(1, testsrv.Hang(), testsrv.OK()).Attempts, 2)
				tl := play(1, after(100*ms, testsrv.OK()))
				assert.Equal(t, "no hedge", raced(tl)[1][:8], "%v", tl)
			},
		},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				c := newClient(t, srv, append([]interceptor.Option{interceptor.WithTargetBudget(unlimited)}, r.opts...)...).ready()
				r.do(t, func(n int, steps ...testsrv.Step) (tl *interceptor.Timeline) {
					c.number(testsrv.Get, steps...)
					for range n {
						tl, _ = c.call(t.Context(), testsrv.Get, r.call...)
					}
					return tl
				})
			})
		})
	}
}
