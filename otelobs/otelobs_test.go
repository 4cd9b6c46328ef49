package otelobs_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

func TestEverythingOfACall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.Script(testsrv.Get,
			testsrv.Do(testsrv.Delay(3*time.Millisecond), testsrv.Fail(codes.Unavailable, "secret")),
			testsrv.Delay(2*time.Millisecond))
		require.NoError(t, get(t.Context(), r.watched(t)))
		assert.Equal(t, `
otelobs internal T/Get 0s..55ms
    rpc.system.name=grpc
    rpc.method=rego.test.v1.TestService/Get
    server.address=testsrv
    rego.policy.name=steady
    rego.idempotency=idempotent
    rpc.response.status_code=OK
    rego.end.reason=succeeded
    rego.attempt.count=2
    @3ms rego.wait rego.wait.duration=0.05 rego.wait.reason=backoff
  otelobs client Attempt.T/Get 0s..3ms Error: UNAVAILABLE
      rpc.system.name=grpc
      rpc.method=rego.test.v1.TestService/Get
      server.address=testsrv
      rego.attempt.number=1
      rego.attempt.kind=original
      previous-rpc-attempts=0
      rpc.response.status_code=UNAVAILABLE
      rego.attempt.result=failed
      rego.delivery=answered
      rego.outcome=retryable
      rego.outcome.reason=unavailable
      network.peer.address=testsrv
      error.type=UNAVAILABLE
    otelgrpc server T/Get 0s..3ms
  otelobs client Attempt.T/Get 53ms..55ms
      rpc.system.name=grpc
      rpc.method=rego.test.v1.TestService/Get
      server.address=testsrv
      rego.attempt.number=2
      rego.attempt.kind=retry
      previous-rpc-attempts=1
      rego.wait.duration=0.05
      rego.wait.reason=backoff
      rpc.response.status_code=OK
      rego.attempt.result=won
      rego.delivery=answered
      rego.outcome=success
      network.peer.address=testsrv
    otelgrpc server T/Get 53ms..55ms
`, r.tree())
	})
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.Server = testsrv.Start(t, testsrv.Hostname("users.internal:443"))
		require.NoError(t, get(t.Context(), r.watched(t)))
		assert.Equal(t, `
otelobs internal T/Get 0s..0s
    server.address=users.internal
    server.port=443
  otelobs client Attempt.T/Get 0s..0s
      server.address=users.internal
      server.port=443
      network.peer.address=users.internal
      network.peer.port=443
`, r.tree("server.address", "server.port", "network.peer.address", "network.peer.port"))
	})
}

// TestEnds has a row per way in which a call can end.
func TestEnds(t *testing.T) {
	t.Parallel()
	down := testsrv.Fail(codes.Unavailable, "secret")
	quick := policy.Policy{Idempotency: classify.Idempotent, Retry: policy.Retry{
		MaxAttempts: 2, Backoff: policy.Backoff{Initial: policy.NoWait},
	}}
	unknown := quick
	unknown.Idempotency = classify.NotIdempotent
	patient := quick
	patient.Retry.Backoff = policy.Backoff{Initial: 2 * time.Second, Jitter: policy.JitterNone}
	patient.Retry.Reconnect = policy.NoWait

	for _, c := range []struct {
		name   string
		policy policy.Policy
		opts   []interceptor.Option
		set    func(r *rig)
		within time.Duration // 0: no deadline
		want   string
	}{
		{
			name: "refused, then recovers", policy: patient,
			set: func(r *rig) {
				_ = r.Refuse(true)
				time.AfterFunc(100*time.Millisecond, func() { _ = r.Refuse(false) })
			},
			want: `
otelobs internal T/Get 0s..2s
    rego.end.reason=succeeded
    @0s rego.wait rego.wait.duration=2 rego.wait.reason=backoff
  otelobs client Attempt.T/Get 0s..0s Error: UNAVAILABLE
      rego.attempt.result=failed
      rego.delivery=not-sent
      rego.outcome.reason=not-sent
      error.type=UNAVAILABLE
  otelobs client Attempt.T/Get 2s..2s
      rego.attempt.result=won
      rego.delivery=answered
    otelgrpc server T/Get 2s..2s
`,
		},
		{
			name: "waits for a connection in vain", policy: quick, within: 2 * time.Second,
			set: func(r *rig) { _ = r.Refuse(true) },
			want: `
otelobs internal T/Get 0s..2s Error: UNAVAILABLE
    rego.end.reason=unreachable
    error.type=UNAVAILABLE
  otelobs client Attempt.T/Get 0s..2s Error: UNAVAILABLE
      rego.attempt.result=failed
      rego.delivery=not-sent
      rego.outcome.reason=not-sent
      error.type=UNAVAILABLE
      @0s rego.reconnect rego.wait.duration=2
`,
		},
		{
			name: "connection killed, not idempotent", policy: unknown,
			set: func(r *rig) { r.Script(testsrv.Get, testsrv.KillConn()) },
			want: `
otelobs internal T/Get 0s..0s Error: UNAVAILABLE
    rego.end.reason=not-idempotent
    error.type=UNAVAILABLE
  otelobs client Attempt.T/Get 0s..0s Error: UNAVAILABLE
      rego.attempt.result=failed
      rego.delivery=unknown
      rego.outcome.reason=not-idempotent
      error.type=UNAVAILABLE
    otelgrpc server T/Get 0s..0s
`,
		},
		{
			name: "pushback, then exhausted", policy: quick,
			set: func(r *rig) { r.Script(testsrv.Get, testsrv.Do(testsrv.Pushback("70"), down), down) },
			want: `
otelobs internal T/Get 0s..70ms Error: UNAVAILABLE
    rego.end.reason=attempts-exhausted
    error.type=UNAVAILABLE
    @0s rego.wait rego.wait.duration=0.07 rego.wait.reason=pushback
  otelobs client Attempt.T/Get 0s..0s Error: UNAVAILABLE
      rego.attempt.result=failed
      rego.delivery=answered
      rego.outcome.reason=server-asked
      error.type=UNAVAILABLE
      @0s rego.hint rego.hint.delay=0.07 rego.hint.kind=pushback
    otelgrpc server T/Get 0s..0s
  otelobs client Attempt.T/Get 70ms..70ms Error: UNAVAILABLE
      rego.attempt.result=failed
      rego.delivery=answered
      rego.outcome.reason=unavailable
      error.type=UNAVAILABLE
    otelgrpc server T/Get 70ms..70ms
`,
		},
		{
			name: "pushback forbids", policy: quick,
			set: func(r *rig) { r.Script(testsrv.Get, testsrv.Do(testsrv.Pushback("-1"), down)) },
			want: `
otelobs internal T/Get 0s..0s Error: UNAVAILABLE
    rego.end.reason=pushback
    error.type=UNAVAILABLE
  otelobs client Attempt.T/Get 0s..0s Error: UNAVAILABLE
      rego.attempt.result=failed
      rego.delivery=answered
      rego.outcome.reason=pushback-stop
      error.type=UNAVAILABLE
      @0s rego.hint rego.hint.kind=stop
    otelgrpc server T/Get 0s..0s
`,
		},
		{
			name: "RetryInfo", policy: quick,
			set: func(r *rig) {
				r.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "secret",
					&errdetails.RetryInfo{RetryDelay: durationpb.New(0)}), testsrv.OK())
			},
			want: `
otelobs internal T/Get 0s..0s
    rego.end.reason=succeeded
    @0s rego.wait rego.wait.duration=0 rego.wait.reason=retry-info
  otelobs client Attempt.T/Get 0s..0s Error: UNAVAILABLE
      rego.attempt.result=failed
      rego.delivery=answered
      rego.outcome.reason=server-asked
      error.type=UNAVAILABLE
      @0s rego.hint rego.hint.delay=0 rego.hint.kind=retry-info
    otelgrpc server T/Get 0s..0s
  otelobs client Attempt.T/Get 0s..0s
      rego.attempt.result=won
      rego.delivery=answered
    otelgrpc server T/Get 0s..0s
`,
		},
		{
			name: "denied by the budget", policy: quick,
			opts: []interceptor.Option{interceptor.WithTargetBudget(func(string) budget.Budget { return nothing{} })},
			set:  func(r *rig) { r.Script(testsrv.Get, down) },
			want: `
otelobs internal T/Get 0s..0s Error: UNAVAILABLE
    rego.end.reason=budget-denied
    error.type=UNAVAILABLE
    @0s rego.denial rego.attempt.kind=retry rego.denial.reason=budget-denied rego.wait.duration=0
  otelobs client Attempt.T/Get 0s..0s Error: UNAVAILABLE
      rego.attempt.result=failed
      rego.delivery=answered
      rego.outcome.reason=unavailable
      error.type=UNAVAILABLE
    otelgrpc server T/Get 0s..0s
`,
		},
		{
			name: "no time for the wait", policy: patient, within: time.Second,
			set: func(r *rig) { r.Script(testsrv.Get, down) },
			want: `
otelobs internal T/Get 0s..0s Error: UNAVAILABLE
    rego.end.reason=deadline-too-close
    error.type=UNAVAILABLE
    @0s rego.denial rego.attempt.kind=retry rego.denial.reason=deadline-too-close rego.wait.duration=2
  otelobs client Attempt.T/Get 0s..0s Error: UNAVAILABLE
      rego.attempt.result=failed
      rego.delivery=answered
      rego.outcome.reason=unavailable
      error.type=UNAVAILABLE
    otelgrpc server T/Get 0s..0s
`,
		},
		{
			name: "a reply that is a failure", policy: policy.Policy{Classifier: "soft", Idempotency: classify.Idempotent, Retry: policy.Retry{MaxAttempts: 1}},
			opts: []interceptor.Option{interceptor.WithClassifier("soft", classify.Reply(func(*testv1.GetResponse) bool { return true }))},
			set:  func(*rig) {},
			want: `
otelobs internal T/Get 0s..0s
    rego.end.reason=attempts-exhausted
  otelobs client Attempt.T/Get 0s..0s Error: soft-failure
      rego.attempt.result=failed
      rego.delivery=answered
      rego.outcome.reason=soft-failure
      error.type=soft-failure
    otelgrpc server T/Get 0s..0s
`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				c.set(r)
				ctx := t.Context()
				if c.within > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.within)
					defer cancel()
				}
				cl := r.client(t, nil, append(c.opts,
					interceptor.WithPolicy(c.policy), interceptor.WithObserver(r.observer()))...)
				_ = get(ctx, cl)
				assert.Equal(t, c.want, r.tree(shown...))
			})
		})
	}
}

var shown = []attribute.Key{
	"rego.end.reason", "rego.attempt.result", "rego.delivery", "rego.outcome.reason", "error.type",
}

// nothing is a budget without anything to spend.
type nothing struct{}

func (nothing) Acquire(k budget.Kind) bool         { return k == budget.Original }
func (nothing) Release(budget.Kind, budget.Result) {}

func TestCallerCancels(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.Script(testsrv.Get, testsrv.Hang())
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Millisecond, cancel)
		err := get(ctx, r.watched(t))
		require.Equal(t, codes.Canceled, status.Code(err))
		assert.Equal(t, `
otelobs internal T/Get 0s..5ms Error: CANCELLED
  otelobs client Attempt.T/Get 0s..5ms Error: CANCELLED
      rego.attempt.result=cancelled
    otelgrpc server T/Get 0s..5ms
`, r.tree("rego.attempt.result"))
	})
}

// Who is first at a deadline, client or server, is open, and with it the delivery.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.Script(testsrv.Get, testsrv.Hang())
		p := steady
		p.AttemptTimeout, p.Retry.MaxAttempts = 10*time.Millisecond, 2
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := get(ctx, r.client(t, nil, interceptor.WithPolicy(p), interceptor.WithObserver(r.observer())))
		require.Equal(t, codes.DeadlineExceeded, status.Code(err))
		assert.Equal(t, `
otelobs internal T/Get 0s..100ms Error: DEADLINE_EXCEEDED
    rego.end.reason=deadline
    @10ms rego.wait rego.wait.duration=0.05 rego.wait.reason=backoff
  otelobs client Attempt.T/Get 0s..10ms Error: DEADLINE_EXCEEDED
      rego.attempt.result=failed
      rego.outcome.reason=attempt-timeout
    otelgrpc server T/Get 0s..10ms
  otelobs client Attempt.T/Get 60ms..100ms Error: DEADLINE_EXCEEDED
      rego.attempt.result=cancelled
      rego.outcome.reason=caller-done
    otelgrpc server T/Get 60ms..100ms
`, r.tree("rego.end.reason", "rego.attempt.result", "rego.outcome.reason"))
	})
}

// TestHedges: attempts that ran side by side are linked, and those that did not
// decide the call are no errors.
func TestHedges(t *testing.T) {
	t.Parallel()
	p := steady
	p.Hedge.Delay, p.Retry.MaxAttempts = 10*time.Millisecond, 3
	for _, c := range []struct {
		name string
		last testsrv.Step
		want string
	}{
		{"the last one wins", testsrv.OK(), `
otelobs internal T/Get 0s..25ms
    rego.end.reason=succeeded
    rego.attempt.count=3
  otelobs client Attempt.T/Get 0s..25ms
      rego.attempt.kind=original
      rego.attempt.result=lost
      rego.outcome.reason=call-decided
      rego.wasted.duration=0.025
      @25ms rego.cancel 
    otelgrpc server T/Get 0s..25ms
  otelobs client Attempt.T/Get 10ms..25ms beside 0s
      rego.attempt.kind=hedge
      rego.wait.reason=hedge-delay
      rego.attempt.result=lost
      rego.outcome.reason=call-decided
      rego.wasted.duration=0.015
      @25ms rego.cancel 
    otelgrpc server T/Get 10ms..25ms
  otelobs client Attempt.T/Get 20ms..25ms beside 0s beside 10ms
      rego.attempt.kind=hedge
      rego.wait.reason=hedge-delay
      rego.attempt.result=won
    otelgrpc server T/Get 20ms..25ms
`},
		{"the last one is fatal", testsrv.Fail(codes.InvalidArgument, "secret"), `
otelobs internal T/Get 0s..25ms Error: INVALID_ARGUMENT
    rego.end.reason=non-retryable
    rego.attempt.count=3
  otelobs client Attempt.T/Get 0s..25ms
      rego.attempt.kind=original
      rego.attempt.result=cancelled
      rego.outcome.reason=call-decided
      @25ms rego.cancel 
    otelgrpc server T/Get 0s..25ms
  otelobs client Attempt.T/Get 10ms..25ms beside 0s
      rego.attempt.kind=hedge
      rego.wait.reason=hedge-delay
      rego.attempt.result=cancelled
      rego.outcome.reason=call-decided
      @25ms rego.cancel 
    otelgrpc server T/Get 10ms..25ms
  otelobs client Attempt.T/Get 20ms..25ms Error: INVALID_ARGUMENT beside 0s beside 10ms
      rego.attempt.kind=hedge
      rego.wait.reason=hedge-delay
      rego.attempt.result=failed
      rego.outcome.reason=fatal-code
    otelgrpc server T/Get 20ms..25ms
`},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.Handle(testsrv.Get, func(a testsrv.Arrival) testsrv.Step {
				if a.Previous < 2 {
					return testsrv.Hang()
				}
				return testsrv.Do(testsrv.Delay(5*time.Millisecond), c.last)
			})
			cl := r.client(t, nil, interceptor.WithPolicy(p), interceptor.WithObserver(r.observer()))
			_ = get(t.Context(), cl)
			assert.Equal(t, c.want, r.tree("rego.end.reason", "rego.attempt.count", "rego.attempt.kind", "rego.attempt.result",
				"rego.wait.reason", "rego.outcome.reason", "rego.wasted.duration"), c.name)
		})
	}
}

// TestBackends: where attempts went, if a load-balancing policy of package spread says so.
func TestBackends(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		o := r.observer()
		tl := &interceptor.Timeline{Method: testsrv.Get}
		call := o.Start(t.Context(), &interceptor.Event{Kind: interceptor.CallStart, Timeline: tl})
		for _, a := range []interceptor.Attempt{
			{Number: 1, Backend: "10.0.0.1:443"}, {Number: 2, Backend: "10.0.0.1:443", NoOtherBackend: true}, {Number: 3},
		} {
			inside := o.Start(call, &interceptor.Event{Kind: interceptor.AttemptStart, Timeline: tl, Attempt: &a})
			o.Observe(inside, &interceptor.Event{Kind: interceptor.AttemptEnd, Timeline: tl, Attempt: &a})
		}
		o.Observe(call, &interceptor.Event{Kind: interceptor.CallEnd, Timeline: tl})
		assert.Equal(t, `
otelobs internal T/Get 0s..0s
  otelobs client Attempt.T/Get 0s..0s
      rego.attempt.number=1
      rego.backend=10.0.0.1:443
  otelobs client Attempt.T/Get 0s..0s
      rego.attempt.number=2
      rego.backend=10.0.0.1:443
      rego.backend.no_other=true
  otelobs client Attempt.T/Get 0s..0s
      rego.attempt.number=3
`, r.tree("rego.attempt.number", "rego.backend", "rego.backend.no_other"))
	})
}
