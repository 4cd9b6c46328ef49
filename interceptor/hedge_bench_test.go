package interceptor

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
		return unary(ctx, benchMethod, nil, reply, nil, answeringOK)
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

// TestArmedHedging: a hedge that is not started costs a context and a timer.
func TestArmedHedging(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties sync.Pool at random")
	}
	call := newHedged(t)
	ctx := context.Background()
	assert.LessOrEqual(t, testing.AllocsPerRun(1000, func() { _ = call(ctx) }), 4.0)
}
