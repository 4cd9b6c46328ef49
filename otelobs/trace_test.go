package otelobs_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/otelobs"
	"github.com/rego-go/rego/policy"
)

// steady is a policy whose times are exact.
var steady = policy.Policy{
	Name:        "steady",
	Idempotency: classify.Idempotent,
	Retry:       policy.Retry{Backoff: policy.Backoff{Jitter: policy.JitterNone}},
}

// rig is a server traced by otelgrpc and an interceptor watched by an Observer,
// for one bubble. Both write to the same place, as one backend sees them.
type rig struct {
	*testsrv.Server
	provider *sdktrace.TracerProvider
	spans    *tracetest.InMemoryExporter
	start    time.Time
}

func newRig(t *testing.T, opts ...sdktrace.TracerProviderOption) *rig {
	t.Helper()
	r := &rig{spans: tracetest.NewInMemoryExporter(), start: time.Now()}
	r.provider = sdktrace.NewTracerProvider(append(opts, sdktrace.WithSyncer(r.spans))...)
	r.Server = testsrv.Start(t, testsrv.ServerOptions(grpc.StatsHandler(otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(r.provider), otelgrpc.WithPropagators(propagation.TraceContext{})))))
	t.Cleanup(func() { r.keepsPromises(t) })
	return r
}

// keepsPromises checks of all spans that their attributes and events are among the
// names promised, and that nothing of what client and server said is in them.
func (r *rig) keepsPromises(t *testing.T) {
	t.Helper()
	promised := namesInCode(t)
	for _, s := range r.spans.GetSpans() {
		if s.InstrumentationScope.Name != otelobs.ScopeName {
			continue
		}
		said := s.Name + s.Status.Description
		attrs := slices.Clone(s.Attributes)
		for _, e := range s.Events {
			attrs = append(attrs, e.Attributes...)
			assert.Contains(t, promised, e.Name)
		}
		for _, kv := range attrs {
			assert.Contains(t, promised, string(kv.Key))
			said += fmt.Sprint(kv.Value.AsInterface())
		}
		assert.NotContains(t, said, "secret")
	}
}

func (r *rig) observer(opts ...otelobs.Option) *otelobs.Observer {
	return otelobs.New(append([]otelobs.Option{
		otelobs.WithTracerProvider(r.provider), otelobs.WithPropagator(propagation.TraceContext{}),
	}, opts...)...)
}

func (r *rig) client(t *testing.T, dial []grpc.DialOption, opts ...interceptor.Option) testv1.TestServiceClient {
	t.Helper()
	it, err := interceptor.New(opts...)
	require.NoError(t, err)
	return testv1.NewTestServiceClient(r.Conn(t, append(it.DialOptions(), dial...)...))
}

// watched is a client with steady and an observer of the rig's.
func (r *rig) watched(t *testing.T, opts ...interceptor.Option) testv1.TestServiceClient {
	t.Helper()
	return r.client(t, nil, append(opts, interceptor.WithPolicy(steady), interceptor.WithObserver(r.observer()))...)
}

func get(ctx context.Context, c testv1.TestServiceClient, opts ...grpc.CallOption) error {
	_, err := c.Get(ctx, &testv1.GetRequest{Id: "secret"}, opts...)
	return err
}

// ended returns the spans that have ended, handlers included.
func (r *rig) ended() tracetest.SpanStubs {
	synctest.Wait()
	return r.spans.GetSpans()
}

// tree draws the spans as they hang together: per span who made it, its kind and
// name, from when to when it ran, its status and when those began that it is linked
// to, below that the attributes asked for and its events.
func (r *rig) tree(show ...attribute.Key) string {
	spans := r.ended()
	slices.SortStableFunc(spans, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	var b strings.Builder
	known := make(map[trace.SpanID]bool)
	for _, s := range spans {
		known[s.SpanContext.SpanID()] = true
	}
	for _, s := range spans {
		if !known[s.Parent.SpanID()] {
			r.draw(&b, spans, s, "", show)
		}
	}
	return "\n" + b.String()
}

func (r *rig) draw(b *strings.Builder, spans tracetest.SpanStubs, s tracetest.SpanStub, indent string, show []attribute.Key) {
	maker, _ := strings.CutPrefix(s.InstrumentationScope.Name, "github.com/rego-go/rego/")
	if strings.HasSuffix(maker, "otelgrpc") {
		maker = "otelgrpc"
	}
	fmt.Fprintf(b, "%s%s %s %s %s..%s", indent, maker, s.SpanKind, strings.Replace(s.Name, "rego.test.v1.TestService", "T", 1),
		s.StartTime.Sub(r.start), s.EndTime.Sub(r.start))
	if s.Status.Code != codes.Unset && maker == "otelobs" {
		fmt.Fprintf(b, " %s: %s", s.Status.Code, s.Status.Description)
	}
	for _, l := range s.Links {
		i := slices.IndexFunc(spans, func(s tracetest.SpanStub) bool { return s.SpanContext.SpanID() == l.SpanContext.SpanID() })
		fmt.Fprintf(b, " beside %s", spans[i].StartTime.Sub(r.start))
	}
	b.WriteByte('\n')
	if maker == "otelobs" {
		for _, kv := range s.Attributes {
			if len(show) == 0 || slices.Contains(show, kv.Key) {
				fmt.Fprintf(b, "%s    %s=%v\n", indent, kv.Key, kv.Value.AsInterface())
			}
		}
	}
	for _, e := range s.Events {
		fmt.Fprintf(b, "%s    @%s %s %s\n", indent, e.Time.Sub(r.start), e.Name, list(e.Attributes))
	}
	children := slices.DeleteFunc(slices.Clone(spans), func(c tracetest.SpanStub) bool {
		return c.Parent.SpanID() != s.SpanContext.SpanID()
	})
	for _, c := range children {
		r.draw(b, spans, c, indent+"  ", show)
	}
}

func list(attrs []attribute.KeyValue) string {
	var words []string
	for _, kv := range attrs {
		words = append(words, fmt.Sprintf("%s=%v", kv.Key, kv.Value.AsInterface()))
	}
	slices.SortFunc(words, cmp.Compare[string])
	return strings.Join(words, " ")
}
