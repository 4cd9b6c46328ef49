package otelobs_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/otelobs"
)

// Two observers with backends of their own each see a whole tree.
func TestTwoObservers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, other := newRig(t), newRig(t)
		cl := r.client(t, nil, interceptor.WithPolicy(steady),
			interceptor.WithObserver(r.observer()), interceptor.WithObserver(other.observer()))
		require.NoError(t, get(t.Context(), cl))
		for _, r := range []*rig{r, other} {
			var names []string
			for _, s := range r.ended() {
				if s.InstrumentationScope.Name == otelobs.ScopeName {
					names = append(names, s.Name)
				}
			}
			assert.Equal(t, []string{"Attempt.rego.test.v1.TestService/Get", "rego.test.v1.TestService/Get"}, names)
		}
	})
}

// broken is an observer that panics at one kind of event.
type broken struct{ at interceptor.EventKind }

func (b broken) Start(ctx context.Context, e *interceptor.Event) context.Context {
	b.Observe(ctx, e)
	return ctx
}

func (b broken) Observe(_ context.Context, e *interceptor.Event) {
	if e.Kind == b.at {
		panic("broken")
	}
}

func TestBrokenNeighbour(t *testing.T) {
	t.Parallel()
	for _, at := range []interceptor.EventKind{
		interceptor.CallStart, interceptor.AttemptStart, interceptor.AttemptEnd, interceptor.CallEnd,
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			cl := r.client(t, nil, interceptor.WithLogger(slog.New(slog.DiscardHandler)),
				interceptor.WithObserver(broken{at}), interceptor.WithObserver(r.observer()))
			require.NoError(t, get(t.Context(), cl))
			assert.Len(t, r.ended(), 3, at)
		})
	}
}

// A call made inside an attempt, as an interceptor below may, hangs under it and
// keeps its events to itself, recorded or not.
func TestCallInsideAnAttempt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		inner sdktrace.Sampler
		want  string
	}{
		{"recorded", sdktrace.AlwaysSample(), `
otelobs internal T/Get 0s..0s
    rego.attempt.count=1
  otelobs client Attempt.T/Get 0s..0s
    otelobs internal T/Put 0s..0s Error: UNAVAILABLE
        rego.attempt.count=1
      otelobs client Attempt.T/Put 0s..0s Error: UNAVAILABLE
        otelgrpc server T/Put 0s..0s
    otelgrpc server T/Get 0s..0s
`},
		{"not recorded", notNamed("rego.test.v1.TestService/Put"), `
otelobs internal T/Get 0s..0s
    rego.attempt.count=1
  otelobs client Attempt.T/Get 0s..0s
    otelgrpc server T/Get 0s..0s
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, sdktrace.WithSampler(c.inner))
				r.Script(testsrv.Put, testsrv.Fail(codes.Unavailable, "secret"))
				p := steady
				p.Retry.Off = true
				o := interceptor.WithObserver(r.observer())
				inner := r.client(t, nil, interceptor.WithPolicy(p), o)
				ask := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
					_, err := inner.Put(ctx, &testv1.PutRequest{})
					assert.Equal(t, codes.Unavailable, status.Code(err))
					return invoker(ctx, method, req, reply, cc, opts...)
				}
				it, err := interceptor.New(interceptor.WithPolicy(p), o)
				require.NoError(t, err)
				cc := r.Conn(t, append(it.DialOptions(), grpc.WithChainUnaryInterceptor(ask))...)
				require.NoError(t, get(t.Context(), testv1.NewTestServiceClient(cc)))
				assert.Equal(t, c.want, r.tree("rego.attempt.count"))
			})
		})
	}
}

// notNamed samples what its parent allows, except spans of one name.
type notNamed string

func (n notNamed) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Name == string(n) {
		return sdktrace.NeverSample().ShouldSample(p)
	}
	return sdktrace.ParentBased(sdktrace.AlwaysSample()).ShouldSample(p)
}

func (n notNamed) Description() string { return "not " + string(n) }

// A call torn down by a panic leaves no open span, wherever the panic is.
func TestPanic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		invoker grpc.UnaryInvoker
		want    string
	}{
		{"inside an attempt", func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
			virtual.Sleep(time.Millisecond)
			panic("torn")
		}, `
otelobs internal T/Get 0s..1ms Error: UNKNOWN
    rego.end.reason=unfinished
  otelobs client Attempt.T/Get 0s..1ms Error: UNKNOWN
      rego.attempt.result=running
`},
		{"between attempts", func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
			virtual.Sleep(time.Millisecond)
			return status.Error(codes.Unavailable, "secret")
		}, `
otelobs internal T/Get 0s..1ms Error: UNKNOWN
    rego.end.reason=unfinished
  otelobs client Attempt.T/Get 0s..1ms Error: UNAVAILABLE
      rego.attempt.result=failed
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				it, err := interceptor.New(interceptor.WithPolicy(steady), interceptor.WithObserver(r.observer()),
					interceptor.WithTargetBudget(func(string) budget.Budget { return explosive{} }))
				require.NoError(t, err)
				assert.Panics(t, func() { _ = it.Unary()(t.Context(), testsrv.Get, nil, nil, nil, c.invoker) })
				assert.Equal(t, c.want, r.tree("rego.end.reason", "rego.attempt.result"))
			})
		})
	}
}

// explosive is a budget that panics when it is asked for a retry.
type explosive struct{}

func (explosive) Acquire(k budget.Kind) bool {
	if k != budget.Original {
		panic("torn")
	}
	return true
}

func (explosive) Release(budget.Kind, budget.Result) {}

// What an Observer does not know it ignores, as interceptor.Event asks.
func TestUnknownEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		o := r.observer()
		tl := &interceptor.Timeline{Method: testsrv.Get}
		call := o.Start(t.Context(), &interceptor.Event{Kind: interceptor.CallStart, Timeline: tl})
		assert.Equal(t, call, o.Start(call, &interceptor.Event{Kind: 200, Timeline: tl}))
		o.Observe(call, &interceptor.Event{Kind: 200, Timeline: tl})
		assert.Empty(t, r.ended())
	})
}
