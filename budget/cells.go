package budget

import (
	"sync/atomic"

	"github.com/rego-go/rego/internal/percpu"
)

// A cell holds one processor's part of a budget's numbers, of 128 bytes as
// package percpu has it.
type cell struct {
	count   atomic.Int64 // successes so far, or originals in flight: as the budget counts
	atHand  atomic.Int64 // extra attempts already withdrawn from the account
	lookAt  atomic.Int64 // the count at which to look at the clock next
	history history      // of count, where a budget needs it

	_ [24]byte
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

type cells []cell

func newCells() cells { return make(cells, percpu.Cells()) }

// mine returns the cell of the processor that runs the caller.
func (c cells) mine() *cell { return &c[percpu.Mine(len(c))] }

// atHand sums up the attempts at hand, in units of an account.
func (c cells) atHand() int64 {
	var sum int64
	for i := range c {
		sum += c[i].atHand.Load()
	}
	return sum * attempt
}
