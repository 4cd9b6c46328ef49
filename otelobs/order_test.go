package otelobs_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats/opentelemetry"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/otelobs"
)

// TestOrderOfInstrumentation: what counts one call of three attempts, and what counts three,
// as docs/telemetry.md has it.
func TestOrderOfInstrumentation(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		dial func(rego []grpc.DialOption, p *metric.MeterProvider) []grpc.DialOption
		want map[string]uint64
	}{
		"otelgrpc": {
			func(rego []grpc.DialOption, p *metric.MeterProvider) []grpc.DialOption {
				return append(rego, grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithMeterProvider(p))))
			},
			map[string]uint64{"rpc.client.call.duration": 3, "rego's rpc.client.call.duration": 1},
		},
		"grpc's plugin, before rego": {
			func(rego []grpc.DialOption, p *metric.MeterProvider) []grpc.DialOption {
				return append([]grpc.DialOption{plugin(p)}, rego...)
			},
			map[string]uint64{"grpc.client.call.duration": 1, "grpc.client.attempt.duration": 3, "rego's rpc.client.call.duration": 1},
		},
		"grpc's plugin, after rego": {
			func(rego []grpc.DialOption, p *metric.MeterProvider) []grpc.DialOption {
				return append(rego, plugin(p))
			},
			map[string]uint64{"grpc.client.call.duration": 3, "grpc.client.attempt.duration": 3, "rego's rpc.client.call.duration": 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reader := metric.NewManualReader()
			provider := metric.NewMeterProvider(metric.WithReader(reader))
			m := newMeasured(t, []otelobs.Option{otelobs.WithMeterProvider(provider)}, evenly())
			srv := testsrv.Start(t)
			fails := testsrv.Fail(codes.Unavailable, "")
			srv.Script(testsrv.Get, fails, fails, testsrv.Echo())
			conn := srv.Conn(t, r.dial(m.DialOptions(), provider)...)
			_, err := testv1.NewTestServiceClient(conn).Get(t.Context(), &testv1.GetRequest{})
			require.NoError(t, err)
			counts := make(map[string]uint64)
			var all metricdata.ResourceMetrics
			require.NoError(t, reader.Collect(t.Context(), &all))
			for _, scope := range all.ScopeMetrics {
				for _, i := range scope.Metrics {
					name := i.Name
					if scope.Scope.Name == otelobs.ScopeName {
						name = "rego's " + name
					}
					if h, ok := i.Data.(metricdata.Histogram[float64]); ok && r.want[name] > 0 {
						for _, p := range h.DataPoints {
							counts[name] += p.Count
						}
					}
				}
			}
			assert.Equal(t, r.want, counts)
		})
	}
}

func plugin(p *metric.MeterProvider) grpc.DialOption {
	return opentelemetry.DialOption(opentelemetry.Options{MetricsOptions: opentelemetry.MetricsOptions{MeterProvider: p}})
}

// TestAttemptsOfOtelgrpc: its metrics can tell which attempt they are of.
func TestAttemptsOfOtelgrpc(t *testing.T) {
	t.Parallel()
	reader := metric.NewManualReader()
	m := newMeasured(t, nil, evenly())
	srv := testsrv.Start(t)
	srv.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, ""), testsrv.Echo())
	conn := srv.Conn(t, append(m.DialOptions(), grpc.WithStatsHandler(otelgrpc.NewClientHandler(
		otelgrpc.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(reader))),
		otelgrpc.WithMetricAttributesFn(func(ctx context.Context) []attribute.KeyValue {
			_, kind := interceptor.AttemptFromContext(ctx)
			return []attribute.KeyValue{attribute.String("rego.attempt.kind", kind.String())}
		}))))...)
	_, err := testv1.NewTestServiceClient(conn).Get(t.Context(), &testv1.GetRequest{})
	require.NoError(t, err)
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	var kinds []string
	for _, i := range all.ScopeMetrics[0].Metrics {
		if h, ok := i.Data.(metricdata.Histogram[float64]); ok {
			for _, p := range h.DataPoints {
				kind, _ := p.Attributes.Value("rego.attempt.kind")
				kinds = append(kinds, kind.AsString())
			}
		}
	}
	assert.ElementsMatch(t, []string{"original", "retry"}, kinds)
}
