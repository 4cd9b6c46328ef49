package otelobs_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpctrace "google.golang.org/grpc/experimental/opentelemetry"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats/opentelemetry"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/otelobs"
)

// parent returns a context as a traced server's handler has it.
func parent(ctx context.Context, flags trace.TraceFlags) context.Context {
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{15: 1}, SpanID: trace.SpanID{7: 2}, TraceFlags: flags, Remote: true,
	}))
}

const traceOfParent = "00000000000000000000000000000001"

// traceparents returns what every attempt of Get brought along.
func (r *rig) traceparents(t *testing.T) (values []string) {
	t.Helper()
	for _, a := range r.Arrivals(testsrv.Get) {
		vs := a.Metadata.Get("traceparent")
		require.Len(t, vs, 1)
		values = append(values, vs[0])
	}
	return values
}

func TestUnsampledPropagates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
		r.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "secret"), testsrv.OK())
		require.NoError(t, get(parent(t.Context(), 0), r.watched(t)))

		assert.Empty(t, r.ended())
		sent := r.traceparents(t)
		require.Len(t, sent, 2)
		assert.Regexp(t, "^00-"+traceOfParent+"-[0-9a-f]{16}-00$", sent[0])
		assert.NotContains(t, sent[0], "0000000000000002-00", "the call has an id of its own")
		assert.Equal(t, sent[0], sent[1], "attempts have none")
	})
}

// Each attempt brings the context of its own span, and nothing of another's.
func TestSampledPropagates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "secret"), testsrv.OK())
		ctx := metadata.AppendToOutgoingContext(parent(t.Context(), trace.FlagsSampled),
			"traceparent", "00-of-somebody-else", "mine", "kept")
		require.NoError(t, get(ctx, r.watched(t)))

		var want []string
		for _, s := range r.ended() {
			if s.SpanKind == trace.SpanKindClient {
				want = append(want, fmt.Sprintf("00-%s-%s-01", traceOfParent, s.SpanContext.SpanID()))
			}
		}
		require.Len(t, want, 2)
		assert.Equal(t, want, r.traceparents(t))
		for _, a := range r.Arrivals(testsrv.Get) {
			assert.Equal(t, []string{"kept"}, a.Metadata.Get("mine"))
		}
	})
}

func TestNothingToPropagate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		o := r.observer(otelobs.WithTracerProvider(noop.NewTracerProvider()))
		cl := r.client(t, nil, interceptor.WithObserver(o))
		require.NoError(t, get(t.Context(), cl))
		require.NoError(t, get(metadata.AppendToOutgoingContext(t.Context(), "traceparent", "the caller's"), cl))
		arrivals := r.Arrivals(testsrv.Get)
		assert.Empty(t, arrivals[0].Metadata.Get("traceparent"))
		assert.Equal(t, []string{"the caller's"}, arrivals[1].Metadata.Get("traceparent"))
	})
}

func TestPropagators(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		o := r.observer(otelobs.WithPropagator(propagation.NewCompositeTextMapPropagator(
			propagation.TraceContext{}, propagation.Baggage{}, fussy{t})))
		member, err := baggage.NewMember("tenant", "blue")
		require.NoError(t, err)
		bag, err := baggage.New(member)
		require.NoError(t, err)
		ctx := baggage.ContextWithBaggage(t.Context(), bag)

		cl := r.client(t, nil, interceptor.WithObserver(o))
		require.NoError(t, get(ctx, cl))
		require.NoError(t, get(metadata.AppendToOutgoingContext(ctx, "mine", "kept"), cl))
		for _, a := range r.Arrivals(testsrv.Get) {
			assert.Equal(t, []string{"tenant=blue"}, a.Metadata.Get("baggage"))
			assert.Equal(t, []string{"second"}, a.Metadata.Get("fussy"))
		}
	})
}

// fussy is a propagator that uses all of its carrier.
type fussy struct{ t *testing.T }

func (f fussy) Inject(_ context.Context, c propagation.TextMapCarrier) {
	assert.Empty(f.t, c.Get("fussy"))
	c.Set("Fussy", "first")
	c.Set("fussy", "second")
	assert.Equal(f.t, "second", c.Get("fussy"))
	assert.Contains(f.t, c.Keys(), "traceparent")
}

func (fussy) Extract(ctx context.Context, _ propagation.TextMapCarrier) context.Context { return ctx }
func (fussy) Fields() []string                                                          { return []string{"fussy"} }

func TestOtelgrpcBelow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		opts []otelobs.Option
		kind string
	}{
		{"told", []otelobs.Option{otelobs.WithTracingBelow()}, "internal"},
		{"untold", nil, "client"}, // two clients, and still the right tree
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "secret"), testsrv.OK())
				below := grpc.WithStatsHandler(otelgrpc.NewClientHandler(
					otelgrpc.WithTracerProvider(r.provider), otelgrpc.WithPropagators(propagation.TraceContext{})))
				cl := r.client(t, []grpc.DialOption{below},
					interceptor.WithPolicy(steady), interceptor.WithObserver(r.observer(c.opts...)))
				require.NoError(t, get(t.Context(), cl))
				assert.Equal(t, `
otelobs internal T/Get 0s..50ms
    @0s rego.wait rego.wait.duration=0.05 rego.wait.reason=backoff
  otelobs `+c.kind+` Attempt.T/Get 0s..0s Error: UNAVAILABLE
      rego.attempt.number=1
    otelgrpc client T/Get 0s..0s
      otelgrpc server T/Get 0s..0s
  otelobs `+c.kind+` Attempt.T/Get 50ms..50ms
      rego.attempt.number=2
    otelgrpc client T/Get 50ms..50ms
      otelgrpc server T/Get 50ms..50ms
`, r.tree("rego.attempt.number"))
			})
		})
	}
}

// grpc's own plugin adds to the metadata what is there already. Told of it, the observer
// leaves that to the plugin; else servers are told of two parents.
func TestPluginBelow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		opts         []otelobs.Option
		traceparents int
	}{
		{[]otelobs.Option{otelobs.WithTracingBelow()}, 1},
		{nil, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "secret"), testsrv.OK())
			plugin := opentelemetry.DialOption(opentelemetry.Options{TraceOptions: grpctrace.TraceOptions{
				TracerProvider: r.provider, TextMapPropagator: propagation.TraceContext{},
			}})
			cl := r.client(t, []grpc.DialOption{plugin}, interceptor.WithPolicy(steady), interceptor.WithObserver(r.observer(c.opts...)))
			require.NoError(t, get(t.Context(), cl))
			require.Len(t, r.Arrivals(testsrv.Get), 2)
			for _, a := range r.Arrivals(testsrv.Get) {
				assert.Len(t, a.Metadata.Get("traceparent"), c.traceparents)
			}
		})
	}
}

// With tracing below the observer leaves the metadata alone.
func TestTracingBelowInjects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		cl := r.client(t, nil, interceptor.WithObserver(r.observer(otelobs.WithTracingBelow())))
		require.NoError(t, get(t.Context(), cl))
		assert.Empty(t, r.Arrivals(testsrv.Get)[0].Metadata.Get("traceparent"))
	})
}

// The globals count, also if they are set after New. They can be set in earnest once
// in a process, so only the first run sees that.
func TestGlobals(t *testing.T) {
	o := otelobs.New()
	setGlobals()
	globalSpans.Reset()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		require.NoError(t, get(t.Context(), r.client(t, nil, interceptor.WithObserver(o))))
		spans := globalSpans.GetSpans()
		require.Len(t, spans, 2)
		attempt := spans[0].SpanContext
		assert.Equal(t, []string{fmt.Sprintf("00-%s-%s-01", attempt.TraceID(), attempt.SpanID())}, r.traceparents(t))
	})
}

var (
	globalSpans = tracetest.NewInMemoryExporter()
	setGlobals  = sync.OnceFunc(func() {
		otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(globalSpans)))
		otel.SetTextMapPropagator(propagation.TraceContext{})
	})
)
