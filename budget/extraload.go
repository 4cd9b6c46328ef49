package budget

import (
	"sync/atomic"
	"time"

	"github.com/rego-go/rego/internal/percpu"
)

// ExtraLoad keeps a promise about load: in any ten seconds it grants
//
//	at most share × calls + 1
//
// extra attempts, and in the long run no more than share × calls. Calls are originals that
// begin. It is meant for hedges: they are asked for when attempts are slow, so when a server
// stalls all calls ask at once.
//
// It is a balance of attempts:
//
//   - every original pays fifteen sixteenths of share;
//   - at most one attempt can be saved. A new ExtraLoad has none;
//   - an extra attempt takes one, and may borrow it from originals to come. It may borrow
//     what the last sixteenth of share pays for the originals of ten seconds, 15 attempts at
//     most;
//   - how many originals will come is estimated from those that came, in the last second or
//     in the last ten seconds. The smaller estimate counts. If an ExtraLoad is younger than
//     ten seconds, but at least half a second old, its age takes the place of the ten
//     seconds;
//   - after each extra attempt, an original has to end before the next one is granted;
//   - an attempt that was not sent is given back, and no other is.
//
// So the promise holds only if originals continue to come. If they stop within a second
// after extra attempts were granted, there may be more extra attempts than promised, by the
// number that was borrowed. If originals stop ending, at most one more extra attempt is
// granted.
//
// A client with few calls can borrow almost nothing. If extra attempts are asked for at
// random times, it is denied more of them than a client with many calls. A bound that holds
// over a short time has this cost.
//
// Make one with [NewExtraLoad].
type ExtraLoad struct {
	paid  int64 // by an original
	lent  int64 // on the strength of one
	began time.Time

	cells []loadCell

	_       [64]byte // whoever counts originals need not wait for who asks
	spent   atomic.Int64
	granted atomic.Int64 // how many originals had ended at the last grant
	_       [64]byte

	sent atomic.Int64 // extra attempts that have ended
	long history      // of sent, over ten seconds
	answers
}

// A loadCell is what a cell is to other budgets.
type loadCell struct {
	begun, ended atomic.Int64 // originals
	short, long  history      // of begun, over one second and ten

	_ [80]byte // up to 256
}

const (
	lentPart = 16           // one part in so many of the share
	mostLent = 15 * attempt // at most

	youngest = time.Second / 2 // that an ExtraLoad takes its age for ten seconds

	// A history calls recent what is up to nine steps old.
	shortStep = time.Second / stepsKept
	longStep  = 10 * shortStep
)

// NewExtraLoad returns an ExtraLoad with nothing paid in. share is from 0 to 1, with 0.02
// for two in a hundred. Zero allows no extra attempt at all. It is rounded down to a
// millionth. An error names the field: share.
func NewExtraLoad(share float64) (*ExtraLoad, error) { return newExtraLoad(share, newAnswers()) }

// WithShare returns an ExtraLoad with another share, and with nothing paid in, for a limit that
// is changed while calls use b. Answers go on: both count in the same place, and the Answers of
// each are those of both.
func (b *ExtraLoad) WithShare(share float64) (*ExtraLoad, error) {
	return newExtraLoad(share, b.answers)
}

func newExtraLoad(share float64, a answers) (*ExtraLoad, error) {
	if err := checkRange("share", share, 0, 1); err != nil {
		return nil, err
	}
	u := int64(share*attempt + 1e-6) // the excess is for 0.57 × 1e6, a little less than 570000
	return &ExtraLoad{
		paid:    u - u/lentPart,
		lent:    u / lentPart,
		began:   time.Now(),
		cells:   make([]loadCell, percpu.Cells()),
		answers: a,
	}, nil
}

// Acquire implements [Budget].
func (b *ExtraLoad) Acquire(k Kind) bool {
	if k != Original {
		return b.answer(b.ask(k))
	}
	c := b.mine()
	if n := c.begun.Add(1); n%lookEvery == 0 {
		now := time.Since(b.began)
		c.short.look(stepAt(now, shortStep), n)
		c.long.look(stepAt(now, longStep), n)
	}
	return true
}

// Release implements [Budget].
func (b *ExtraLoad) Release(k Kind, r Result) {
	switch {
	case k == Original:
		b.mine().ended.Add(1)
	case r == Unsent:
		b.spent.Add(-attempt)
	default:
		b.long.look(stepAt(time.Since(b.began), longStep), b.sent.Add(1))
	}
}

func (b *ExtraLoad) ask(Kind) bool { return b.grant(time.Since(b.began)) }

func (b *ExtraLoad) mine() *loadCell { return &b.cells[percpu.Mine(len(b.cells))] }

func (b *ExtraLoad) grant(now time.Duration) bool {
	granted := b.granted.Load()
	earned, credit, ended := b.sum(now)
	for {
		spent := b.spent.Load()
		balance := min(earned-spent, attempt)
		if balance+credit < attempt || ended <= granted {
			return false
		}
		if b.spent.CompareAndSwap(spent, earned-balance+attempt) {
			break
		}
	}
	if b.granted.CompareAndSwap(granted, ended) {
		return true
	}
	b.spent.Add(-attempt) // somebody else got the one there was
	return false
}

// sum returns what has been paid since the beginning, what may be borrowed now,
// and how many originals have ended. Originals that may count as recent for lack
// of a look at the clock are not counted as such.
func (b *ExtraLoad) sum(now time.Duration) (earned, credit, ended int64) {
	var begun, second, ten int64
	short, long := stepAt(now, shortStep), stepAt(now, longStep)
	for i := range b.cells {
		c := &b.cells[i]
		n := c.begun.Load()
		begun += n
		second += max(0, n-c.short.look(short, n)-lookEvery)
		ten += max(0, n-c.long.look(long, n)-lookEvery)
		ended += c.ended.Load()
	}
	if now >= youngest && now < 10*time.Second {
		ten = int64(float64(ten) * 10 / max(now.Seconds(), 1))
	}
	return b.paid * begun, min(b.lent*min(10*second, ten), mostLent), ended
}

// Share returns the actual share: the extra attempts that ended in the last ten seconds,
// divided by the originals that began in them. It is zero if there were none.
func (b *ExtraLoad) Share() float64 {
	step := stepAt(time.Since(b.began), longStep)
	var begun int64
	for i := range b.cells {
		c := &b.cells[i]
		n := c.begun.Load()
		begun += n - c.long.look(step, n)
	}
	sent := b.sent.Load()
	return float64(sent-b.long.look(step, sent)) / float64(max(begun, 1))
}

// Balance returns how many extra attempts would be granted now, if originals ended between
// them.
func (b *ExtraLoad) Balance() float64 {
	earned, credit, _ := b.sum(time.Since(b.began))
	return attempts(min(earned-b.spent.Load(), attempt) + credit)
}
