package tally

import (
	"math/rand/v2"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/internal/percpu"
)

func TestSum(t *testing.T) {
	c := New()
	assert.Empty(t, c.Sum())
	c.Frequent(0)
	c.Frequent(1)
	for k := Key(1); k <= 30; k++ { // more than a chunk has room for
		c.Add(int(k)%3, k, int64(k))
		c.Add(5, k, 1)
	}
	want := map[Key]int64{Frequent: 2}
	for k := Key(1); k <= 30; k++ {
		want[k] = int64(k) + 1
	}
	assert.Equal(t, want, c.Sum())
}

// TestNothingIsLost counts from many goroutines, which find the same free entries.
func TestNothingIsLost(t *testing.T) {
	const goroutines, each, keys = 8, 20_000, 40
	c := New()
	var wg sync.WaitGroup
	counted := make([]map[Key]int64, goroutines)
	for g := range goroutines {
		counted[g] = make(map[Key]int64)
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 1))
			for range each {
				k := Key(random.IntN(keys))
				counted[g][k]++
				if k == Frequent {
					c.Frequent(random.IntN(2))
					continue
				}
				c.Add(random.IntN(2), k, 1)
			}
		})
	}
	for range 100 {
		c.Sum() // while they count
	}
	wg.Wait()
	want := make(map[Key]int64)
	for _, m := range counted {
		for k, n := range m {
			want[k] += n
		}
	}
	assert.Equal(t, want, c.Sum())
}

func TestCellFillsCacheLines(t *testing.T) {
	assert.EqualValues(t, 128, unsafe.Sizeof(cell{}))
}

func TestCountingDoesNotAllocate(t *testing.T) {
	c := New()
	c.Frequent(0)
	c.Add(0, 1, 1)
	assert.Zero(t, testing.AllocsPerRun(100, func() { c.Frequent(0); c.Add(0, 1, 1) }))
}

func BenchmarkFrequent(b *testing.B) {
	c := New()
	b.RunParallel(func(pb *testing.PB) {
		seat := percpu.Seat()
		for pb.Next() {
			c.Frequent(seat)
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	c := New()
	for k := Key(1); k < 8; k++ {
		c.Add(0, k, 1)
	}
	for b.Loop() {
		c.Add(0, 7, 1)
	}
}
