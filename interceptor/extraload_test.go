package interceptor_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// load is goroutines that call a method of 5 ms one after the other, and from
// turn on one that does as the scenario says, all in virtual time.
type load struct {
	goroutines int
	turn, end  time.Duration
	then       func(ctx context.Context, r *rand.Rand) error
	deadline   time.Duration // of each call, if not 0

	mu            sync.Mutex
	began         time.Time
	calls, hedges []time.Duration // when they began
}

const maxExtraLoad = 0.02

func (l *load) run(t *testing.T) {
	t.Helper()
	unary := newInterceptor(t, interceptor.WithTargetBudget(unlimited), interceptor.WithPolicy(exact(func(p *policy.Policy) {
		p.Hedge.MaxExtraLoad, p.Retry.Off = maxExtraLoad, true
	}))).Unary()
	l.began = time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), l.end)
	defer cancel()
	var wg sync.WaitGroup
	for g := range l.goroutines {
		r := rand.New(rand.NewPCG(uint64(g), 1))
		wg.Go(func() {
			var reply testv1.GetResponse
			for ctx.Err() == nil {
				ctx, cancel := ctx, context.CancelFunc(func() {})
				if l.deadline > 0 {
					ctx, cancel = context.WithTimeout(ctx, l.deadline)
				}
				l.note(&l.calls)
				_ = unary(ctx, testsrv.Get, nil, &reply, nil, l.serve(r))
				cancel()
			}
		})
	}
	wg.Wait()
}

func (l *load) note(events *[]time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*events = append(*events, time.Since(l.began))
}

func (l *load) serve(r *rand.Rand) grpc.UnaryInvoker {
	jitter := time.Duration(r.IntN(int(ms))) // drawn here: attempts run side by side
	seed := r.Uint64()
	return func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		n := attemptNumber(ctx)
		if n > 1 {
			l.note(&l.hedges)
		}
		if time.Since(l.began) >= l.turn {
			return l.then(ctx, rand.New(rand.NewPCG(seed, uint64(n))))
		}
		return sleepFor(ctx, 5*ms+jitter)
	}
}

func sleepFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// TestExtraLoadPromise: over any ten seconds hedges are at most MaxExtraLoad of
// the calls and one more, whatever the method does.
func TestExtraLoadPromise(t *testing.T) {
	t.Parallel()
	slow := func(d time.Duration) func(context.Context, *rand.Rand) error {
		return func(ctx context.Context, _ *rand.Rand) error { return sleepFor(ctx, d) }
	}
	for _, sc := range []struct {
		name     string
		then     func(context.Context, *rand.Rand) error
		deadline time.Duration
		busy     bool // a goroutine makes a thousand calls a second
	}{
		{name: "nothing happens", then: slow(5 * ms)},
		{name: "every call stalls", then: slow(time.Hour)},
		{name: "every call stalls and has a deadline", then: slow(time.Hour), deadline: 100 * ms},
		{name: "latency jumps tenfold", then: slow(50 * ms)},
		{name: "latency jumps a hundredfold", then: slow(500 * ms)},
		{name: "15 ms are added", then: slow(20 * ms)},
		{name: "every call fails at once", busy: true, then: func(ctx context.Context, _ *rand.Rand) error {
			_ = sleepFor(ctx, ms)
			return status.Error(codes.Unavailable, "")
		}},
		{name: "a tenth is slow", then: func(ctx context.Context, r *rand.Rand) error {
			if r.IntN(10) == 0 {
				return sleepFor(ctx, 200*ms)
			}
			return sleepFor(ctx, 5*ms)
		}},
		{name: "lognormal", then: func(ctx context.Context, r *rand.Rand) error {
			return sleepFor(ctx, time.Duration(5e6*math.Exp(r.NormFloat64())))
		}},
	} {
		for _, goroutines := range []int{1, 1000} {
			t.Run(fmt.Sprintf("%s, %d goroutines", sc.name, goroutines), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					l := &load{goroutines: goroutines, turn: 14 * time.Second, end: 30 * time.Second, then: sc.then, deadline: sc.deadline}
					if goroutines == 1000 { // as many calls are made in less time
						l.turn, l.end = 400*ms, 900*ms
					}
					if goroutines == 1000 && sc.busy {
						l.end = 500 * ms
					}
					l.run(t)
					l.check(t)
				})
			})
		}
	}
}

// check holds every ten seconds that begin with a hedge against the promise, as
// far as the run goes. Where calls break off, those count that were to be expected
// when the last of the hedges began.
func (l *load) check(t *testing.T) {
	t.Helper()
	slices.Sort(l.calls)
	slices.Sort(l.hedges)
	require.NotEmpty(t, l.hedges)
	worst := math.Inf(-1)
	for i, from := range l.hedges {
		hedges := between(l.hedges, from, from+10*time.Second)
		last := l.hedges[i+hedges-1]
		calls := between(l.calls, from, from+10*time.Second)
		expected := min(10*between(l.calls, last-time.Second, last), between(l.calls, last-10*time.Second, last))
		require.LessOrEqual(t, float64(hedges), maxExtraLoad*float64(max(calls, expected))+1,
			"ten seconds from hedge %d at %v: %d calls, %d to be expected", i, from, calls, expected)
		if from+10*time.Second <= l.end || l.end < 10*time.Second {
			worst = max(worst, float64(hedges)-maxExtraLoad*float64(calls))
		}
	}
	t.Logf("%d calls, %d hedges (%.2f %%), at worst %.2f over the share", len(l.calls), len(l.hedges),
		100*float64(len(l.hedges))/float64(len(l.calls)), worst)
	assert.LessOrEqual(t, worst, 2.0, "one, and one more where all stall")
}

func between(events []time.Duration, from, to time.Duration) int {
	low, _ := slices.BinarySearch(events, from)
	high, _ := slices.BinarySearch(events, to+1)
	return high - low
}
