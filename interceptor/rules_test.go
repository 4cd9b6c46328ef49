package interceptor_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/policy"
)

var (
	down     = testsrv.Fail(codes.Unavailable, "down")
	pushback = func(v ...string) testsrv.Step {
		return testsrv.Do(testsrv.Pushback(v...), testsrv.Fail(codes.Unavailable, "later"))
	}
	retryInfo = &errdetails.RetryInfo{RetryDelay: durationpb.New(400 * ms)}
	quota     = &errdetails.QuotaFailure{}
)

// TestOutcomes is the table of classification over a real client and server. The first line of
// a row is the method, what the server does and the policy; the second is how many attempts arrive,
// what the caller gets, and when.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	type row struct {
		name     string
		method   string
		steps    []testsrv.Step
		policy   policy.Policy
		attempts int
		code     codes.Code
		reason   interceptor.EndReason
		elapsed  time.Duration // exact
	}
	script := func(s ...testsrv.Step) []testsrv.Step { return s }
	fail := testsrv.Fail
	slow := testsrv.Do(testsrv.Delay(time.Second), testsrv.OK())
	timeout := exact(func(p *policy.Policy) { p.AttemptTimeout = 30 * ms })
	rows := []row{
		{"first attempt succeeds", testsrv.Pay, nil, exact(),
			1, codes.OK, interceptor.EndSucceeded, 0},
		{"unavailable, idempotent", testsrv.Put, script(down, testsrv.OK()), exact(),
			2, codes.OK, interceptor.EndSucceeded, 50 * ms},
		{"unavailable, no side effects", testsrv.Get, script(down, testsrv.OK()), exact(),
			2, codes.OK, interceptor.EndSucceeded, 50 * ms},
		{"unavailable, idempotency unknown", testsrv.Pay, script(down), exact(),
			1, codes.Unavailable, interceptor.EndNotIdempotent, 0},
		{"unavailable, policy says idempotent", testsrv.Pay, script(down, testsrv.OK()), exact(func(p *policy.Policy) { p.Idempotency = classify.Idempotent }),
			2, codes.OK, interceptor.EndSucceeded, 50 * ms},
		{"unavailable, policy takes it back", testsrv.Put, script(down), exact(func(p *policy.Policy) { p.Idempotency = classify.NotIdempotent }),
			1, codes.Unavailable, interceptor.EndNotIdempotent, 0},
		{"backoff doubles, attempts run out", testsrv.Put, script(down), exact(),
			3, codes.Unavailable, interceptor.EndAttemptsExhausted, 150 * ms},
		{"cap of the interceptor", testsrv.Put, script(down), exact(func(p *policy.Policy) { p.Retry.MaxAttempts = 50 }),
			5, codes.Unavailable, interceptor.EndAttemptsExhausted, 750 * ms},
		{"one attempt", testsrv.Put, script(down), exact(func(p *policy.Policy) { p.Retry.MaxAttempts = 1 }),
			1, codes.Unavailable, interceptor.EndAttemptsExhausted, 0},
		{"retries off", testsrv.Put, script(down), exact(func(p *policy.Policy) { p.Retry.Off = true }),
			1, codes.Unavailable, interceptor.EndDisabled, 0},
		{"no wait", testsrv.Put, script(down), exact(func(p *policy.Policy) { p.Retry.Backoff.Initial = policy.NoWait }),
			3, codes.Unavailable, interceptor.EndAttemptsExhausted, 0},

		{"pushback, idempotency unknown", testsrv.Pay, script(pushback("70"), testsrv.OK()), exact(),
			2, codes.OK, interceptor.EndSucceeded, 70 * ms},
		{"pushback 0", testsrv.Pay, script(pushback("0"), testsrv.OK()), exact(),
			2, codes.OK, interceptor.EndSucceeded, 0},
		{"backoff starts again after pushback", testsrv.Put, script(down, pushback("7"), down, testsrv.OK()), exact(func(p *policy.Policy) { p.Retry.MaxAttempts = 4 }),
			4, codes.OK, interceptor.EndSucceeded, (50 + 7 + 50) * ms},
		{"negative pushback", testsrv.Put, script(pushback("-1")), exact(),
			1, codes.Unavailable, interceptor.EndPushback, 0},
		{"garbage pushback", testsrv.Put, script(pushback("soon")), exact(),
			1, codes.Unavailable, interceptor.EndPushback, 0},
		{"two pushbacks", testsrv.Put, script(pushback("1", "2")), exact(),
			1, codes.Unavailable, interceptor.EndPushback, 0},
		{"pushback of 300 s", testsrv.Put, script(pushback("300000"), testsrv.OK()), exact(),
			2, codes.OK, interceptor.EndSucceeded, 300 * time.Second},
		{"pushback above 300 s", testsrv.Put, script(pushback("300001")), exact(),
			1, codes.Unavailable, interceptor.EndPushback, 0},
		{"pushback on a code that is not retryable", testsrv.Put, script(testsrv.Do(testsrv.Pushback("1"), fail(codes.NotFound, ""))), exact(),
			1, codes.NotFound, interceptor.EndNonRetryable, 0},
		{"pushback stops listed codes too", testsrv.Put, script(pushback("-1")), exact(func(p *policy.Policy) { p.Retry.Codes = []codes.Code{codes.Unavailable} }),
			1, codes.Unavailable, interceptor.EndPushback, 0},
		{"quota failure", testsrv.Put, script(fail(codes.ResourceExhausted, "", quota)), exact(),
			1, codes.ResourceExhausted, interceptor.EndNonRetryable, 0},
		{"quota failure, and when there is more", testsrv.Put, script(fail(codes.ResourceExhausted, "", quota, retryInfo), testsrv.OK()), exact(),
			2, codes.OK, interceptor.EndSucceeded, time.Second},

		{"resource exhausted", testsrv.Put, script(fail(codes.ResourceExhausted, "")), exact(),
			1, codes.ResourceExhausted, interceptor.EndNonRetryable, 0},
		{"resource exhausted, pushback", testsrv.Pay, script(testsrv.Do(testsrv.Pushback("20"), fail(codes.ResourceExhausted, "")), testsrv.OK()), exact(),
			2, codes.OK, interceptor.EndSucceeded, 20 * ms},
		{"resource exhausted, listed: backoff from 1 s", testsrv.Put, script(fail(codes.ResourceExhausted, "")), exact(func(p *policy.Policy) { p.Retry.Codes = []codes.Code{codes.ResourceExhausted} }),
			3, codes.ResourceExhausted, interceptor.EndAttemptsExhausted, 3 * time.Second},
		{"aborted", testsrv.Put, script(fail(codes.Aborted, "")), exact(),
			1, codes.Aborted, interceptor.EndNonRetryable, 0},
		{"aborted with pushback, idempotent", testsrv.Put, script(testsrv.Do(testsrv.Pushback("20"), fail(codes.Aborted, "")), testsrv.OK()), exact(),
			2, codes.OK, interceptor.EndSucceeded, 20 * ms},
		{"aborted with pushback, unknown", testsrv.Pay, script(testsrv.Do(testsrv.Pushback("20"), fail(codes.Aborted, ""))), exact(),
			1, codes.Aborted, interceptor.EndNotIdempotent, 0},
		{"deadline exceeded by the server", testsrv.Put, script(fail(codes.DeadlineExceeded, "")), exact(),
			1, codes.DeadlineExceeded, interceptor.EndNonRetryable, 0},
		{"cancelled by the server", testsrv.Put, script(fail(codes.Canceled, "")), exact(),
			1, codes.Canceled, interceptor.EndNonRetryable, 0},
		{"internal", testsrv.Put, script(fail(codes.Internal, "")), exact(),
			1, codes.Internal, interceptor.EndNonRetryable, 0},
		{"unknown", testsrv.Put, script(fail(codes.Unknown, "")), exact(),
			1, codes.Unknown, interceptor.EndNonRetryable, 0},
		{"listed code, idempotency unknown", testsrv.Pay, script(fail(codes.Internal, ""), testsrv.OK()), exact(func(p *policy.Policy) { p.Retry.Codes = []codes.Code{codes.Internal} }),
			2, codes.OK, interceptor.EndSucceeded, 50 * ms},
		{"not listed", testsrv.Put, script(down), exact(func(p *policy.Policy) { p.Retry.Codes = []codes.Code{codes.Internal} }),
			1, codes.Unavailable, interceptor.EndNonRetryable, 0},

		{"attempt timeout, idempotent", testsrv.Put, script(slow, testsrv.OK()), timeout,
			2, codes.OK, interceptor.EndSucceeded, 80 * ms},
		{"attempt timeout, idempotency unknown", testsrv.Pay, script(slow), timeout,
			1, codes.DeadlineExceeded, interceptor.EndNotIdempotent, 30 * ms},
		{"attempt timeout of the last attempt, no deadline", testsrv.Put, script(slow), timeout,
			3, codes.DeadlineExceeded, interceptor.EndAttemptsExhausted, (30 + 50 + 30 + 100 + 30) * ms},
		{"overall timeout", testsrv.Put, script(slow), exact(func(p *policy.Policy) { p.Timeout = 200 * ms }),
			1, codes.DeadlineExceeded, interceptor.EndDeadline, 200 * ms},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				c := newClient(t, srv, interceptor.WithTargetBudget(unlimited))
				srv.Script(r.method, r.steps...)
				began := time.Now()

				tl, err := c.call(t.Context(), r.method, interceptor.WithPolicy(r.policy))

				assert.Equal(t, r.elapsed, time.Since(began), "elapsed")
				assert.Equal(t, r.code, status.Code(err))
				assert.Equal(t, r.reason, tl.Reason, "%v", tl)
				assert.Len(t, tl.Attempts, r.attempts)
				arrivals := srv.Arrivals(r.method)
				require.Len(t, arrivals, r.attempts)
				for i, a := range arrivals {
					assert.Equal(t, i, a.Previous, "grpc-previous-rpc-attempts of attempt %d", i+1)
				}
			})
		})
		t.Run(r.name+", unwatched", func(t *testing.T) { // its first attempt is made without a state
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				it := newInterceptor(t, named(r.policy), interceptor.WithTargetBudget(unlimited))
				conn := srv.Conn(t, it.DialOptions()...)
				req, reply := messages(r.method)
				require.NoError(t, conn.Invoke(t.Context(), r.method, req, reply), "the first call is timed")
				srv.Script(r.method, r.steps...)
				began, before := time.Now(), len(srv.Arrivals(r.method))

				err := conn.Invoke(t.Context(), r.method, req, reply)

				assert.Equal(t, r.elapsed, time.Since(began), "elapsed")
				assert.Equal(t, r.code, status.Code(err))
				if e := new(interceptor.Error); r.code != codes.OK && assert.ErrorAs(t, err, &e) {
					assert.Equal(t, r.reason, e.Reason)
					assert.Len(t, e.Attempts, r.attempts)
				}
				assert.Len(t, srv.Arrivals(r.method)[before:], r.attempts)
				calls, attempts := it.State().Targets[0].Methods[0].Total()
				assert.Equal(t, []int64{2, 1 + int64(r.attempts)}, []int64{calls, attempts}, "counted")
			})
		})
	}
}

func TestRetryInfoWaitsAtLeastAsLong(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact()))
		for range 20 {
			srv.Script(testsrv.Pay, testsrv.Fail(codes.Unavailable, "", retryInfo), testsrv.OK())
			tl, err := c.call(t.Context(), testsrv.Pay)
			require.NoError(t, err)
			assert.GreaterOrEqual(t, tl.Elapsed(), 400*ms)
			assert.LessOrEqual(t, tl.Elapsed(), 600*ms)
			assert.Equal(t, interceptor.WaitRetryInfo, tl.Attempts[1].WaitedOn)
		}
	})
}

func TestCallerDone(t *testing.T) {
	t.Parallel()
	t.Run("cancel in mid-attempt", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv)
			srv.Script(testsrv.Put, testsrv.Hang())
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(10*ms, cancel)
			tl, err := c.call(ctx, testsrv.Put)
			assert.Equal(t, codes.Canceled, status.Code(err))
			assert.Equal(t, interceptor.EndCallerCancelled, tl.Reason)
			assert.Equal(t, 10*ms, tl.Elapsed())
			assert.Equal(t, interceptor.AttemptCancelled, tl.Attempts[0].Result)
		})
	})
	t.Run("cancel in a wait gives the lease back", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			b := budget.Default()
			c := newClient(t, srv, interceptor.WithPolicy(exact()), interceptor.WithTargetBudget(func(string) budget.Budget { return b }))
			srv.Script(testsrv.Put, down)
			before := b.Balance()
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(10*ms, cancel)
			tl, err := c.call(ctx, testsrv.Put)
			assert.Equal(t, codes.Canceled, status.Code(err))
			assert.Equal(t, interceptor.EndCallerCancelled, tl.Reason)
			assert.Equal(t, 10*ms, tl.Elapsed())
			assert.GreaterOrEqual(t, b.Balance(), before)
		})
	})
	t.Run("deadline in mid-attempt", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv)
			srv.Script(testsrv.Put, testsrv.Hang())
			ctx, cancel := context.WithTimeout(t.Context(), 10*ms)
			defer cancel()
			tl, err := c.call(ctx, testsrv.Put)
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
			assert.Equal(t, interceptor.EndDeadline, tl.Reason)
			assert.Equal(t, 10*ms, tl.Elapsed())
		})
	})
	t.Run("cancelled before the call", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := c.call(ctx, testsrv.Put)
			assert.Equal(t, codes.Canceled, status.Code(err))
			assert.Zero(t, srv.Count(testsrv.Put))
		})
	})
}

// TestDeadlineTooClose: a wait that does not fit is not begun, and the caller gets
// the server's status at once instead of DEADLINE_EXCEEDED later.
func TestDeadlineTooClose(t *testing.T) {
	t.Parallel()
	t.Run("the wait alone", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(exact()))
			srv.Script(testsrv.Put, down)
			ctx, cancel := context.WithTimeout(t.Context(), 50*ms)
			defer cancel()
			tl, err := c.call(ctx, testsrv.Put)
			assert.Equal(t, "rpc error: code = Unavailable desc = down", err.Error())
			assert.Equal(t, interceptor.EndDeadlineTooClose, tl.Reason)
			assert.Zero(t, tl.Elapsed())
			require.Len(t, tl.Denials, 1)
			assert.Equal(t, 50*ms, tl.Denials[0].Wait)
		})
	})
	t.Run("the wait and what even a fast attempt takes", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(exact()))
			srv.Script(testsrv.Put, testsrv.Do(testsrv.Delay(20*ms), testsrv.OK()))
			for range 20 {
				_, err := c.call(t.Context(), testsrv.Put)
				require.NoError(t, err)
			}
			srv.Script(testsrv.Put, down)
			ctx, cancel := context.WithTimeout(t.Context(), 50*ms+16*ms) // 20 ms count as 16.4
			defer cancel()
			tl, err := c.call(ctx, testsrv.Put)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.Equal(t, interceptor.EndDeadlineTooClose, tl.Reason)
			assert.Len(t, tl.Attempts, 1)

			srv.Script(testsrv.Put, down, testsrv.OK())
			ctx, cancel = context.WithTimeout(t.Context(), 50*ms+17*ms)
			defer cancel()
			_, err = c.call(ctx, testsrv.Put)
			assert.NoError(t, err)
		})
	})
}

// TestLastAttemptGetsTheTimeLeft: it may use the caller's deadline to the end.
func TestLastAttemptGetsTheTimeLeft(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact(func(p *policy.Policy) {
			p.AttemptTimeout = 100 * ms
			p.Retry.MaxAttempts = 2
		})))
		srv.Script(testsrv.Put, testsrv.Hang(), testsrv.Do(testsrv.Delay(700*ms), testsrv.OK()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		tl, err := c.call(ctx, testsrv.Put)
		require.NoError(t, err)
		assert.Equal(t, (100+50+700)*ms, tl.Elapsed())
		assert.Equal(t, classify.ReasonAttemptTimeout, tl.Attempts[0].Outcome.Reason)
	})
}

// TestServerAnswersAtTheAttemptDeadline: the server has the same deadline as our
// timer and may answer first; it is our timeout all the same.
func TestServerAnswersAtTheAttemptDeadline(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact(func(p *policy.Policy) { p.AttemptTimeout = 100 * ms })))
		for range 50 {
			srv.Script(testsrv.Put, testsrv.Hang(), testsrv.OK())
			tl, err := c.call(t.Context(), testsrv.Put)
			require.NoError(t, err, "%v", tl)
			assert.Equal(t, 150*ms, tl.Elapsed())
		}
	})
}

// TestOrderOfDecisions: with several reasons to stop, the first in the order of
// the design is the one given.
func TestOrderOfDecisions(t *testing.T) {
	t.Parallel()
	nothing := interceptor.WithTargetBudget(func(string) budget.Budget {
		b, _ := budget.NewRatio(budget.RatioConfig{})
		for b.Acquire(budget.Retry) { // spend what a new one has
		}
		return b
	})
	rows := []struct {
		name   string
		method string
		step   testsrv.Step
		max    int
		left   time.Duration
		reason interceptor.EndReason
	}{
		{"outcome before pushback", testsrv.Pay, testsrv.Do(testsrv.Delay(ms), testsrv.Fail(codes.NotFound, "")), 1, 10 * ms, interceptor.EndNonRetryable},
		{"pushback before attempts", testsrv.Put, pushback("-1"), 1, 10 * ms, interceptor.EndPushback},
		{"attempts before deadline", testsrv.Put, down, 1, 10 * ms, interceptor.EndAttemptsExhausted},
		{"deadline before budget", testsrv.Put, down, 3, 10 * ms, interceptor.EndDeadlineTooClose},
		{"budget", testsrv.Put, down, 3, time.Second, interceptor.EndBudgetDenied},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				c := newClient(t, srv, nothing)
				srv.Script(r.method, r.step)
				ctx, cancel := context.WithTimeout(t.Context(), r.left)
				defer cancel()
				tl, err := c.call(ctx, r.method, interceptor.WithPolicy(exact(func(p *policy.Policy) { p.Retry.MaxAttempts = r.max })))
				assert.Equal(t, r.reason, tl.Reason, "%v", tl)
				var e *interceptor.Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, r.reason, e.Reason)
				assert.Len(t, e.Attempts, 1)
				assert.Equal(t, 1, srv.Count(r.method))
			})
		})
	}
}

func TestPreviousAttemptsReplaceTheCallersValue(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact()))
		srv.Script(testsrv.Put, down, testsrv.OK())
		ctx := metadata.AppendToOutgoingContext(t.Context(), "grpc-previous-rpc-attempts", "7", "k", "v")
		_, err := c.call(ctx, testsrv.Put)
		require.NoError(t, err)
		a := srv.Arrivals(testsrv.Put)
		assert.Equal(t, []string{"1"}, a[1].Metadata.Get("grpc-previous-rpc-attempts"))
		assert.Equal(t, []string{"v"}, a[1].Metadata.Get("k"))
	})
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact()))
		keys := map[string]bool{}
		fresh := interceptor.WithIdempotencyKey("")
		for _, opt := range []interceptor.CallOption{interceptor.WithIdempotencyKey("order-1"), fresh, fresh} {
			srv.Script(testsrv.Pay, down, testsrv.OK())
			before := srv.Count(testsrv.Pay)
			ctx := metadata.AppendToOutgoingContext(t.Context(), interceptor.IdempotencyKeyHeader, "stale")
			tl, err := c.call(ctx, testsrv.Pay, opt)
			require.NoError(t, err)
			assert.Equal(t, classify.Idempotent, tl.Idempotency)
			a := srv.Arrivals(testsrv.Pay)[before:]
			require.Len(t, a, 2)
			key := a[0].Metadata.Get(interceptor.IdempotencyKeyHeader)
			require.Len(t, key, 1)
			assert.Equal(t, key, a[1].Metadata.Get(interceptor.IdempotencyKeyHeader))
			keys[key[0]] = true
		}
		assert.Len(t, keys, 3, "each call has a key of its own")
		assert.True(t, keys["order-1"])
		assert.False(t, keys["stale"])
	})
}

// TestNotSent: a refused connection is safe to retry for every method.
func TestNotSent(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact(failsFast, func(p *policy.Policy) { p.Retry.Backoff.Initial = 2 * time.Second })))
		require.NoError(t, srv.Refuse(true))
		time.AfterFunc(500*ms, func() { _ = srv.Refuse(false) }) // grpc dials again after 0.8 to 1.2 s
		tl, err := c.call(t.Context(), testsrv.Pay)
		require.NoError(t, err, "%v", tl)
		require.Len(t, tl.Attempts, 2)
		assert.Equal(t, classify.DeliveryNotSent, tl.Attempts[0].Delivery)
		assert.Equal(t, classify.ReasonNotSent, tl.Attempts[0].Outcome.Reason)
		assert.Nil(t, tl.Attempts[0].Peer)
		assert.NotNil(t, tl.Attempts[1].Peer)
		assert.Equal(t, 1, srv.Count(testsrv.Pay))
	})
}

// TestKilledInMidCall: the server may have done the work.
func TestKilledInMidCall(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name     string
		step     testsrv.Step
		delivery classify.Delivery
	}{
		{"before the header", testsrv.KillConn(), classify.DeliveryUnknown},
		{"after the header", testsrv.Do(testsrv.SendHeader(metadata.Pairs("a", "b")), testsrv.Delay(ms), testsrv.KillConn()), classify.DeliveryUnknown},
		{"answered", down, classify.DeliveryAnswered},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				c := newClient(t, srv, interceptor.WithPolicy(exact()))
				srv.Script(testsrv.Pay, r.step, testsrv.OK())
				tl, err := c.call(t.Context(), testsrv.Pay)
				assert.Equal(t, codes.Unavailable, status.Code(err))
				assert.Equal(t, interceptor.EndNotIdempotent, tl.Reason)
				assert.Equal(t, r.delivery, tl.Attempts[0].Delivery)
				assert.Equal(t, 1, srv.Count(testsrv.Pay))

				srv.Script(testsrv.Put, r.step, testsrv.OK())
				tl, err = c.call(t.Context(), testsrv.Put)
				require.NoError(t, err, "%v", tl)
				assert.Equal(t, 2, srv.Count(testsrv.Put))
			})
		})
	}
}

// TestBudgetOverCalls: the budget is shared by the calls to a target; a denied
// retry returns the server's status.
func TestBudgetOverCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := testsrv.Start(t)
		b, err := budget.NewRatio(budget.RatioConfig{Ratio: 0.1})
		require.NoError(t, err)
		c := newClient(t, srv, interceptor.WithPolicy(exact()), interceptor.WithTargetBudget(func(string) budget.Budget { return b }))
		for range 100 { // pay for ten
			_, err := c.call(t.Context(), testsrv.Put)
			require.NoError(t, err)
		}
		srv.Script(testsrv.Put, down)
		denied := 0
		for range 100 {
			tl, err := c.call(t.Context(), testsrv.Put)
			require.Equal(t, "rpc error: code = Unavailable desc = down", err.Error())
			if tl.Reason == interceptor.EndBudgetDenied {
				denied++
			}
		}
		assert.Equal(t, 200+10, srv.Count(testsrv.Put))
		assert.Equal(t, 95, denied) // five had two of the ten
	})
}

// TestPublicRetryCases are the two retry cases of the public cross-language tests,
// in the words of their servers.
func TestPublicRetryCases(t *testing.T) {
	t.Parallel()
	const behavior = "succeed-on-retry-attempt-3,error-code-14"
	for attempts, want := range map[int]codes.Code{3: codes.Unavailable, 4: codes.OK} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(exact(func(p *policy.Policy) { p.Retry.MaxAttempts = attempts })))
			ctx := metadata.AppendToOutgoingContext(t.Context(), "rpc-behavior", behavior)
			_, err := c.call(ctx, testsrv.Put)
			assert.Equal(t, want, status.Code(err), "%d attempts", attempts)
		})
	}
}

// lateTimer is a context whose deadline has passed and whose timer has not run.
type lateTimer struct{ context.Context }

func (lateTimer) Deadline() (time.Time, bool) { return time.Now().Add(-ms), true }

// TestClockDecides: a server that answers with the caller's deadline is no failure
// of its own, even if it is quicker than the caller's timer.
func TestClockDecides(t *testing.T) {
	t.Parallel()
	answer := func(code codes.Code) grpc.UnaryInvoker {
		return func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
			return status.Error(code, "")
		}
	}
	unary := newInterceptor(t).Unary()
	for code, want := range map[codes.Code]interceptor.EndReason{
		codes.DeadlineExceeded: interceptor.EndDeadline,
		codes.NotFound:         interceptor.EndNonRetryable,
	} {
		var tl interceptor.Timeline
		err := unary(lateTimer{t.Context()}, testsrv.Put, nil, nil, nil, answer(code), interceptor.WithTimeline(&tl))
		assert.Equal(t, code, status.Code(err))
		assert.Equal(t, want, tl.Reason)
	}
}
