package interceptor

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// newHedged returns a call of a method that is hedged after a second, and that
// takes no time.
func newHedged(tb testing.TB) func(context.Context) error {
	tb.Helper()
	takeForGRPC(answeringOK)
	p := idempotentNow
	p.Hedge = policy.Hedge{MaxExtraLoad: 0.02, MinDelay: time.Second}
	it, err := New(WithPolicy(p))
	require.NoError(tb, err)
	delay := it.target(nil).plan(benchMethod).hedging.delay
	for i := range 200 { // of the last twenty seconds
		end := time.Now().Add(time.Duration(i-200) * 100 * time.Millisecond)
		delay.Record(end, end)
	}
	unary := it.Unary()
	reply := new(testv1.GetResponse)
	return func(ctx context.Context) error {
		return unary(ctx, benchMethod, nil, reply, nil, answeringOK, stubOptions...)
	}
}

func BenchmarkHedgingArmed(b *testing.B) {
	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancellable": b.Context()} {
		b.Run(name, func(b *testing.B) {
			call := newHedged(b)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_ = call(ctx)
				}
			})
		})
	}
}

// BenchmarkHedgeWins is a call whose hedge starts at once and wins.
func BenchmarkHedgeWins(b *testing.B) {
	invoker := func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
		var err error
		if md, _ := metadata.FromOutgoingContext(ctx); md == nil { // the original
			<-ctx.Done()
			err = status.FromContextError(ctx.Err()).Err()
		}
		tellEnd(err, opts)
		return err
	}
	p := idempotentNow
	p.Retry.MaxAttempts, p.Hedge.Delay = 2, policy.NoWait
	unary := newBench(b, WithPolicy(p), WithTargetBudget(unlimited))
	takeForGRPC(invoker)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		reply := new(testv1.GetResponse)
		for pb.Next() {
			_ = unary(context.Background(), benchMethod, nil, reply, nil, invoker)
		}
	})
}

// TestArmedHedging: a hedge that is not started costs a context and a timer.
func TestArmedHedging(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties sync.Pool at random")
	}
	call := newHedged(t)
	ctx := context.Background()
	assert.LessOrEqual(t, testing.AllocsPerRun(1000, func() { _ = call(ctx) }), 4.0)
}
