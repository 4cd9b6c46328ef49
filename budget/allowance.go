package budget

import (
	"sync/atomic"
	"time"
)

// An allowance says how many successes have paid a whole attempt: at most perSecond
// of them, and one that comes early. It is a token bucket of one token that a success
// takes what there is from. Nothing is done when a success comes: those that came
// since it was last asked count as if they had come evenly. It reckons in thousandths
// of a token, of which no sum wraps around in a lifetime:
//
//	tokens = came in time - unused - taken by successes
//
// Both sums only grow, so that who asks at the same time can raise them in any order.
type allowance struct {
	perSecond int64
	unused    atomic.Int64 // tokens that came while there was one
	late      atomic.Int64 // successes that found none
}

// paid returns how many successes have paid by now, of those that came. The time is to
// be taken before they are counted: then none pays too much.
func (a *allowance) paid(successes int64, now time.Duration) int64 {
	if a.perSecond == 0 {
		return 0
	}
	came, tokens := successes*milli, accrued(a.perSecond, now)
	unused := raise(&a.unused, tokens-(came-a.late.Load())-milli)
	return came - raise(&a.late, came-(tokens-unused))
}

// raise makes sum at least n, and returns it.
func raise(sum *atomic.Int64, n int64) int64 {
	for {
		old := sum.Load()
		if n <= old {
			return old
		}
		if sum.CompareAndSwap(old, n) {
			return n
		}
	}
}
