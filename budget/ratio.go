package budget

import (
	"sync/atomic"
	"time"
)

// RatioConfig says how much a [Ratio] allows.
type RatioConfig struct {
	// Ratio is the share of an extra attempt that a success pays, from 0 to 1: with
	// 0.1, ten successes pay for one extra attempt. Zero means that it pays nothing.
	// It is rounded to a millionth.
	Ratio float64

	// MinPerSecond is how many successes per second pay a whole extra attempt
	// besides, from 0 to a million, so that a client with few calls can retry too.
	// Zero means none. It is rounded to a thousandth.
	MinPerSecond float64
}

// Ratio allows extra attempts in proportion to successes, which pay for them. Nothing
// comes from attempts that fail, and nothing comes with time.
//
// It is a balance of attempts:
//
//   - every attempt that succeeds deposits Ratio of an attempt, and one whole attempt
//     besides as long as no more than MinPerSecond per second do so;
//   - one second's worth can be saved up: MinPerSecond, and Ratio of the successes of
//     the last second, and always one attempt. What exceeds it is forfeited. A new
//     Ratio has MinPerSecond;
//   - a retry or a hedge takes one attempt. A [Replacement] takes two, since the server
//     may be at work for two then. What there is not enough for is denied;
//   - what a retry or a replacement took is given back if it succeeded, and what any
//     took if it was not sent. That cannot lift the balance above one second's worth
//     either. A hedge that was sent is never given back.
//
// So scattered failures are all repaired. In an outage the balance is soon spent, and
// nothing comes in until calls succeed again. That matters most after an overload,
// when every attempt comes too late: a budget that went on paying would keep the
// server overloaded. And what clients save up, or may send per second, adds up: a
// thousand of them overload a server that one of them does not.
//
// For any span of time, if an extra attempt counts from Acquire until it is given
// back, and a replacement as two:
//
//	granted - given back ≤ Ratio × successes + min(successes, MinPerSecond × seconds + 1) + saved up
//
// where saved up is one second's worth of what came before, with allowances for
// speed: successes are counted in cells, two to four for each processor and at
// most 64 in all; the second that is remembered is up to an eighth longer, and of
// each cell what comes in an eighth, up to 16 successes, may count as recent for lack
// of a look at the clock. Successes between two requests for an extra attempt count as
// spread evenly over that time. And some attempts are kept at hand to be spent without
// a look at the clock, one per cell and at most a quarter of the balance, which may
// outlive their second.
//
// Sources: AWS's retry quota, for the refund and for what a timeout costs; gRFC A6's
// throttle, for what successes pay; Finagle's RetryBudget and Linkerd's, for the ratio
// and the floor.
//
// Make one with [NewRatio] or [Default].
type Ratio struct {
	share     int64 // deposited by a success
	perSecond int64
	began     time.Time

	account account
	whole   allowance
	answers

	// empty says that there was not enough for an extra attempt, and that nothing has come in
	// since: then the next one is denied at once. Who finds too little sets it and looks once
	// more, and who adds to the balance clears it afterwards, so that nothing is overlooked.
	empty atomic.Bool
}

// Default returns a Ratio of 10 % and 3 per second.
func Default() *Ratio { return newRatio(RatioConfig{Ratio: 0.1, MinPerSecond: 3}) }

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
		perSecond: thousandths(c.MinPerSecond) * (attempt / milli),
		began:     time.Now(),
		account:   account{cells: newCells()},
		whole:     allowance{perSecond: thousandths(c.MinPerSecond)},
		answers:   newAnswers(),
	}
}

// eighth is the step of the second that is remembered.
const eighth = time.Second / spanSteps

// lookEvery is how many a cell counts at most between looks at the clock, which costs
// more than the counting.
const lookEvery = 16

// Acquire implements [Budget].
func (r *Ratio) Acquire(k Kind) bool {
	return k == Original || r.answer(r.ask(k))
}

func (r *Ratio) ask(k Kind) bool {
	switch {
	case !r.take():
		return false
	case k != Replacement || r.take():
		return true
	}
	r.account.putBack()
	r.cameIn()
	return false
}

func (r *Ratio) take() bool {
	switch {
	case r.empty.Load():
		return false
	case r.account.spend(), r.withdraw():
		return true
	}
	r.empty.Store(true)
	return r.withdraw() // if something has come in meanwhile
}

func (r *Ratio) withdraw() bool {
	ok := r.account.withdraw(r.earned(r.now()))
	if ok {
		r.cameIn() // some may be at hand now
	}
	return ok
}

// cameIn says that something has been added to the balance.
func (r *Ratio) cameIn() {
	if r.empty.Load() {
		r.empty.Store(false)
	}
}

// Release implements [Budget].
func (r *Ratio) Release(k Kind, result Result) {
	if result == Success {
		r.deposit()
	}
	if k == Original || result != Unsent && (result != Success || k == Hedge) {
		return
	}
	r.account.giveBack()
	if k == Replacement {
		r.account.giveBack()
	}
	r.cameIn()
}

// deposit counts a success. It looks at the clock whenever an eighth of what came in
// the last second has come.
func (r *Ratio) deposit() {
	c := r.account.cells.mine()
	n := c.count.Add(1)
	r.cameIn()
	if n < c.lookAt.Load() {
		return
	}
	recent := n - c.history.look(stepAt(r.now(), eighth), n)
	c.lookAt.Store(n + min(1+recent/spanSteps, lookEvery))
}

// Balance returns how many retries would be granted now, were no more deposited.
// It reads the clock, and what exceeds one second's worth is forfeited then.
func (r *Ratio) Balance() float64 { return r.balance(r.now()) }

func (r *Ratio) balance(now time.Duration) float64 {
	return attempts(r.account.balance(r.earned(now)))
}

func (r *Ratio) now() time.Duration { return time.Since(r.began) }

// earned returns what has been earned since the beginning, the first second's
// worth of the floor included, and the most that can be saved up now.
func (r *Ratio) earned(now time.Duration) (earned, most int64) {
	var successes, recent int64
	step := stepAt(now, eighth)
	for i := range r.account.cells {
		c := &r.account.cells[i]
		n := c.count.Load()
		successes += n
		recent += n - c.history.look(step, n)
	}
	earned = r.perSecond + r.share*successes + r.whole.paid(successes, now)*(attempt/milli)
	return earned, max(attempt, r.perSecond+r.share*recent)
}
