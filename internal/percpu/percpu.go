// Package percpu tells goroutines which of a few cells to write to, so that
// processors do not write to one cache line and slow each other down: two of
// them reach less than half the speed of one. Whoever wants the whole adds up
// all cells.
package percpu

import (
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
)

// MaxCells is the most that [Cells] returns.
const MaxCells = 64

// Cells returns how many cells to make: two for each processor, so that
// processors seldom share one even when seats have been dealt out unevenly. It
// is a power of two. A cell should be 128 bytes or a multiple: processors
// prefetch cache lines in pairs.
func Cells() int {
	return min(1<<bits.Len(uint(2*runtime.GOMAXPROCS(0)-1)), MaxCells)
}

// A seat says which cell of everything a processor uses.
type seat struct{ cell int }

var (
	nextSeat, nextOwn atomic.Uint32 // apart, so that each deals out neighbours
	allSeats          = func() (s [MaxCells]seat) {
		for i := range s {
			s[i].cell = i
		}
		return s
	}()

	// seats is here for what sync.Pool does inside: what a goroutine puts back,
	// the next one on the same processor gets, without synchronisation. Nothing
	// depends on that but speed: two processors may well use one cell.
	seats = sync.Pool{New: func() any {
		return &allSeats[nextSeat.Add(1)%MaxCells]
	}}
)

// Seat returns a seat for something that stays with one processor, as what a sync.Pool holds
// does: the next of [MaxCells] in turn.
func Seat() int { return int(nextOwn.Add(1) % MaxCells) }

// Mine returns the cell, of n, of the processor that runs the caller. n must be
// what [Cells] returned, or another power of two.
func Mine(n int) int {
	s := seats.Get().(*seat)
	own := s.cell & (n - 1)
	seats.Put(s)
	return own
}
