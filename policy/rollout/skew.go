package rollout

import "math"

// Skew says how much more often the instances of the canary fail than the others, whatever
// policies they have: because of their machine, their network or their users. Both numbers
// are ratios of odds. The zero value, 1, and anything less than 1 say that the arms are
// alike.
type Skew struct {
	// Failed is the skew of failed calls.
	Failed float64
	// Extra is the skew of extra attempts.
	Extra float64
}

// SkewOf returns the highest skew that agrees with what the calls of a method did before the
// set was tried out, counted for the instances that are its canary now and for the rest. The
// true skew is higher with a probability of at most doubt. Choose a tenth of the plan's
// alpha. It adds to the probability of rejecting a set that does no harm, once per method
// and step.
//
// The more failures were counted, the closer the result is to the true skew. Say 5 % of the
// failures are in the canary. With 36,000 failures, a skew of 1 gives up to 1.1. With 1,000
// it gives up to 1.6, and harm takes twice as long to be found. With 100 it gives up to 4,
// which hides harm that triples the failures. Without earlier calls of both arms nothing is
// known, and the arms count as alike.
func SkewOf(before Arms, doubt float64) Skew {
	failed, extra := before.comparisons(0)
	return Skew{failed.highestOdds(doubt), extra.highestOdds(doubt)}
}

// highestOdds returns the odds ratio, at least 1, below which so few hits as there were have a
// probability of at most doubt. By Chernoff's bound that is where events x divergence =
// log(1/doubt), the divergence being that of the share that was seen from the share expected.
func (c comparison) highestOdds(doubt float64) float64 {
	if c.canary == 0 || c.rest == 0 || c.all == 0 || !(doubt > 0 && doubt < 1) {
		return 1
	}
	seen, calls := c.hits/c.all, c.canary/(c.canary+c.rest)
	low, high := seen, 1.0
	for range 60 { // halves, which is as exact as a float64
		mid := (low + high) / 2
		if c.all*divergence(seen, mid) > -math.Log(doubt) {
			high = mid
		} else {
			low = mid
		}
	}
	return clamp(high/(1-math.Min(high, 1-1e-9))*(1-calls)/calls, 1, 1e6)
}

// divergence returns that of Kullback and Leibler between a yes-or-no variable with probability p
// and one with probability q.
func divergence(p, q float64) float64 { return xlog(p, q) + xlog(1-p, 1-q) }

func xlog(p, q float64) float64 {
	if p <= 0 {
		return 0
	}
	return p * math.Log(p/q)
}
