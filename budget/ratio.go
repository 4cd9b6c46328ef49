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

	// MinPerSecond is how many successes per second pay a whole extra attempt in addition,
	// from 0 to a million, so that a client with few calls can retry, too. Zero means none.
	// It is rounded to a thousandth.
	MinPerSecond float64
}

// Ratio allows extra attempts in proportion to successes, which pay for them. Attempts that
// fail pay nothing, and time pays nothing.
//
// It is a balance of attempts:
//
//   - every attempt that succeeds pays Ratio of an attempt. In addition, up to MinPerSecond
//     successes per second pay one whole attempt each;
//   - it saves at most what one second pays in: MinPerSecond, and Ratio of the successes of
//     the last second, but always at least one attempt. What exceeds this is lost. A new
//     Ratio has MinPerSecond;
//   - a retry or a hedge takes one attempt. A [Replacement] takes two, because the server may
//     be at work for two attempts then. If there is not enough, the attempt is denied;
//   - a retry or a replacement that succeeds gives back what it took. So does any attempt
//     that was not sent. This cannot lift the balance above what one second pays in. A hedge
//     that was sent never gives anything back.
//
// So single failures are all repaired. In an outage the balance is soon empty, and nothing
// comes in until calls succeed again. This matters most after an overload, when every
// attempt comes too late: a budget that continued to pay would keep the server overloaded.
// What clients may save, or send per second, adds up: a thousand clients can overload a
// server that one client cannot.
//
// For any span of time, if an extra attempt counts from Acquire until it is given
// back, and a replacement as two:
//
//	granted - given back ≤ Ratio × successes + min(successes, MinPerSecond × seconds + 1) + saved up
//
// where saved up is what one second pays in, from before that time. For speed, some of this
// is approximate. Successes are counted in cells, two to four for each processor and at most
// 64 in all. The second may be up to an eighth longer. In each cell, the successes of an
// eighth of a second, up to 16, may count as recent, because the clock was not read.
// Successes between two requests for an extra attempt count as if they were spread evenly
// over that time. Some attempts are kept ready to be granted without reading the clock, one
// per cell and at most a quarter of the balance. These may stay longer than their second.
//
// Sources: AWS's retry quota, for the refund and for the cost of a timeout; gRFC A6's
// throttle, for payment by successes; Finagle's RetryBudget and Linkerd's, for the ratio and
// the minimum.
//
// Make one with [NewRatio] or [Default].
type Ratio struct {
	share     int64 // deposited by a success
	perSecond int64
	began     time.Time

	// empty says that there was not enough for an extra attempt, and that nothing has come in
	// since: then the next one is denied at once. Who finds too little sets it and looks once
	// more, and who adds to the balance clears it afterwards, so that nothing is overlooked. It
	// is here because of the account's other cache line, which every withdrawal writes.
	empty atomic.Bool

	account account
	whole   allowance
	answers
}

// What [Default] has of [RatioConfig].
const (
	DefaultRatio        = 0.1
	DefaultMinPerSecond = 3
)

// Default returns a Ratio of 10 % and 3 per second.
func Default() *Ratio {
	return newRatio(RatioConfig{Ratio: DefaultRatio, MinPerSecond: DefaultMinPerSecond})
}

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
	return r.takeLast()
}

// takeLast says that there is not enough, and takes an attempt if something has come in
// meanwhile.
func (r *Ratio) takeLast() bool {
	r.empty.Store(true)
	return r.withdraw()
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

// Balance returns how many retries would be granted now if nothing more were paid in. It
// reads the clock; what exceeds the payments of one second is then lost.
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
