package interceptor_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// rows asks for those after the last one that the application got. A request's
// payload is the first row that is wanted.
var rows = interceptor.WithResume(func(last *testv1.WatchResponse, _ *testv1.WatchRequest) (*testv1.WatchRequest, bool) {
	n, err := strconv.Atoi(string(last.GetPayload()))
	return &testv1.WatchRequest{Payload: []byte(strconv.Itoa(n + 1))}, err == nil
})

// sendsRows answers with so many rows from the one that is asked for, then does what
// is next.
func sendsRows(n int, a testsrv.Arrival, then ...testsrv.Step) testsrv.Step {
	from, _ := strconv.Atoi(string(a.Request().(*testv1.WatchRequest).GetPayload()))
	var ops []testsrv.Step
	for i := range n {
		ops = append(ops, testsrv.SendMsg(&testv1.WatchResponse{Payload: []byte(strconv.Itoa(from + i))}))
	}
	return testsrv.Do(append(ops, then...)...)
}

func receivesRow(a *app) {
	m := new(testv1.WatchResponse)
	if err := a.cs.RecvMsg(m); err != nil {
		a.note("%s", brief(err))
		return
	}
	a.note("row %s", m.GetPayload())
}

func times(n int, op does) does {
	return func(a *app) {
		for range n {
			op(a)
		}
	}
}

func TestResume(t *testing.T) {
	t.Parallel()
	slow := testsrv.Delay(10 * ms)
	for _, r := range []struct {
		name     string
		policy   policy.Policy
		server   func(testsrv.Arrival) testsrv.Step
		app      []does
		opt      grpc.CallOption
		sees     string
		served   []string
		attempts []string
		reason   interceptor.EndReason
	}{
		{
			"goes on where it broke off", exact(idempotent),
			func(a testsrv.Arrival) testsrv.Step {
				if a.Previous == 0 {
					return sendsRows(2, a, slow, down)
				}
				return sendsRows(2, a)
			},
			[]does{times(5, receivesRow)}, rows,
			"row 0 @0s, row 1 @0s, row 2 @60ms, row 3 @60ms, EOF @60ms", []string{"0", "2"},
			[]string{"original 0s..10ms failed", "retry 50ms later, resumed, won"}, interceptor.EndSucceeded,
		},
		{
			"a resumed attempt that fails before its first message is retried", exact(idempotent),
			func(a testsrv.Arrival) testsrv.Step {
				switch a.Previous {
				case 0:
					return sendsRows(1, a, down)
				case 1:
					return down
				}
				return sendsRows(1, a)
			},
			[]does{times(3, receivesRow)}, rows,
			"row 0 @0s, row 1 @150ms, EOF @150ms", []string{"0", "1", "1"},
			[]string{"original 0s..0s failed", "retry 50ms later, resumed, failed", "retry 100ms later, resumed, won"}, interceptor.EndSucceeded,
		},
		{
			"attempts and waits are counted anew once there is a message", exact(idempotent),
			func(a testsrv.Arrival) testsrv.Step {
				if a.Previous < 4 {
					return sendsRows(1, a, down)
				}
				return down
			},
			[]does{times(5, receivesRow)}, rows,
			"row 0 @0s, row 1 @50ms, row 2 @100ms, row 3 @150ms, Unavailable (attempts-exhausted) @500ms", []string{"0", "1", "2", "3", "4", "4", "4"},
			[]string{
				"original 0s..0s failed", "retry 50ms later, resumed, failed", "retry 50ms later, resumed, failed", "retry 50ms later, resumed, failed",
				"retry 50ms later, resumed, failed", "retry 100ms later, resumed, failed", "retry 200ms later, resumed, failed",
			}, interceptor.EndAttemptsExhausted,
		},
		{
			"the hook says no", exact(idempotent),
			func(a testsrv.Arrival) testsrv.Step { return sendsRows(1, a, down) },
			[]does{times(3, receivesRow)},
			interceptor.WithResume(func(*testv1.WatchResponse, *testv1.WatchRequest) (*testv1.WatchRequest, bool) { return nil, false }),
			"row 0 @0s, Unavailable (committed) @0s, Unavailable (committed) @0s", []string{"0"}, []string{"original 0s..0s failed"}, interceptor.EndCommitted,
		},
		{
			"other types", exact(idempotent),
			func(a testsrv.Arrival) testsrv.Step { return sendsRows(1, a, down) },
			[]does{times(2, receivesRow)},
			interceptor.WithResume(func(*testv1.GetResponse, *testv1.GetRequest) (*testv1.GetRequest, bool) { panic("not for these") }),
			"row 0 @0s, Unavailable (committed) @0s", []string{"0"}, []string{"original 0s..0s failed"}, interceptor.EndCommitted,
		},
		{
			"not retryable", exact(idempotent),
			func(a testsrv.Arrival) testsrv.Step { return sendsRows(1, a, testsrv.Fail(codes.NotFound, "")) },
			[]does{times(2, receivesRow)}, rows,
			"row 0 @0s, NotFound (non-retryable) @0s", []string{"0"}, []string{"original 0s..0s failed"}, interceptor.EndNonRetryable,
		},
		{
			"may have been executed", exact(),
			func(a testsrv.Arrival) testsrv.Step { return sendsRows(1, a, down) },
			[]does{times(2, receivesRow)}, rows,
			"row 0 @0s, Unavailable (not-idempotent) @0s", []string{"0"}, []string{"original 0s..0s failed"}, interceptor.EndNotIdempotent,
		},
		{
			"a clean end is the end", exact(idempotent),
			func(a testsrv.Arrival) testsrv.Step { return sendsRows(1, a) },
			[]does{times(3, receivesRow)}, rows,
			"row 0 @0s, EOF @0s, EOF @0s", []string{"0"}, []string{"original 0s..0s won"}, interceptor.EndSucceeded,
		},
		{
			"the resumed attempt ends at once and well", exact(idempotent),
			func(a testsrv.Arrival) testsrv.Step {
				if a.Previous == 0 {
					return sendsRows(1, a, down)
				}
				return testsrv.OK()
			},
			[]does{times(3, receivesRow)}, rows,
			"row 0 @0s, EOF @50ms, EOF @50ms", []string{"0", "1"},
			[]string{"original 0s..0s failed", "retry 50ms later, resumed, won"}, interceptor.EndSucceeded,
		},
		{
			"cancelled while the resumed attempt waits", exact(idempotent),
			func(a testsrv.Arrival) testsrv.Step { return sendsRows(1, a, down) },
			[]does{receivesRow, cancelsAfter(20 * ms), receivesRow}, rows,
			"row 0 @0s, Canceled (caller-cancelled) @20ms", []string{"0"}, []string{"original 0s..0s failed"}, interceptor.EndCallerCancelled,
		},
		{
			"a resumed attempt is hedged", after100(idempotent),
			func(a testsrv.Arrival) testsrv.Step {
				switch a.Previous {
				case 0:
					return sendsRows(1, a, down)
				case 1:
					return testsrv.Hang()
				}
				return sendsRows(1, a)
			},
			[]does{times(3, receivesRow)}, rows,
			"row 0 @0s, row 1 @150ms, EOF @150ms", []string{"0", "1", "1"},
			[]string{"original 0s..0s failed", "retry 50ms later, resumed, lost", "hedge 100ms later, resumed, won"}, interceptor.EndSucceeded,
		},
		{
			"the hook gets the request of the last attempt", exact(idempotent),
			func(a testsrv.Arrival) testsrv.Step {
				if a.Previous < 2 {
					return sendsRows(1, a, down)
				}
				return sendsRows(1, a)
			},
			[]does{times(4, receivesRow)},
			interceptor.WithResume(func(_ *testv1.WatchResponse, req *testv1.WatchRequest) (*testv1.WatchRequest, bool) {
				return &testv1.WatchRequest{Payload: append(req.GetPayload(), '1')}, true
			}),
			"row 0 @0s, row 1 @50ms, row 11 @100ms, EOF @100ms", []string{"0", "01", "011"},
			[]string{"original 0s..0s failed", "retry 50ms later, resumed, failed", "retry 50ms later, resumed, won"}, interceptor.EndSucceeded,
		},
		{
			"a resumed attempt that is silent has the attempt timeout", exact(idempotent, func(p *policy.Policy) { p.AttemptTimeout = 30 * ms }),
			func(a testsrv.Arrival) testsrv.Step {
				switch a.Previous {
				case 0:
					return sendsRows(1, a, down)
				case 1:
					return testsrv.Hang()
				}
				return sendsRows(1, a)
			},
			[]does{times(3, receivesRow)}, rows,
			"row 0 @0s, row 1 @180ms, EOF @180ms", []string{"0", "1", "1"},
			[]string{"original 0s..0s failed", "retry 50ms later, resumed, failed", "retry 100ms later, resumed, won"}, interceptor.EndSucceeded,
		},
		{
			"without messages it is retried as it was", exact(idempotent),
			func(a testsrv.Arrival) testsrv.Step {
				if a.Previous == 0 {
					return down
				}
				return sendsRows(1, a)
			},
			[]does{times(2, receivesRow)}, rows,
			"row 0 @50ms, EOF @50ms", []string{"0", "0"},
			[]string{"original 0s..0s failed", "retry 50ms later, won"}, interceptor.EndSucceeded,
		},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				l := &ledger{budget: budget.Default()}
				var seen counter
				it := newInterceptor(t, interceptor.WithPolicy(r.policy), l.inTarget(), interceptor.WithObserver(&seen))
				c := client{t, srv, srv.Conn(t, it.DialOptions()...)}.ready()
				srv.Handle(testsrv.Watch, r.server)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				a := c.openWith(ctx, cancel, watchKind, []grpc.CallOption{r.opt}, append([]does{sends("0"), closes}, r.app...)...)
				synctest.Wait()
				assert.Equal(t, r.sees, strings.Join(a.seen, ", "), "%v", &a.tl)
				assert.Equal(t, r.served, served(srv, watchKind))
				assert.Equal(t, r.reason, a.tl.Reason)
				var attempts []string
				for i, at := range a.tl.Attempts {
					s := fmt.Sprintf("%s %v..%v %s", at.Kind, at.Start.Sub(a.tl.Start), at.End.Sub(a.tl.Start), at.Result)
					if i > 0 {
						s = fmt.Sprintf("%s %v later, ", at.Kind, at.Wait)
						if at.Resumed {
							s += "resumed, "
						}
						s += at.Result.String()
					}
					attempts = append(attempts, s)
				}
				assert.Equal(t, r.attempts, attempts, "%v", &a.tl)
				assert.Equal(t, len(attempts), seen.events[interceptor.AttemptStart])
				assert.Equal(t, len(attempts), seen.events[interceptor.AttemptEnd])
				assert.Equal(t, 1, seen.events[interceptor.CallEnd])
				assert.Zero(t, it.Replayed())
				assert.Zero(t, l.held)
			})
		})
	}
}

// TestResumePanics: the hook is the application's, and so is its panic.
func TestResumePanics(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		l := &ledger{budget: budget.Default()}
		var seen counter
		it := newInterceptor(t, interceptor.WithPolicy(exact(idempotent)), l.inTarget(), interceptor.WithObserver(&seen))
		c := client{t, srv, srv.Conn(t, it.DialOptions()...)}.ready()
		srv.Script(testsrv.Watch, testsrv.Do(testsrv.Send(1), testsrv.Delay(time.Millisecond), down))
		hook := interceptor.WithResume(func(*testv1.WatchResponse, *testv1.WatchRequest) (*testv1.WatchRequest, bool) { panic("hook") })
		a := c.openWith(t.Context(), nil, watchKind, []grpc.CallOption{hook}, sends("0"), closes, receives)
		assert.PanicsWithValue(t, "hook", func() { receives(a) })
		assert.Zero(t, l.held)
		assert.Zero(t, it.Replayed())
		assert.Equal(t, 1, seen.events[interceptor.CallEnd])
	})
}

// TestContextOfAResumedStream is one, though the stream goes on with another attempt.
func TestContextOfAResumedStream(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, named(exact(idempotent)))
		srv.Handle(testsrv.Watch, func(a testsrv.Arrival) testsrv.Step {
			return sendsRows(3, a, testsrv.Delay(10*ms), []testsrv.Step{down, testsrv.Hang()}[a.Previous])
		})
		a := c.openWith(t.Context(), nil, watchKind, []grpc.CallOption{rows}, sends("0"), closes, receivesRow)
		ctx := a.cs.Context()
		times(5, receivesRow)(a)
		assert.Equal(t, "row 5 @60ms", a.seen[5])
		assert.NoError(t, ctx.Err())
	})
}
