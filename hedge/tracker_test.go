package hedge

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/internal/virtual"
)

const ms = time.Millisecond

// TestEdges: what a duration counts as is never less and at most 1 % more.
func TestEdges(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		d := time.Duration(float64(10*time.Microsecond) * math.Exp(rng.Float64()*math.Log(1e7))) // 10 µs to 100 s
		e := edge(bucket(d))
		require.Greater(t, e, d)
		require.LessOrEqual(t, float64(e-d), 0.01*float64(d), "%v counts as %v", d, e)
	}
}

// TestEdgesFollowEachOther: there are no gaps between buckets, and none is hit
// from outside of it.
func TestEdgesFollowEachOther(t *testing.T) {
	t.Parallel()
	begin := time.Duration(0)
	for o := range octaves {
		for i := range split {
			for _, d := range []time.Duration{begin, edge(o, i) - 1} {
				gotO, gotI := bucket(d)
				require.Equal(t, [2]int{o, i}, [2]int{gotO, gotI}, "%v", d)
			}
			begin = edge(o, i)
		}
	}
	for d, want := range map[time.Duration]time.Duration{
		-time.Second:  64 * time.Nanosecond,
		0:             64 * time.Nanosecond,
		time.Hour:     begin,
		math.MaxInt64: begin,
		begin:         begin,
	} {
		assert.Equal(t, want, edge(bucket(d)), "%v", d)
	}
	assert.Greater(t, begin, 100*time.Second)
}

// TestQuantiles against sorted samples.
func TestQuantiles(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for name, draw := range map[string]func() time.Duration{
		"uniform":   func() time.Duration { return 4*ms + time.Duration(rng.IntN(int(2*ms))) },
		"lognormal": func() time.Duration { return time.Duration(5e6 * math.Exp(rng.NormFloat64())) },
		"bimodal": func() time.Duration {
			if rng.Float64() < 0.02 {
				return 200 * ms
			}
			return 5 * ms
		},
		"one value": func() time.Duration { return 7 * ms },
		"wide":      func() time.Duration { return time.Duration(1e4 * math.Exp(rng.Float64()*16)) },
	} {
		for _, n := range []int{1, 2, 99, 100, 12_345} {
			tr := NewTracker()
			samples := make([]time.Duration, n)
			for i := range samples {
				samples[i] = draw()
				tr.add(samples[i])
			}
			slices.Sort(samples)
			for _, q := range []float64{0.5, 0.9, 0.95, 0.975, 0.98, 0.99, 0.999} {
				exact := samples[n-1-int((1-q)*float64(n)+1e-6)]
				got, total := tr.quantile(q, 0)
				require.EqualValues(t, n, total)
				require.Greater(t, got, exact, "%s: %v of %d", name, q, n)
				require.LessOrEqual(t, float64(got), 1.01*float64(exact), "%s: %v of %d", name, q, n)
			}
		}
	}
}

// TestTrackerForgets what is older than two windows of two seconds, and where
// samples are rare keeps the last five hundred and more.
func TestTrackerForgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := NewTracker()
		d := tr.Quantile(0.5, Bounds{})
		every := func(pause time.Duration, n int, took time.Duration) {
			for range n {
				virtual.Sleep(pause)
				now := time.Now()
				d.Record(now.Add(-took), now)
			}
		}
		in := func(low, high time.Duration, why string) {
			t.Helper()
			got, state := d.After()
			assert.Equal(t, Ready, state)
			assert.GreaterOrEqual(t, got, low, why)
			assert.LessOrEqual(t, got, high, why)
		}
		every(ms, 10_000, 100*ms)
		in(100*ms, 101*ms, "after ten seconds")
		_, total := tr.quantile(0.5, time.Since(tr.began))
		assert.GreaterOrEqual(t, total, int64(2000), "a window lasts two seconds, however many samples it has")
		every(ms, 4200, 10*ms)
		in(10*ms, 11*ms, "no trace of what was before")
		every(time.Minute, 60, 50*ms)
		in(10*ms, 11*ms, "an hour without many samples: what was before is remembered")
		every(time.Minute, 1000, 50*ms)
		in(50*ms, 51*ms, "a thousand samples later")
		_, total = tr.quantile(0.5, time.Since(tr.began))
		assert.LessOrEqual(t, total, int64(1100), "and no more are kept than two windows need")
	})
}

// TestNoSampleIsLost among processors.
func TestNoSampleIsLost(t *testing.T) {
	t.Parallel()
	tr := NewTracker()
	d := tr.Quantile(0.98, Bounds{})
	var wg sync.WaitGroup
	start := time.Now()
	for g := range 8 {
		wg.Go(func() {
			for i := range 20_000 {
				d.Record(start, start.Add(time.Duration(g*20_000+i)*time.Microsecond))
			}
		})
	}
	wg.Wait()
	_, total := tr.quantile(0.5, 0)
	assert.EqualValues(t, 160_000, total)
}
