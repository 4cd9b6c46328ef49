package budget_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
)

func TestConcurrency(t *testing.T) {
	t.Parallel()
	tests := []struct {
		config    budget.ConcurrencyConfig
		originals int
		extra     int // how many are granted
	}{
		{budget.ConcurrencyConfig{}, 100, 0},
		{budget.ConcurrencyConfig{Min: 3}, 0, 3},
		{budget.ConcurrencyConfig{Min: 3}, 100, 3},
		{budget.ConcurrencyConfig{Share: 0.2}, 4, 0},   // 1 of 5 would be 20 % only once it is there
		{budget.ConcurrencyConfig{Share: 0.2}, 5, 1},   // 20 % of 5
		{budget.ConcurrencyConfig{Share: 0.2}, 8, 1},   // 20 % of 8 + 1 is less than 2
		{budget.ConcurrencyConfig{Share: 0.2}, 9, 2},   // 20 % of 9 + 1 is 2
		{budget.ConcurrencyConfig{Share: 0.2}, 80, 19}, // 20 % of 80 + 19 is less than 20
		{budget.ConcurrencyConfig{Share: 0.2, Min: 3}, 9, 3},
		{budget.ConcurrencyConfig{Share: 0.2, Min: 3}, 80, 19},
	}
	for _, tt := range tests {
		b, err := budget.NewConcurrency(tt.config)
		require.NoError(t, err)
		for range tt.originals {
			require.True(t, b.Acquire(budget.Original))
		}
		extra := 0
		for b.Acquire(budget.Retry) {
			extra++
		}
		assert.Equal(t, tt.extra, extra, "%+v, %d originals", tt.config, tt.originals)
	}
}

func TestConcurrencyHoldsPlacesUntilReleased(t *testing.T) {
	t.Parallel()
	b, err := budget.NewConcurrency(budget.ConcurrencyConfig{Share: 0.5})
	require.NoError(t, err)

	b.Acquire(budget.Original)
	b.Acquire(budget.Original)
	require.True(t, b.Acquire(budget.Retry)) // 1 of 2
	require.False(t, b.Acquire(budget.Retry))
	for _, r := range []budget.Result{budget.Unsent, budget.Success, budget.Failure, budget.Neutral} {
		b.Release(budget.Retry, r)
		require.True(t, b.Acquire(budget.Hedge), r)
		require.False(t, b.Acquire(budget.Retry), r)
	}

	b.Release(budget.Original, budget.Success)
	b.Release(budget.Original, budget.Success) // the hedge keeps its place
	b.Acquire(budget.Original)
	require.False(t, b.Acquire(budget.Retry)) // 1 of 2 is the hedge
	b.Release(budget.Hedge, budget.Success)
	require.False(t, b.Acquire(budget.Retry)) // half of 1
}

func TestConcurrencyLimitHoldsAmongGoroutines(t *testing.T) {
	t.Parallel()
	const limit = 7
	b, err := budget.NewConcurrency(budget.ConcurrencyConfig{Min: limit})
	require.NoError(t, err)

	var inFlight, most, granted atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 2000 {
				if !b.Acquire(budget.Retry) {
					continue
				}
				granted.Add(1)
				n := inFlight.Add(1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				inFlight.Add(-1)
				b.Release(budget.Retry, budget.Failure)
			}
		})
	}
	wg.Wait()
	assert.LessOrEqual(t, most.Load(), int64(limit))
	assert.Positive(t, granted.Load())
	for range limit { // every place has come back
		require.True(t, b.Acquire(budget.Retry))
	}
	require.False(t, b.Acquire(budget.Retry))
}

func TestConcurrencyHoldsNoPlaceForWhatWaits(t *testing.T) {
	t.Parallel()
	b, err := budget.NewConcurrency(budget.ConcurrencyConfig{Min: 1})
	require.NoError(t, err)
	waiting, ok := budget.Take(b, budget.Retry)
	require.True(t, ok)
	waiting.Pause()
	original, _ := budget.Take(b, budget.Original)
	original.Pause() // it was not granted, so there is no place to give back
	running, ok := budget.Take(b, budget.Retry)
	require.True(t, ok, "the place of the one that waits")
	require.False(t, waiting.Resume())
	running.Release(budget.Success)
	waiting.Release(budget.Success) // holds nothing
	_, ok = budget.Take(b, budget.Retry)
	require.True(t, ok)
	require.False(t, b.Acquire(budget.Retry))
}
