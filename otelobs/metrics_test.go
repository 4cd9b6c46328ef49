package otelobs_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/hedge"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/otelobs"
	"github.com/rego-go/rego/policy"
)

// measured is an interceptor with metrics, and what reads them.
type measured struct {
	*interceptor.Interceptor
	reader *metric.ManualReader
}

func newMeasured(tb testing.TB, opts []otelobs.Option, more ...interceptor.Option) measured {
	tb.Helper()
	m := measured{reader: metric.NewManualReader()}
	metrics, err := otelobs.NewMetrics(append([]otelobs.Option{
		otelobs.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(m.reader))),
	}, opts...)...)
	require.NoError(tb, err)
	m.Interceptor, err = interceptor.New(append([]interceptor.Option{interceptor.WithRecorder(metrics)}, more...)...)
	require.NoError(tb, err)
	r, err := metrics.Watch(m.Interceptor)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, r.Unregister()) })
	return m
}

// read returns all points as "name{attribute=value} number", those of histograms as their
// count and sum.
func (m measured) read(t *testing.T) (lines []string) {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, m.reader.Collect(t.Context(), &all))
	for _, scope := range all.ScopeMetrics {
		assert.Equal(t, otelobs.ScopeName, scope.Scope.Name)
		for _, i := range scope.Metrics {
			lines = append(lines, pointsOf(i)...)
		}
	}
	slices.Sort(lines)
	return lines
}

func pointsOf(i metricdata.Metrics) (lines []string) {
	switch data := i.Data.(type) {
	case metricdata.Histogram[int64]:
		for _, p := range data.DataPoints {
			lines = append(lines, line(i.Name, p.Attributes, fmt.Sprint(p.Count, " ", p.Sum)))
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			lines = append(lines, line(i.Name, p.Attributes, fmt.Sprint(p.Count, " ", p.Sum)))
		}
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			lines = append(lines, line(i.Name, p.Attributes, fmt.Sprint(p.Value)))
		}
	case metricdata.Sum[float64]:
		for _, p := range data.DataPoints {
			lines = append(lines, line(i.Name, p.Attributes, fmt.Sprint(p.Value)))
		}
	case metricdata.Gauge[float64]:
		for _, p := range data.DataPoints {
			lines = append(lines, line(i.Name, p.Attributes, fmt.Sprintf("%.3g", p.Value)))
		}
	}
	return lines
}

func line(name string, attrs attribute.Set, value string) string {
	var list []string
	for _, a := range attrs.ToSlice() {
		list = append(list, string(a.Key)+"="+fmt.Sprint(a.Value.AsInterface()))
	}
	return fmt.Sprintf("%s{%s} %s", name, strings.ReplaceAll(strings.Join(list, " "), "rego.test.v1.TestService/", "T/"), value)
}

// within returns those of the lines that begin with one of the names.
func within(lines []string, names ...string) (found []string) {
	for _, l := range lines {
		for _, name := range names {
			if strings.HasPrefix(l, name) {
				found = append(found, l)
			}
		}
	}
	return found
}

func evenly(change ...func(*policy.Policy)) interceptor.Option {
	p := policy.Default()
	p.Idempotency = classify.Idempotent
	p.Retry.Backoff.Jitter = policy.JitterNone
	for _, f := range change {
		f(&p)
	}
	return interceptor.WithPolicy(p)
}

// TestMetricsOfRetries: gRFC A96's histograms, the duration of the call, and what the
// interceptor counts.
func TestMetricsOfRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMeasured(t, nil, evenly())
		srv := testsrv.Start(t)
		client := testv1.NewTestServiceClient(srv.Conn(t, m.DialOptions()...))
		fails := testsrv.Do(testsrv.Delay(10*time.Millisecond), testsrv.Fail(codes.Unavailable, "secret"))
		srv.Script(testsrv.Get, fails, fails, testsrv.Echo(), testsrv.Echo(), testsrv.Fail(codes.NotFound, ""))
		for range 2 {
			_, err := client.Get(t.Context(), &testv1.GetRequest{Id: "secret"})
			require.NoError(t, err)
		}
		_, err := client.Get(t.Context(), &testv1.GetRequest{})
		require.Error(t, err)
		lines := m.read(t)
		assert.Equal(t, []string{
			"grpc.client.call.retries{grpc.method=T/Get grpc.target=passthrough:///testsrv} 1 2",
			"grpc.client.call.retry_delay{grpc.method=T/Get grpc.target=passthrough:///testsrv} 1 0.15",
			"rego.client.attempts{grpc.method=T/Get grpc.target=passthrough:///testsrv rego.attempt.kind=original rego.attempt.result=failed rego.delivery=answered rpc.response.status_code=NOT_FOUND} 1",
			"rego.client.attempts{grpc.method=T/Get grpc.target=passthrough:///testsrv rego.attempt.kind=original rego.attempt.result=failed rego.delivery=answered rpc.response.status_code=UNAVAILABLE} 1",
			"rego.client.attempts{grpc.method=T/Get grpc.target=passthrough:///testsrv rego.attempt.kind=original rego.attempt.result=won rego.delivery=answered rpc.response.status_code=OK} 1",
			"rego.client.attempts{grpc.method=T/Get grpc.target=passthrough:///testsrv rego.attempt.kind=retry rego.attempt.result=failed rego.delivery=answered rego.wait.reason=backoff rpc.response.status_code=UNAVAILABLE} 1",
			"rego.client.attempts{grpc.method=T/Get grpc.target=passthrough:///testsrv rego.attempt.kind=retry rego.attempt.result=won rego.delivery=answered rego.wait.reason=backoff rpc.response.status_code=OK} 1",
			"rego.client.calls{grpc.method=T/Get grpc.target=passthrough:///testsrv rego.end.reason=non-retryable rpc.response.status_code=NOT_FOUND} 1",
			"rego.client.calls{grpc.method=T/Get grpc.target=passthrough:///testsrv rego.end.reason=succeeded rpc.response.status_code=OK} 2",
			"rpc.client.call.duration{error.type=NOT_FOUND rpc.method=T/Get rpc.response.status_code=NOT_FOUND rpc.system.name=grpc server.address=testsrv} 1 0",
			"rpc.client.call.duration{rpc.method=T/Get rpc.response.status_code=OK rpc.system.name=grpc server.address=testsrv} 2 0.17",
		}, within(lines, "grpc.", "rpc.", "rego.client.attempts", "rego.client.calls"))
		assert.Empty(t, within(lines, "grpc.client.call.hedges", "rego.client.denials"))
		assert.NotContains(t, strings.Join(lines, "\n"), "secret")
		assert.Equal(t, []string{
			"rego.budget.denied{grpc.target=passthrough:///testsrv rego.budget.kind=target rego.budget.name=} 0",
			"rego.budget.granted{grpc.target=passthrough:///testsrv rego.budget.kind=target rego.budget.name=} 2",
		}, within(lines, "rego.budget.denied", "rego.budget.granted"))
		assert.Equal(t, []string{
			"rego.policy.age{} 0",
			"rego.policy.info{rego.policy.state=initial rego.policy.version=} 1",
			"rego.policy.refusals{} 0",
		}, within(lines, "rego.policy"))
	})
}

// TestMetricsOfHedges: hedges, what they wasted, and what hedging goes by.
func TestMetricsOfHedges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMeasured(t, nil, evenly(func(p *policy.Policy) { p.Hedge.Delay = 100 * time.Millisecond }))
		srv := testsrv.Start(t)
		client := testv1.NewTestServiceClient(srv.Conn(t, m.DialOptions()...))
		srv.Handle(testsrv.Get, func(a testsrv.Arrival) testsrv.Step {
			if a.Previous == 0 && srv.Count(testsrv.Get) > 1 {
				return testsrv.Hang()
			}
			return testsrv.Echo()
		})
		for range 2 { // the first has no connection
			_, err := client.Get(t.Context(), &testv1.GetRequest{})
			require.NoError(t, err)
		}
		lines := m.read(t)
		assert.Equal(t, []string{
			"grpc.client.call.hedges{grpc.method=T/Get grpc.target=passthrough:///testsrv} 1 1",
			"rego.client.wasted.duration{grpc.method=T/Get grpc.target=passthrough:///testsrv} 0.1",
			"rego.hedge.delay{grpc.method=T/Get grpc.target=passthrough:///testsrv} 0.1",
			"rego.hedge.waiting{grpc.method=T/Get grpc.target=passthrough:///testsrv} 0",
		}, within(lines, "grpc.", "rego.client.wasted", "rego.hedge"))
	})
}

// TestMetricsOfDenials: what a budget denied.
func TestMetricsOfDenials(t *testing.T) {
	t.Parallel()
	none, err := budget.NewRatio(budget.RatioConfig{})
	require.NoError(t, err)
	m := newMeasured(t, nil, evenly(), interceptor.WithTargetBudget(func(string) budget.Budget { return none }))
	srv := testsrv.Start(t)
	srv.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, ""))
	_, err = testv1.NewTestServiceClient(srv.Conn(t, m.DialOptions()...)).Get(t.Context(), &testv1.GetRequest{})
	require.Error(t, err)
	assert.Equal(t, []string{
		"rego.budget.denied{grpc.target=passthrough:///testsrv rego.budget.kind=target rego.budget.name=} 1",
		"rego.client.denials{grpc.method=T/Get grpc.target=passthrough:///testsrv rego.attempt.kind=retry rego.denial.reason=budget-denied} 1",
	}, within(m.read(t), "rego.budget.denied", "rego.client.denials"))
}

// TestMetricsAreBounded: names that somebody makes up share one, codes that gRPC does not
// define another.
func TestMetricsAreBounded(t *testing.T) {
	t.Parallel()
	m := newMeasured(t, nil, evenly(func(p *policy.Policy) { p.Hedge.Trigger, p.Hedge.MaxExtraLoad = "at once", 0.02 }),
		interceptor.WithTrigger("at once", atOnce{}))
	srv := testsrv.Start(t)
	conn := srv.Conn(t, m.DialOptions()...)
	for i := range 10 {
		require.Error(t, conn.Invoke(t.Context(), fmt.Sprintf("/made.up.Service/\xff%d", i), &testv1.GetRequest{}, new(testv1.GetResponse)))
		srv.Script(testsrv.Get, testsrv.Fail(codes.Code(100+i), ""))
		require.Error(t, conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{}, new(testv1.GetResponse)))
	}
	lines := m.read(t)
	assert.Equal(t, []string{
		"rego.client.calls{grpc.method=T/Get grpc.target=passthrough:///testsrv rego.end.reason=non-retryable rpc.response.status_code=_OTHER} 10",
		"rego.client.calls{grpc.method=other grpc.target=passthrough:///testsrv rego.end.reason=non-retryable rpc.response.status_code=UNIMPLEMENTED} 10",
	}, within(lines, "rego.client.calls"))
	assert.Len(t, within(lines, "rpc.client.call.duration"), 2)
	assert.Len(t, within(lines, "rpc.client.call.duration{error.type=UNIMPLEMENTED rpc.method=_OTHER"), 1)
	assert.Len(t, within(lines, "rego.budget.denied{grpc.target=passthrough:///testsrv rego.budget.kind=method rego.budget.name=other"), 1)
	assert.Len(t, within(lines, "rego.budget.denied", "rego.budget.balance"), 3+2, "of the target, of one method, and denied by the others")
	assert.NotContains(t, strings.Join(lines, "\n"), "made.up")
}

// atOnce is a trigger that wants a hedge beside every attempt.
type atOnce struct{}

func (atOnce) Next(hedge.Call) (time.Duration, hedge.State) { return 0, hedge.Ready }
func (atOnce) Ended(hedge.EndedAttempt)                     {}

// TestAttributesAreUTF8: whatever a method is called, or a target. One that is not would
// have a whole scrape refused, or a whole batch of spans.
func TestAttributesAreUTF8(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	m := newMeasured(t, nil, interceptor.WithObserver(otelobs.New(otelobs.WithTracerProvider(tracers))))
	conn, err := grpc.NewClient("passthrough:///t\xff", grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, m.Unary()(t.Context(), "/a.B/C\xff\xfe", nil, nil, conn, fakeOK, grpc.StaticMethod()))
	lines := strings.Join(m.read(t), "\n")
	assert.Contains(t, lines, "grpc.method=a.B/C\ufffd grpc.target=passthrough:///t\ufffd")
	var seen strings.Builder
	for _, s := range spans.GetSpans() {
		fmt.Fprintln(&seen, s.Name, s.Attributes)
	}
	assert.Contains(t, seen.String(), "Attempt.a.B/C\ufffd")
	assert.True(t, utf8.ValidString(lines+seen.String()))
}

// TestCallDurationIsCountedOnce: where something below measures attempts under the same name,
// it is not recorded unless that is asked for.
func TestCallDurationIsCountedOnce(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		opts []otelobs.Option
		want int
	}{
		"default":                   {nil, 1},
		"tracing below":             {[]otelobs.Option{otelobs.WithTracingBelow()}, 0},
		"tracing below, asked for":  {[]otelobs.Option{otelobs.WithTracingBelow(), otelobs.WithCallDuration(true)}, 1},
		"nothing below, unasked":    {[]otelobs.Option{otelobs.WithCallDuration(false)}, 0},
		"unasked, and then it is":   {[]otelobs.Option{otelobs.WithCallDuration(false), otelobs.WithCallDuration(true)}, 1},
		"a nil option, and a trace": {[]otelobs.Option{nil, otelobs.WithTracerProvider(nil)}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMeasured(t, r.opts)
			_ = m.Unary()(t.Context(), testsrv.Get, nil, nil, nil, fakeOK)
			assert.Len(t, within(m.read(t), "rpc.client.call.duration"), r.want)
		})
	}
}

// TestExemplars: a histogram points to the trace of a call.
func TestExemplars(t *testing.T) {
	t.Parallel()
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample()))
	m := newMeasured(t, nil, interceptor.WithObserver(otelobs.New(otelobs.WithTracerProvider(tracers), otelobs.WithPropagator(propagation.TraceContext{}))))
	ctx, span := tracers.Tracer("test").Start(t.Context(), "above")
	_ = m.Unary()(ctx, testsrv.Get, nil, nil, nil, fakeOK)
	var all metricdata.ResourceMetrics
	require.NoError(t, m.reader.Collect(t.Context(), &all))
	var traces [][]byte
	for _, i := range all.ScopeMetrics[0].Metrics {
		if h, ok := i.Data.(metricdata.Histogram[float64]); ok {
			for _, e := range h.DataPoints[0].Exemplars {
				traces = append(traces, e.TraceID)
			}
		}
	}
	id := span.SpanContext().TraceID()
	assert.Equal(t, [][]byte{id[:]}, traces)
}

// TestMetricsDoNotAllocate: of a call that succeeds without retries, beside one without them.
func TestMetricsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	measure := func(it *interceptor.Interceptor) float64 {
		unary := it.Unary()
		return testing.AllocsPerRun(1000, func() { _ = unary(context.Background(), testsrv.Get, nil, nil, nil, fakeOK) })
	}
	without, err := interceptor.New()
	require.NoError(t, err)
	assert.InDelta(t, measure(without), measure(newMeasured(t, nil).Interceptor), 0.5)
}

// TestCountersDoNotGoBack: a target that is gone and back between two collections counts on,
// and a method keeps the name that it has.
func TestCountersDoNotGoBack(t *testing.T) {
	t.Parallel()
	m := newMeasured(t, nil)
	call := func(n int, opts ...grpc.CallOption) {
		conn, err := grpc.NewClient("passthrough:///x", append(m.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range n {
			require.Error(t, conn.Invoke(ctx, "/dynamic.Service/Get", nil, nil, opts...))
		}
		require.NoError(t, conn.Close())
	}
	counted := func() []string {
		var counts []string
		for _, l := range within(m.read(t), "rego.client.calls") {
			counts = append(counts, l[strings.LastIndexByte(l, ' ')+1:])
		}
		return counts
	}
	call(100)
	assert.Equal(t, []string{"100"}, counted())
	require.Eventually(t, func() bool {
		runtime.GC()
		return len(m.State().Targets) == 0
	}, 10*time.Second, 10*time.Millisecond)
	call(5)
	assert.Equal(t, []string{"105"}, counted())
	call(1, grpc.StaticMethod())
	assert.Equal(t, []string{"106"}, counted())
}
