package budget

import (
	"flag"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/internal/virtual"
)

var seedFlag = flag.Uint64("seed", 0, "run the property tests with this seed only")

// eachSeed runs a property with many seeds. A failure names its seed.
func eachSeed(t *testing.T, n int, property func(*testing.T, uint64)) {
	t.Helper()
	if *seedFlag != 0 {
		property(t, *seedFlag)
		return
	}
	for range n {
		property(t, rand.Uint64())
	}
}

// A moment is what happened at one instant of a bubble's time.
type moment struct {
	at        time.Duration
	originals int64
	successes int64
	granted   int64
	givenBack int64
	ended     int64 // of originals
}

// traffic is what several goroutines do to one budget: successes in bursts,
// extra attempts, and the ends of those, some in a later moment than their
// beginning.
type traffic struct {
	budget    *Ratio
	givesBack bool // some attempts succeed or are not sent

	mu       sync.Mutex
	inFlight []Kind
}

func (tr *traffic) moment(rng *rand.Rand, at time.Duration) moment {
	m := moment{at: at}
	quiet := rng.IntN(3) == 0 // extra attempts only
	var wg sync.WaitGroup
	for range 1 + rng.IntN(6) {
		rng := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() {
			for range rng.IntN(120) {
				switch op := rng.IntN(4); {
				case op == 0 && !quiet:
					n := 1 + rng.IntN(20)
					for range n {
						tr.budget.Acquire(Original)
						tr.budget.Release(Original, Success)
					}
					atomic.AddInt64(&m.successes, int64(n))
				case op <= 2:
					tr.begin(&m, Retry+Kind(rng.IntN(3)))
				default:
					tr.end(&m, Result(rng.IntN(4)))
				}
			}
		})
	}
	wg.Wait()
	return m
}

func (tr *traffic) begin(m *moment, k Kind) {
	if !tr.budget.Acquire(k) {
		return
	}
	atomic.AddInt64(&m.granted, cost(k))
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.inFlight = append(tr.inFlight, k)
}

func (tr *traffic) end(m *moment, r Result) {
	tr.mu.Lock()
	if len(tr.inFlight) == 0 {
		tr.mu.Unlock()
		return
	}
	k := tr.inFlight[0]
	tr.inFlight = tr.inFlight[1:]
	tr.mu.Unlock()

	if !tr.givesBack {
		r = Failure
	}
	if r == Unsent || r == Success && k != Hedge {
		atomic.AddInt64(&m.givenBack, cost(k)) // before it can be granted again
	}
	if r == Success {
		atomic.AddInt64(&m.successes, 1)
	}
	tr.budget.Release(k, r)
}

// cost is what a Ratio takes for an extra attempt.
func cost(k Kind) int64 {
	if k == Replacement {
		return 2
	}
	return 1
}

// The promise in the documentation of Ratio, for every span of time.
func TestRatioKeepsItsPromise(t *testing.T) {
	t.Parallel()
	eachSeed(t, 40, func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			config := RatioConfig{
				Ratio:        []float64{0, 0.02, 0.1, 0.5}[rng.IntN(4)],
				MinPerSecond: []float64{0, 0.5, 10, 300}[rng.IntN(4)],
			}
			tr := &traffic{budget: newRatio(config), givesBack: rng.IntN(2) == 0}
			began := time.Now()
			var moments []moment
			for range 80 {
				moments = append(moments, tr.moment(rng, time.Since(began)))
				virtual.Sleep(pause(rng))
			}
			checkSpans(t, tr, config, moments, seed)
		})
	})
}

// pause is mostly short, and sometimes long enough for all to be forgotten.
func pause(rng *rand.Rand) time.Duration {
	most := []time.Duration{time.Millisecond, 50 * time.Millisecond, 400 * time.Millisecond, 3 * time.Second}
	return time.Duration(rng.Int64N(int64(most[rng.IntN(len(most))])))
}

func checkSpans(t *testing.T, tr *traffic, c RatioConfig, moments []moment, seed uint64) {
	t.Helper()
	cells := float64(len(tr.budget.account.cells))
	for i, first := range moments {
		recent := lookEvery * cells
		for _, m := range moments[:i] {
			if first.at-m.at <= time.Second+eighth {
				recent += float64(m.successes)
			}
		}
		saved := max(1, c.MinPerSecond+c.Ratio*recent)
		atHand := 0.0
		if saved >= 2*4*cells { // else no withdrawal takes two
			atHand = saved / 4
		}
		if tr.givesBack {
			atHand += cells
		}
		if i == 0 { // from the beginning there are no allowances
			saved, atHand = c.MinPerSecond, 0
		}

		var successes, extra int64
		for _, m := range moments[i:] {
			successes += m.successes
			extra += m.granted - m.givenBack
			whole := min(float64(successes), c.MinPerSecond*(m.at-first.at).Seconds()+1)
			limit := c.Ratio*float64(successes) + whole + saved + atHand
			require.LessOrEqual(t, float64(extra), limit+1e-3, // an allowance knows time by the thousandth of a token
				"seed %d: %+v: from %v to %v", seed, c, first.at, m.at)
		}
	}
}

// Successes date themselves, if no extra attempt and no balance is asked for.
func TestRatioForgetsUnasked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newRatio(RatioConfig{Ratio: 0.1})
		for range 10_000 {
			b.Release(Original, Success)
		}
		virtual.Sleep(time.Second + eighth)
		cells := float64(len(b.account.cells))
		require.LessOrEqual(t, b.Balance(), max(1, 0.1*lookEvery*cells))
	})
}

// Nothing that was earned gets lost among goroutines, and nothing is granted
// twice: with time standing still the sum is exact. A retry that succeeds pays a tenth,
// as every success does.
func TestRatioIsExactAmongGoroutines(t *testing.T) {
	t.Parallel()
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			b := newRatio(RatioConfig{Ratio: 0.1})
			var granted, successes atomic.Int64
			var wg sync.WaitGroup
			for g := range 8 {
				k := Retry
				if g%2 == 0 {
					k = Replacement
				}
				wg.Go(func() {
					for i := range 1000 {
						successes.Add(1)
						b.Release(Original, Success)
						switch {
						case !b.Acquire(k):
						case i%3 == 0:
							successes.Add(1)
							b.Release(k, Success)
						default:
							granted.Add(cost(k))
						}
					}
				})
			}
			wg.Wait()
			for b.Acquire(Hedge) {
				granted.Add(1)
			}
			require.Equal(t, successes.Load()/10, granted.Load())
		})
	}
}

// Who finds too little gets what has come in before it says so, and leaves the rest for others.
func TestRatioTakesWhatCameInMeanwhile(t *testing.T) {
	t.Parallel()
	b := newRatio(RatioConfig{MinPerSecond: 3})
	require.True(t, b.takeLast())
	require.True(t, b.Acquire(Retry))
}

// The same outside of a bubble: goroutines on real processors and a real clock,
// which only the floor depends on.
func TestRatioHoldsOnRealProcessors(t *testing.T) {
	t.Parallel()
	eachSeed(t, 4, func(t *testing.T, seed uint64) {
		b := newRatio(RatioConfig{Ratio: 0.1, MinPerSecond: 50})
		began := time.Now()
		var successes, spent atomic.Int64
		var wg sync.WaitGroup
		for g := range uint64(8) {
			rng := rand.New(rand.NewPCG(seed, g))
			wg.Go(func() {
				for range 20_000 {
					b.Acquire(Original)
					if rng.IntN(2) == 0 {
						b.Release(Original, Failure)
					} else {
						successes.Add(1) // before it can be spent
						b.Release(Original, Success)
					}
					k, r := Retry+Kind(rng.IntN(3)), Result(rng.IntN(4))
					if !b.Acquire(k) {
						continue
					}
					if r == Success {
						successes.Add(1)
					}
					if b.Release(k, r); r == Failure || r == Neutral || k == Hedge && r == Success {
						spent.Add(cost(k))
					}
				}
			})
		}
		wg.Wait()
		limit := 0.1*float64(successes.Load()) + 50*(1+time.Since(began).Seconds())
		require.LessOrEqual(t, float64(spent.Load()), limit, "seed %d", seed)
		require.Positive(t, spent.Load(), "seed %d", seed)
	})
}

// The promise in the documentation of ExtraLoad, for every span of time: extra
// attempts are paid for by the originals in it, but for one and for what could be
// borrowed when the last of them was granted. And no more are granted than
// originals end, but for one.
func TestExtraLoadKeepsItsPromise(t *testing.T) {
	t.Parallel()
	eachSeed(t, 30, func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			share := []float64{0.001, 0.02, 0.1, 0.5}[rng.IntN(4)]
			b, err := NewExtraLoad(share)
			require.NoError(t, err)
			began := time.Now()
			var moments []moment
			for range 120 {
				moments = append(moments, loadMoment(rng, b, time.Since(began)))
				virtual.Sleep(pause(rng))
			}
			checkExtraLoad(t, b, moments, seed)
		})
	})
}

// loadMoment is what goroutines do to b at one instant: calls that ask for hedges,
// sometimes many without an end, sometimes none but those that ask.
func loadMoment(rng *rand.Rand, b *ExtraLoad, at time.Duration) moment {
	m := moment{at: at}
	stalled, most := rng.IntN(5) == 0, []int{0, 3, 100, 600}[rng.IntN(4)]
	var wg sync.WaitGroup
	for range 1 + rng.IntN(6) {
		rng := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() {
			for range rng.IntN(most + 1) {
				atomic.AddInt64(&m.originals, 1)
				b.Acquire(Original)
				if b.Acquire(Hedge) {
					atomic.AddInt64(&m.granted, 1)
					if rng.IntN(8) == 0 {
						atomic.AddInt64(&m.givenBack, 1)
						b.Release(Hedge, Unsent)
					}
				}
				if !stalled {
					b.Release(Original, Success)
					atomic.AddInt64(&m.ended, 1)
				}
			}
			for range rng.IntN(50) {
				if b.Acquire(Hedge) {
					atomic.AddInt64(&m.granted, 1)
				}
			}
		})
	}
	wg.Wait()
	return m
}

func checkExtraLoad(t *testing.T, b *ExtraLoad, moments []moment, seed uint64) {
	t.Helper()
	credit := make([]float64, len(moments)) // at each moment, at most
	for i, now := range moments {
		var second, ten int64
		for _, m := range moments[:i+1] {
			if now.at-m.at <= time.Second {
				second += m.originals
			}
			if now.at-m.at <= 10*time.Second {
				ten += m.originals
			}
		}
		expected := float64(ten)
		if now.at >= youngest && now.at < 10*time.Second {
			expected *= 10 / max(now.at.Seconds(), 1)
		}
		credit[i] = min(attempts(b.lent)*min(10*float64(second), expected), 15)
	}
	for i, first := range moments {
		var calls, extra, granted, ended int64
		for j, m := range moments[i:] {
			calls += m.originals
			extra += m.granted - m.givenBack
			granted += m.granted
			ended += m.ended
			if m.granted > 0 {
				require.LessOrEqual(t, float64(extra), attempts(b.paid)*float64(calls)+1+credit[i+j]+1e-9,
					"seed %d: from %v to %v, %d calls", seed, first.at, m.at, calls)
			}
			require.LessOrEqual(t, granted, ended+1, "seed %d: from %v to %v", seed, first.at, m.at)
		}
	}
}
