package otelobs_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
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
	tp := sdktrace.NewTracerProvider(sdktrace.WithSampler(s))
	b.Cleanup(func() { _ = tp.Shutdown(context.Background()) })
	return interceptor.WithObserver(otelobs.New(
		otelobs.WithTracerProvider(tp),
		otelobs.WithPropagator(propagation.TraceContext{}),
	))
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
