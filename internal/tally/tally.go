// Package tally counts events of many kinds, of which one is far more frequent than all
// others. It counts without a lock, in a cell for each processor, and takes memory only for
// what has happened.
package tally

import (
	"sync/atomic"

	"github.com/rego-go/rego/internal/percpu"
)

// A Key names a kind of event. Zero is the frequent one. Whoever makes keys must see to it
// that there are few: one that is met takes sixteen bytes in each cell, for ever, and those
// of a cell are searched one by one.
type Key uint32

// Frequent is the kind that is counted by [Counter.Frequent].
const Frequent Key = 0

// Counter counts. It never goes back. Make one with [New].
type Counter struct {
	cells []atomic.Pointer[cell]
}

// cell is what one processor counts. Entries are taken in turn, by whoever first puts a
// key into one, and the key stays.
type cell struct {
	frequent atomic.Int64
	chunk
}

type chunk struct {
	entries [7]entry
	next    atomic.Pointer[chunk]
}

type entry struct {
	key   atomic.Uint32 // zero while it is free
	count atomic.Int64
}

// New returns a Counter of nothing.
func New() Counter { return Counter{make([]atomic.Pointer[cell], percpu.Cells())} }

// Frequent counts one event of the frequent kind. Seat is the processor's, as
// [percpu.Seat] deals them out.
func (c *Counter) Frequent(seat int) { c.cell(seat).frequent.Add(1) }

// Add counts n events of another kind, or any other sum.
func (c *Counter) Add(seat int, k Key, n int64) {
	at := &c.cell(seat).chunk
	for {
		for i := range at.entries {
			if e := &at.entries[i]; e.is(k) {
				e.count.Add(n)
				return
			}
		}
		next := at.next.Load()
		if next == nil {
			at.next.CompareAndSwap(nil, new(chunk))
			next = at.next.Load()
		}
		at = next
	}
}

// is reports whether an entry counts k, from now on if it was free.
func (e *entry) is(k Key) bool {
	have := e.key.Load()
	if have == 0 && e.key.CompareAndSwap(0, uint32(k)) {
		return true
	}
	return e.key.Load() == uint32(k)
}

func (c *Counter) cell(seat int) *cell {
	at := &c.cells[seat&(len(c.cells)-1)]
	if have := at.Load(); have != nil {
		return have
	}
	at.CompareAndSwap(nil, new(cell))
	return at.Load()
}

// Sum returns all that has been counted. What is counted meanwhile may be in it or not.
func (c *Counter) Sum() map[Key]int64 {
	sum := make(map[Key]int64)
	for i := range c.cells {
		have := c.cells[i].Load()
		if have == nil {
			continue
		}
		if n := have.frequent.Load(); n > 0 {
			sum[Frequent] += n
		}
		for at := &have.chunk; at != nil; at = at.next.Load() {
			for i := range at.entries {
				if k := at.entries[i].key.Load(); k != 0 {
					sum[Key(k)] += at.entries[i].count.Load()
				}
			}
		}
	}
	return sum
}
