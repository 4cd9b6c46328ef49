package main

import (
	"bytes"
	"flag"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var seeds = flag.Uint64("seeds", 1, "with how many seeds to run each scenario")

// Clients with the default budget recover about as they would without retries.
func TestRecovery(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		load   float64
		within time.Duration // any of them
		atMost map[int]float64
	}{
		{0.6, 9 * time.Second, map[int]float64{1: 1.15, 100: 1.15, 1000: 1.5}},
		{0.8, 27 * time.Second, map[int]float64{1: 1.15, 100: 1.15, 1000: 1.5}},
		{0.9, 62 * time.Second, map[int]float64{1: 1.15, 100: 1.15, 1000: 1.5}},
	} {
		for seed := range *seeds {
			bare, ok := recovery(run(t, overload(1, tt.load, tt.within), off, seed))
			require.True(t, ok, "load %v, seed %d", tt.load, seed)
			for clients, atMost := range tt.atMost {
				with, ok := recovery(run(t, overload(clients, tt.load, tt.within), byDefault, seed))
				require.True(t, ok, "%d clients, load %v, seed %d", clients, tt.load, seed)
				assert.LessOrEqual(t, with.Seconds(), atMost*bare.Seconds(),
					"%d clients, load %v, seed %d: without retries %v", clients, tt.load, seed, bare)
			}
		}
	}
}

// What else there is keeps the server overloaded.
func TestOthersDoNotRecover(t *testing.T) {
	t.Parallel()
	for _, l := range []limit{none, floored} {
		_, ok := recovery(run(t, overload(100, 0.8, 30*time.Second), l, 1))
		assert.False(t, ok, l.name)
	}
}

// A server that drops what nobody waits for any more recovers sooner, with retries too.
func TestServerThatDrops(t *testing.T) {
	t.Parallel()
	sc := overload(100, 0.8, 20*time.Second)
	keeps, ok := recovery(run(t, sc, byDefault, 1))
	require.True(t, ok)
	sc.drops = true
	drops, ok := recovery(run(t, sc, byDefault, 1))
	require.True(t, ok)
	assert.Less(t, drops, keeps/2)
}

func TestScatteredFailures(t *testing.T) {
	t.Parallel()
	for _, rate := range rates {
		for seed := range *seeds {
			sum := total(t, ill(rate, 0.2, 20*time.Second), byDefault, seed)
			assert.GreaterOrEqual(t, sum.share(), 0.995, "%v calls/s, seed %d", rate, seed)
			assert.Less(t, total(t, ill(rate, 0.2, 20*time.Second), off, seed).share(), 0.81, "%v calls/s, seed %d", rate, seed)
		}
	}
}

func TestOutage(t *testing.T) {
	t.Parallel()
	for i, atMost := range []float64{1.10, 1.03, 1.02} {
		for seed := range *seeds {
			sum := total(t, ill(rates[i], 1, time.Minute), byDefault, seed)
			assert.LessOrEqual(t, sum.attemptsPerCall(), atMost, "%v calls/s, seed %d", rates[i], seed)
			assert.Greater(t, sum.attempts, sum.calls, "%v calls/s, seed %d: nothing was saved up", rates[i], seed)
		}
	}
}

// The same seed makes the same calls. What a budget remembers depends, in little, on
// the processors that its calls ran on.
func TestDeterministic(t *testing.T) {
	t.Parallel()
	sc := overload(10, 0.8, 0)
	assert.True(t, slices.Equal(run(t, sc, none, 3), run(t, sc, none, 3)))
	assert.False(t, slices.Equal(run(t, sc, none, 3), run(t, sc, none, 4)))
}

func TestReport(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "plot.png")
	st := study{clients: []int{1, 20}, loads: []float64{0.2, 0.3}, limits: []limit{off, byDefault}, cut: 0.5, length: 6 * time.Second, ill: time.Second, seed: 1}
	var out bytes.Buffer
	require.NoError(t, st.report(t, &out, file))
	assert.Contains(t, out.String(), "load of 0.2 / 0.3:")
	assert.Contains(t, out.String(), "default     0.00 / 0.00  0.00 / 0.00\n")
	assert.Regexp(t, `no retries +\d\d\.\d\d % / .* 1\.000 / 1\.000 / 1\.000\n`, out.String())
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	_, err = png.Decode(f)
	require.NoError(t, err)
}

func TestUnknownNames(t *testing.T) {
	t.Parallel()
	_, err := choose("default,none-such")
	require.EqualError(t, err, `no budget "none-such", there are no retries,no budget,20 % and 10/s,gRPC A6 10/0.1,default`)
	assert.Error(t, drawPlot([]panel{{}}, 1, "plot.doc"))
}
