package hedge

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// Delay says how long an attempt runs before another one is started: a fixed time, or a
// quantile of the method's own latency. With a quantile, the same share of attempts exceeds
// the delay, however long the method takes.
//
// Make one with [Fixed] or [Tracker.Quantile]. It is safe for concurrent use.
type Delay struct {
	tracker    *Tracker // nil if the delay is fixed
	q          float64
	bounds     Bounds
	minSamples int64

	current atomic.Int64 // in force; zero while there are too few samples
	next    atomic.Int64 // when to look at the tracker again
}

// Bounds limit a delay that follows a method's latency.
type Bounds struct {
	// Min is the shortest delay. Zero means none.
	Min time.Duration
	// Max: if the delay would be longer than this, there is no hedging. Then a second
	// attempt would come too late, or cost too much. Zero means no limit.
	Max time.Duration
}

// State says whether there is a hedge to wait for.
type State uint8

const (
	// Ready: hedge after the delay.
	Ready State = iota
	// Cold: there are too few samples to know the method. There must be a hundred, and
	// enough to have one above the quantile.
	Cold
	// TooSlow: the delay would be longer than [Bounds].Max.
	TooSlow
	// Declined: a [Trigger] wants no hedge.
	Declined
)

// String returns the state in lower case: "ready", "cold", "too-slow" or "declined".
func (s State) String() string {
	switch s {
	case Ready:
		return "ready"
	case Cold:
		return "cold"
	case TooSlow:
		return "too-slow"
	case Declined:
		return "declined"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MinSamples is the least number of samples for a quantile.
const MinSamples = 100

// Fixed returns a Delay of d, whatever the method's latency.
func Fixed(d time.Duration) *Delay {
	delay := new(Delay)
	delay.current.Store(int64(d))
	return delay
}

// Quantile returns a Delay that follows the quantile q of t, from 0 to 1. Delays
// of different quantiles may share a Tracker.
func (t *Tracker) Quantile(q float64, l Bounds) *Delay {
	samples := math.Ceil(1/(1-q) - 1e-6) // the excess is for 0.98, of which 1-q is a little less than 0.02
	d := &Delay{tracker: t, q: q, bounds: l, minSamples: max(MinSamples, int64(min(samples, math.MaxInt32)))}
	d.refresh(time.Since(t.began))
	return d
}

// After returns the current delay. It is zero unless the state is Ready.
func (d *Delay) After() (time.Duration, State) {
	after := time.Duration(d.current.Load())
	switch {
	case d.tracker == nil:
		return after, Ready
	case after == 0:
		return 0, Cold
	case d.bounds.Max > 0 && after > d.bounds.Max:
		return 0, TooSlow
	}
	return after, Ready
}

// Latency returns the quantiles qs of the Delay's Tracker, from 0 to 1, and the number of
// samples that they are of. Without samples, and for a fixed delay, there are none.
func (d *Delay) Latency(qs ...float64) (times []time.Duration, samples int64) {
	if d.tracker == nil {
		return nil, 0
	}
	for _, q := range qs {
		var at time.Duration
		if at, samples = d.tracker.quantile(q, time.Since(d.tracker.began)); samples == 0 {
			return nil, 0
		}
		times = append(times, at)
	}
	return times, samples
}

// Next implements [Trigger]: a hedge is due when the last attempt has run for the delay.
func (d *Delay) Next(c Call) (time.Duration, State) {
	after, s := d.After()
	return max(after-c.SinceLast, 0), s
}

// Ended implements [Trigger]. Only the original of a call is recorded, because it is made
// whether or not something is slow.
func (d *Delay) Ended(a EndedAttempt) {
	switch {
	case a.Number != 1:
	case a.Complete:
		d.Record(a.Start, a.End)
	default:
		d.RecordAtLeast(a.Start, a.End)
	}
}

// Record counts an attempt that ended by itself, successfully. The delay follows within a
// tenth of a second.
func (d *Delay) Record(start, end time.Time) {
	if d.tracker == nil {
		return
	}
	d.tracker.add(end.Sub(start))
	d.refreshIfDue(end)
}

// RecordAtLeast counts an attempt that would have taken longer: it was cancelled because a
// hedge won, or it failed. If it ran longer than the delay, it counts with the time that it
// ran, which is on the right side of the quantile. So hedging cannot hide slow attempts from
// its own delay. If it ran shorter than the delay, it is not counted: fast failures do not
// make a method fast.
func (d *Delay) RecordAtLeast(start, end time.Time) {
	if after := d.current.Load(); after != 0 && end.Sub(start) >= time.Duration(after) {
		d.Record(start, end)
	}
}

// refreshEvery is how long a quantile is kept, and refreshCold how long it takes to see that
// there are enough samples for one.
const (
	refreshEvery = 100 * time.Millisecond
	refreshCold  = 5 * time.Millisecond
)

func (d *Delay) refreshIfDue(now time.Time) {
	at := now.Sub(d.tracker.began)
	every := refreshEvery
	if d.current.Load() == 0 {
		every = refreshCold
	}
	if next := d.next.Load(); int64(at) >= next && d.next.CompareAndSwap(next, int64(at+every)) {
		d.refresh(at)
	}
}

func (d *Delay) refresh(now time.Duration) {
	after, samples := d.tracker.quantile(d.q, now)
	if samples >= d.minSamples {
		d.current.Store(int64(max(after, d.bounds.Min)))
	}
}
