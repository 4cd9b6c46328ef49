package budget

import "sync/atomic"

// ConcurrencyConfig says how much a [Concurrency] allows. Envoy's defaults are
// a Share of 0.2 and a Min of 3.
type ConcurrencyConfig struct {
	// Share is the part of all attempts in flight that may be extra attempts, from 0 to 1.
	// Zero means that only Min are allowed. It is rounded to a millionth.
	Share float64

	// Min is how many extra attempts are always allowed in flight, from 0 to a million. Zero
	// means none.
	Min int
}

// Concurrency limits how many extra attempts are in flight at a time.
//
// One more is granted while those in flight are fewer than
//
//	max(Min, Share × attempts in flight)
//
// in whole attempts. Originals and extra attempts both count. An attempt counts as in flight
// from Acquire to Release, however it ends. Only the time that a retry waits before it is
// sent does not count ([Pauser]). If attempts end and the share gets smaller, extra attempts
// that were granted before go on.
//
// Because it counts what is in flight, it allows more extra attempts per second the faster
// they end. If a server fails at once, it bounds the concurrency but hardly the load.
// Combine it with a [Ratio] for that.
//
// Source: Envoy's retry budget (budget_percent, min_retry_concurrency).
//
// Make one with [NewConcurrency].
type Concurrency struct {
	share int64
	min   int64

	originals cells // in flight
	extra     atomic.Int64
	answers
}

// NewConcurrency returns a Concurrency with nothing in flight. The zero config
// allows no extra attempt at all. An error names the field: share or min.
func NewConcurrency(c ConcurrencyConfig) (*Concurrency, error) {
	if err := checkRange("share", c.Share, 0, 1); err != nil {
		return nil, err
	}
	if err := checkRange("min", float64(c.Min), 0, 1e6); err != nil {
		return nil, err
	}
	return &Concurrency{share: units(c.Share), min: int64(c.Min), originals: newCells(), answers: newAnswers()}, nil
}

// Acquire implements [Budget].
func (c *Concurrency) Acquire(k Kind) bool {
	if k == Original {
		c.originals.mine().count.Add(1)
		return true
	}
	return c.answer(c.ask(k))
}

func (c *Concurrency) ask(Kind) bool {
	for {
		extra := c.extra.Load()
		if extra >= c.min && !c.withinShare(extra) {
			return false
		}
		if c.extra.CompareAndSwap(extra, extra+1) {
			return true
		}
	}
}

// Release implements [Budget].
func (c *Concurrency) Release(k Kind, _ Result) {
	if k == Original {
		c.originals.mine().count.Add(-1)
		return
	}
	c.extra.Add(-1)
}

// Pause implements [Pauser].
func (c *Concurrency) Pause(Kind) { c.extra.Add(-1) }

// Resume implements [Pauser].
func (c *Concurrency) Resume(k Kind) bool {
	if k == Original {
		return c.Acquire(k)
	}
	return c.ask(k)
}

// withinShare reports whether one more fits. The sum over cells is exact when
// no original begins or ends meanwhile, and else off by those at most.
func (c *Concurrency) withinShare(extra int64) bool {
	inFlight := extra
	for i := range c.originals {
		inFlight += c.originals[i].count.Load()
	}
	return (extra+1)*attempt <= c.share*inFlight
}
