package percpu

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCells(t *testing.T) {
	t.Parallel()
	n := Cells()
	assert.GreaterOrEqual(t, n, 2)
	assert.LessOrEqual(t, n, MaxCells)
	assert.Zero(t, n&(n-1), "a power of two")
}

// Whoever asks gets a cell that there is, and what is counted there is all there
// is.
func TestMine(t *testing.T) {
	t.Parallel()
	for n := 1; n <= MaxCells; n *= 2 {
		counts := make([]atomic.Int64, n)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 1000 {
					counts[Mine(n)].Add(1)
				}
			})
		}
		wg.Wait()
		var sum int64
		for i := range counts {
			sum += counts[i].Load()
		}
		assert.EqualValues(t, 8000, sum)
	}
}
