package otelobs

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.39.0"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
)

// Metrics are OpenTelemetry metrics of calls: histograms of calls with retries and hedges,
// as in gRFC A96, and of the duration of calls. [Metrics.Watch] adds what the interceptor
// itself counts, which is read only when metrics are collected. The names are in
// docs/telemetry.md.
//
// Metrics are safe for concurrent use, and may serve several interceptors.
type Metrics struct {
	retries  metric.Int64Histogram
	hedges   metric.Int64Histogram
	delay    metric.Float64Histogram
	duration metric.Float64Histogram // nil if it is not wanted

	meter metric.Meter
	known atomic.Pointer[map[callKey]*labels]

	mu      sync.Mutex
	pending map[callKey]*labels // known and what was made since
	missed  int                 // looks that known could not answer since it was stored
}

var _ interceptor.Recorder = (*Metrics)(nil)

// callKey is what the labels of a call depend on.
type callKey struct {
	method, target string
	registered     bool
	code           codes.Code
}

// labels are made once for all calls that are alike.
type labels struct {
	grpc []metric.RecordOption // method and target, as gRFC A66 has them
	rpc  []metric.RecordOption // as OpenTelemetry's conventions have them
}

// maxLabels bounds what is kept, also of targets that are gone.
const maxLabels = 4096

// NewMetrics returns metrics for [interceptor.WithRecorder]. Without options they go to
// OpenTelemetry's global meter provider. An error is from the provider, about the
// instruments.
func NewMetrics(opts ...Option) (*Metrics, error) {
	c := newConfig(opts)
	f := factory{Meter: c.meters.Meter(ScopeName, metric.WithSchemaURL(semconv.SchemaURL))}
	m := &Metrics{
		meter:   f.Meter,
		retries: f.counts(callRetries),
		hedges:  f.counts(callHedges),
		delay:   f.seconds(callRetryDelay, latencyBuckets),
	}
	if c.callDuration {
		m.duration = f.seconds(callDuration, durationBuckets)
	}
	m.known.Store(new(map[callKey]*labels))
	if f.err != nil {
		return nil, fmt.Errorf("rego: metrics: %w", f.err)
	}
	return m, nil
}

// Record implements interceptor.Recorder.
func (m *Metrics) Record(ctx context.Context, s interceptor.Summary) {
	if m.duration == nil && s.Retries == 0 && s.Hedges == 0 && s.RetryDelay == 0 {
		return
	}
	l := m.labels(callKey{s.Method, s.Target, s.Registered, s.Code})
	if m.duration != nil {
		m.duration.Record(ctx, s.Elapsed.Seconds(), l.rpc...)
	}
	if s.Retries > 0 {
		m.retries.Record(ctx, int64(s.Retries), l.grpc...)
	}
	if s.Hedges > 0 {
		m.hedges.Record(ctx, int64(s.Hedges), l.grpc...)
	}
	if s.RetryDelay > 0 {
		m.delay.Record(ctx, s.RetryDelay.Seconds(), l.grpc...)
	}
}

func (m *Metrics) labels(k callKey) *labels {
	if !k.registered {
		k.method = ""
	}
	k.code = min(k.code, interceptor.OtherCode)
	if l, ok := (*m.known.Load())[k]; ok {
		return l
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.pending[k]
	if !ok {
		if m.pending == nil || len(m.pending) >= maxLabels {
			m.pending = make(map[callKey]*labels)
		}
		l = newLabels(k)
		m.pending[k] = l
	}
	// Copying is worth it once as many looks were in vain as there are labels to copy.
	if m.missed++; m.missed >= len(m.pending) {
		m.missed = 0
		known := maps.Clone(m.pending)
		m.known.Store(&known)
	}
	return l
}

func newLabels(k callKey) *labels {
	code := metricCode(k.code)
	method := strings.TrimPrefix(k.method, "/")
	rpc := []attribute.KeyValue{rpcSystemName.String("grpc"), rpcMethod.String(method), rpcResponseStatusCode.String(code)}
	if method == "" {
		rpc[1] = rpcMethod.String("_OTHER")
	}
	if k.code != codes.OK {
		rpc = append(rpc, errorType.String(code))
	}
	host, port := server(k.target)
	if host != "" {
		rpc = append(rpc, serverAddress.String(host))
	}
	if port != 0 {
		rpc = append(rpc, serverPort.Int(port))
	}
	return &labels{
		grpc: []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(methodAndTarget(k.method, k.registered, k.target)...))},
		rpc:  []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(rpc...))},
	}
}

// methodAndTarget are the labels of gRFC A66. A method that is not the program's own is
// "other".
func methodAndTarget(method string, registered bool, target string) []attribute.KeyValue {
	if !registered || method == "" {
		method = "other"
	}
	return []attribute.KeyValue{grpcMethod.String(strings.TrimPrefix(method, "/")), grpcTarget.String(target)}
}

// metricCode names a code. All that gRPC does not define have one name: a server must not be
// able to make up series.
func metricCode(c codes.Code) string {
	if c >= interceptor.OtherCode {
		return "_OTHER"
	}
	return classify.CodeName(c)
}
