package slogobs_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/slogobs"
	"github.com/rego-go/rego/internal/testsrv"
)

func succeed(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	return nil
}

func benchmark(b *testing.B, invoker grpc.UnaryInvoker, opts ...interceptor.Option) {
	b.Helper()
	it, err := interceptor.New(opts...)
	require.NoError(b, err)
	unary := it.Unary()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = unary(context.Background(), testsrv.Get, nil, nil, nil, invoker)
		}
	})
}

func recorder() *slogobs.Recorder {
	return slogobs.New(slog.New(slog.NewTextHandler(nowhere{}, &slog.HandlerOptions{Level: slog.LevelWarn})))
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

// idle is a recorder as cheap as it can be.
type idle struct{}

func (idle) Record(context.Context, interceptor.Summary) {}

// BenchmarkNoRecorder is what the others are held against.
func BenchmarkNoRecorder(b *testing.B) { benchmark(b, succeed) }

// BenchmarkIdleRecorder is what any recorder costs: the call is timed.
func BenchmarkIdleRecorder(b *testing.B) { benchmark(b, succeed, interceptor.WithRecorder(idle{})) }

func BenchmarkSuccess(b *testing.B) { benchmark(b, succeed, interceptor.WithRecorder(recorder())) }

// BenchmarkSuccessWhileDenying is a call that succeeds while a budget of its target denies.
func BenchmarkSuccessWhileDenying(b *testing.B) {
	r := recorder()
	r.Record(context.Background(), interceptor.Summary{
		Start:   time.Now(),
		Denials: []interceptor.Denial{{Kind: budget.Retry, Reason: interceptor.DeniedByBudget}},
	})
	benchmark(b, succeed, interceptor.WithRecorder(r))
}

// BenchmarkLeftOut is the line that is not written, of a call that failed.
func BenchmarkLeftOut(b *testing.B) {
	r := recorder()
	it, err := interceptor.New(interceptor.WithRecorder(recorderFunc(func(ctx context.Context, s interceptor.Summary) {
		r.Record(ctx, s)
		b.ReportAllocs()
		b.ResetTimer()
		for b.Loop() {
			r.Record(ctx, s)
		}
	})))
	require.NoError(b, err)
	_ = it.Unary()(context.Background(), testsrv.Get, nil, nil, nil, unavailable)
}

// BenchmarkLine is a line that is written.
func BenchmarkLine(b *testing.B) {
	r := slogobs.New(slog.New(slog.NewJSONHandler(nowhere{}, nil)), slogobs.WithInterval(0))
	it, err := interceptor.New(interceptor.WithRecorder(recorderFunc(func(ctx context.Context, s interceptor.Summary) {
		require.Equal(b, codes.Unavailable, s.Code)
		b.ReportAllocs()
		b.ResetTimer()
		for b.Loop() {
			r.Record(ctx, s)
		}
	})))
	require.NoError(b, err)
	_ = it.Unary()(context.Background(), testsrv.Get, nil, nil, nil, unavailable)
}

type recorderFunc func(context.Context, interceptor.Summary)

func (f recorderFunc) Record(ctx context.Context, s interceptor.Summary) { f(ctx, s) }
