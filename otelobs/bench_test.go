package otelobs_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/otelobs"
)

// fakeOK is a call that succeeds at once, as cheap as a call can be.
func fakeOK(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	return nil
}

func benchmark(b *testing.B, opts ...interceptor.Option) {
	b.Helper()
	it, err := interceptor.New(opts...)
	require.NoError(b, err)
	unary := it.Unary()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = unary(context.Background(), testsrv.Get, nil, nil, nil, fakeOK)
		}
	})
}

func observed(b *testing.B, s sdktrace.Sampler) interceptor.Option {
	b.Helper()
	return interceptor.WithObserver(otelobs.New(
		otelobs.WithTracerProvider(provider(b, s)),
		otelobs.WithPropagator(propagation.TraceContext{}),
	))
}

func provider(b *testing.B, s sdktrace.Sampler) *sdktrace.TracerProvider {
	b.Helper()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSampler(s))
	b.Cleanup(func() { _ = tp.Shutdown(context.Background()) })
	return tp
}

// BenchmarkNoObserver is what the others are held against.
func BenchmarkNoObserver(b *testing.B) { benchmark(b) }

func BenchmarkUnsampled(b *testing.B) { benchmark(b, observed(b, sdktrace.NeverSample())) }

// BenchmarkSampled records without exporting.
func BenchmarkSampled(b *testing.B) { benchmark(b, observed(b, sdktrace.AlwaysSample())) }

// BenchmarkMetrics counts and times.
func BenchmarkMetrics(b *testing.B) {
	m := newMeasured(b, nil)
	unary := m.Unary()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = unary(context.Background(), testsrv.Get, nil, nil, nil, fakeOK)
		}
	})
}

// BenchmarkTraced makes whole calls to a server in memory: without spans, with the one of
// otelgrpc, and with the two of rego.
func BenchmarkTraced(b *testing.B) {
	for _, c := range []struct {
		name string
		dial func(b *testing.B) []grpc.DialOption
	}{
		{"bare", func(*testing.B) []grpc.DialOption { return nil }},
		{"otelgrpc", func(b *testing.B) []grpc.DialOption {
			b.Helper()
			return []grpc.DialOption{grpc.WithStatsHandler(otelgrpc.NewClientHandler(
				otelgrpc.WithTracerProvider(provider(b, sdktrace.AlwaysSample())), otelgrpc.WithMeterProvider(noop.NewMeterProvider()),
				otelgrpc.WithPropagators(propagation.TraceContext{})))}
		}},
		{"rego", func(b *testing.B) []grpc.DialOption {
			b.Helper()
			it, err := interceptor.New(observed(b, sdktrace.AlwaysSample()))
			require.NoError(b, err)
			return it.DialOptions()
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			srv, err := testsrv.New(testsrv.NoRecording())
			require.NoError(b, err)
			defer srv.Close()
			conn, err := srv.Dial(c.dial(b)...)
			require.NoError(b, err)
			client := testv1.NewTestServiceClient(conn)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Get(context.Background(), &testv1.GetRequest{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
