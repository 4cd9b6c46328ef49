package budget

import (
	"math"
	"sync/atomic"
	"time"
)

// attempt is one attempt in the units that accounts reckon in. Whole numbers
// keep ledgers exact: ten deposits of a tenth are one attempt.
const attempt = 1_000_000

// maxPerSecond bounds configured rates so that products stay within an int64.
const maxPerSecond = 1e6

// units converts a configured number of attempts.
func units(attempts float64) int64 { return int64(math.Round(attempts * attempt)) }

// attempts is the reverse of units.
func attempts(units int64) float64 { return float64(units) / attempt }

// accrued is what a steady rate has earned by now, in whole microseconds. The
// sum wraps around, at the highest rate after 107 days; accounts use only
// differences, which stay right.
func accrued(perSecond int64, now time.Duration) int64 {
	micros := int64(now % time.Second / time.Microsecond)
	return perSecond*int64(now/time.Second) + perSecond*micros/1e6
}

// An account is the ledger of a budget that saves attempts up. It knows what
// has been spent; its owner says, at each withdrawal, how much has been earned
// since the beginning and how much of that can be saved up at most:
//
//	balance = min(earned - spent, most)
//
// What could not be saved up is forfeited: the next withdrawal first raises
// spent to earned-most. So nothing has to be deposited, refilled or clipped as
// time passes, and a withdrawal is one compare-and-swap of one number.
//
// Attempts are withdrawn for use elsewhere too: a cell keeps some at hand, to
// be spent by its processor with neither a look at the clock nor a shared
// cache line. They are part of the balance and count towards what can be
// saved up, and who finds the account empty takes those of other cells, so
// none is out of reach. A cell keeps one that was given back or, of what is
// withdrawn, its share of a quarter of the balance, but less than maxAtHand: in
// a small budget nothing. An attempt at hand may be spent later than it should
// have been forfeited, and this is the only inexactness there is.
type account struct {
	cells cells

	_     [64]byte // whoever counts an original need not wait for who withdraws
	spent atomic.Int64
	_     [64]byte
}

// maxAtHand is how many attempts one withdrawal takes at most: the clock is
// read for one in eight.
const maxAtHand = 8

// spend takes an attempt at hand here, if there is one.
func (a *account) spend() bool { return a.cells.mine().spend() }

// withdraw takes an attempt from the account, or else one at hand anywhere.
func (a *account) withdraw(earned, most int64) bool {
	for {
		spent := a.spent.Load()
		free, forfeited := a.free(spent, earned, most)
		if free < attempt {
			return a.spendAnywhere()
		}
		n := max(1, min(maxAtHand, free/attempt/int64(4*len(a.cells))))
		if !a.spent.CompareAndSwap(spent, spent+forfeited+n*attempt) {
			continue
		}
		a.keep(n - 1)
		return true
	}
}

// free is what can be withdrawn, and what is forfeited before that: the part of
// it that, together with what is at hand, exceeds the most.
func (a *account) free(spent, earned, most int64) (free, forfeited int64) {
	forfeited = max(0, earned-spent+a.cells.atHand()-most)
	return earned - spent - forfeited, forfeited
}

func (a *account) spendAnywhere() bool {
	for i := range a.cells {
		if a.cells[i].spend() {
			return true
		}
	}
	return false
}

// putBack returns an attempt that was not spent after all, where it does not outlive its
// second.
func (a *account) putBack() { a.spent.Add(-attempt) }

// giveBack returns an attempt that was spent.
func (a *account) giveBack() { a.keep(1) }

// keep puts n withdrawn attempts at hand, or back into the account if there are
// some at hand here.
func (a *account) keep(n int64) {
	if n > 0 && !a.cells.mine().atHand.CompareAndSwap(0, n) {
		a.spent.Add(-n * attempt)
	}
}

// balance settles the account and returns what can be spent, at hand or not.
// To look at an account is to forfeit what could not be saved up, so that what
// is spent from at hand after it comes out of the balance that was seen.
func (a *account) balance(earned, most int64) int64 {
	for {
		spent := a.spent.Load()
		free, forfeited := a.free(spent, earned, most)
		if forfeited == 0 || a.spent.CompareAndSwap(spent, spent+forfeited) {
			return free + a.cells.atHand()
		}
	}
}
