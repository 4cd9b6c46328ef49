package budget

import (
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
)

// A cell holds one processor's part of a budget's numbers. Processors that
// write to one cache line slow each other down, two of them to less than half
// the speed of one, so each has a line of its own (two, because processors
// prefetch lines in pairs) and only sums look at all of them.
type cell struct {
	originals atomic.Int64 // seen so far, or in flight: as the budget counts
	atHand    atomic.Int64 // extra attempts already withdrawn from the account
	history   history      // of originals, where a budget needs it

	_ [32]byte // up to 128
}

// spend takes one of the attempts at hand.
func (c *cell) spend() bool {
	for n := c.atHand.Load(); n > 0; n = c.atHand.Load() {
		if c.atHand.CompareAndSwap(n, n-1) {
			return true
		}
	}
	return false
}

// cells are as many as a power of two.
type cells []cell

const maxCells = 64

// newCells makes two cells for each processor, so that processors seldom share
// one even when seats have been dealt out unevenly.
func newCells() cells {
	n := 1 << bits.Len(uint(2*runtime.GOMAXPROCS(0)-1))
	return make(cells, min(n, maxCells))
}

// A seat says which cell of every budget a processor uses.
type seat struct{ cell int }

var (
	nextSeat atomic.Uint32
	allSeats = func() (s [maxCells]seat) {
		for i := range s {
			s[i].cell = i
		}
		return s
	}()

	// seats is here for what sync.Pool does inside: what a goroutine puts back,
	// the next one on the same processor gets, without synchronisation. Nothing
	// depends on that but speed: two processors may well use one cell.
	seats = sync.Pool{New: func() any {
		return &allSeats[nextSeat.Add(1)%maxCells]
	}}
)

// mine returns the cell of the processor that runs the caller.
func (c cells) mine() *cell {
	s := seats.Get().(*seat)
	own := &c[s.cell&(len(c)-1)]
	seats.Put(s)
	return own
}

// atHand sums up the attempts at hand, in units of an account.
func (c cells) atHand() int64 {
	var sum int64
	for i := range c {
		sum += c[i].atHand.Load()
	}
	return sum * attempt
}
