package budget

import "time"

// RatioConfig says how much a [Ratio] allows.
type RatioConfig struct {
	// Ratio is the share of extra attempts to originals, from 0 to 1: with 0.1,
	// ten originals pay for one extra attempt. Zero means that originals pay
	// for nothing. It is rounded to a millionth.
	Ratio float64

	// MinPerSecond is how many extra attempts per second are allowed besides,
	// whatever the traffic, from 0 to a million. Zero means none.
	MinPerSecond float64

	// NoRefund keeps a retry that succeeded spent, as it is for every hedge.
	NoRefund bool
}

// Ratio allows extra attempts in proportion to originals.
//
// It is a balance of attempts:
//
//   - every original deposits Ratio of an attempt;
//   - MinPerSecond attempts are deposited per second, whatever the traffic;
//   - one second's worth of both can be saved up, and always at least one
//     attempt; what exceeds it is forfeited. A new Ratio has one second's worth
//     of MinPerSecond;
//   - a retry or a hedge takes one attempt, and is denied when the balance is
//     less than one;
//   - an attempt that was not sent is given back, and so is a retry that
//     succeeded, unless NoRefund is set. Refunds too cannot lift the balance
//     above one second's worth. A hedge that was sent is never given back.
//
// So of extra attempts that fail there are never more, in all, than Ratio ×
// originals + MinPerSecond × (seconds + 1). For any span of time, if an extra
// attempt counts from Acquire until it is given back:
//
//	granted - given back ≤ Ratio × originals + MinPerSecond × seconds + saved up
//
// where saved up is one second's worth of what came before, with allowances for
// speed: originals are counted in cells, two to four for each processor and at
// most 64 in all; the second that is remembered is up to an eighth longer, and
// up to 16 originals per cell may count as recent for lack of a look at the
// clock. And some attempts are kept at hand to be spent without that look, one
// per cell and at most a quarter of the balance, which may outlive their second.
//
// Sources: Finagle's RetryBudget and Linkerd's (a ratio and a floor per
// second), Gateway API GEP-3388; AWS's retry quota for the refund. Finagle saves
// up ten seconds' worth, and spends it in the first second of an outage; with
// the refund one second is enough.
//
// Make one with [NewRatio], [Default] or [Conservative].
type Ratio struct {
	share     int64 // deposited by an original
	perSecond int64
	refund    bool
	began     time.Time

	account account
}

// Default returns a Ratio of 10 % and 10 per second, with the refund.
func Default() *Ratio { return newRatio(RatioConfig{Ratio: 0.1, MinPerSecond: 10}) }

// Conservative returns a Ratio of 5 % and 10 per second, with the refund.
func Conservative() *Ratio { return newRatio(RatioConfig{Ratio: 0.05, MinPerSecond: 10}) }

// NewRatio returns a Ratio. The zero config allows no extra attempt at all. An
// error names the field: ratio or min_per_second.
func NewRatio(c RatioConfig) (*Ratio, error) {
	if err := checkRange("ratio", c.Ratio, 0, 1); err != nil {
		return nil, err
	}
	if err := checkRange("min_per_second", c.MinPerSecond, 0, maxPerSecond); err != nil {
		return nil, err
	}
	return newRatio(c), nil
}

func newRatio(c RatioConfig) *Ratio {
	return &Ratio{
		share:     units(c.Ratio),
		perSecond: units(c.MinPerSecond),
		refund:    !c.NoRefund,
		began:     time.Now(),
		account:   account{cells: newCells()},
	}
}

// eighth is the step of the second that is remembered.
const eighth = time.Second / spanSteps

// lookEvery is how many originals a cell counts between looks at the clock,
// which costs more than the counting.
const lookEvery = 16

// Acquire implements [Budget].
func (r *Ratio) Acquire(k Kind) bool {
	if k == Original {
		c := r.account.cells.mine()
		if n := c.originals.Add(1); n%lookEvery == 0 {
			c.history.look(stepAt(r.now(), eighth), n)
		}
		return true
	}
	return r.account.spend() || r.account.withdraw(r.earned(r.now()))
}

// Release implements [Budget].
func (r *Ratio) Release(k Kind, result Result) {
	if k == Original {
		return
	}
	if result == Unsent || result == Success && k == Retry && r.refund {
		r.account.giveBack()
	}
}

// Balance returns how many extra attempts would be granted now, were no more
// deposited.
// It reads the clock, and what exceeds one second's worth is forfeited then.
func (r *Ratio) Balance() float64 { return r.balance(r.now()) }

func (r *Ratio) balance(now time.Duration) float64 {
	return attempts(r.account.balance(r.earned(now)))
}

func (r *Ratio) now() time.Duration { return time.Since(r.began) }

// earned returns what has been earned since the beginning, the first second's
// worth of the floor included, and the most that can be saved up now.
func (r *Ratio) earned(now time.Duration) (earned, most int64) {
	var originals, recent int64
	step := stepAt(now, eighth)
	for i := range r.account.cells {
		c := &r.account.cells[i]
		n := c.originals.Load()
		originals += n
		recent += n - c.history.look(step, n)
	}
	earned = r.perSecond + accrued(r.perSecond, now) + r.share*originals
	return earned, max(attempt, r.perSecond+r.share*recent)
}
