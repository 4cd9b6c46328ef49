package hedge

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/rego-go/rego/internal/percpu"
)

// Tracker records how long the attempts of one method have taken recently. Its quantiles are
// never too low and at most 1 % too high, from 10 µs to 100 s. Times outside of this range
// count as its nearest end.
//
// It has two windows: the current one and the one before it. A window ends when it has
// lasted two seconds and holds five hundred samples. So where calls are frequent, the
// Tracker forgets within four seconds. Where calls are rare, it remembers enough samples.
//
// Samples are counted without a lock and without allocation, except for the first ones of a
// window. A window has counters only for those powers of two into which samples have fallen:
// half a kilobyte for each power of two, in each of the cells that processors count in. For
// 10 µs to 100 s that is at most 13 kB in each cell and window, and a few kilobytes for most
// methods.
//
// Make one with [NewTracker], and record samples through a [Delay]. It is safe for
// concurrent use.
type Tracker struct {
	began   time.Time
	windows atomic.Pointer[windows]
}

const (
	windowLength  = 2 * time.Second
	windowSamples = 500
)

// NewTracker returns a Tracker without samples.
func NewTracker() *Tracker {
	t := &Tracker{began: time.Now()}
	t.windows.Store(&windows{running: newHistogram(), before: newHistogram()})
	return t
}

// windows never change. Who counts into one that has just ended does no harm.
type windows struct {
	running, before *histogram
	since           time.Duration // when running began
}

// add counts one sample.
func (t *Tracker) add(d time.Duration) {
	cells := t.windows.Load().running.cells
	cells[percpu.Mine(len(cells))].add(d)
}

// quantile returns the least duration that at most 1-q of the samples exceed,
// zero without samples, and how many samples there are. It ends the running
// window when it is time.
func (t *Tracker) quantile(q float64, now time.Duration) (d time.Duration, samples int64) {
	w := t.windows.Load()
	inRunning := w.running.samples()
	samples = inRunning + w.before.samples()
	if now-w.since >= windowLength && inRunning >= windowSamples {
		t.windows.CompareAndSwap(w, &windows{newHistogram(), w.running, now})
	}
	above := int64((1-q)*float64(samples) + 1e-6) // the excess is for 0.98, of which 1-q is a little less than 0.02
	for at := octaves - 1; at >= 0; at-- {
		var counts [split]int64
		w.running.sum(at, &counts)
		w.before.sum(at, &counts)
		for i := split - 1; i >= 0; i-- {
			if above -= counts[i]; above < 0 {
				return edge(at, i), samples
			}
		}
	}
	return 0, samples
}

// A histogram has a bucket for each 128th of a power of two: a bucket is less
// than 1 % wide. Durations are counted in units of 64 ns; those of less than 128
// units have a bucket each.
type histogram struct{ cells []cell }

const (
	unitBits  = 6 // of the nanoseconds that a unit has
	splitBits = 7
	split     = 1 << splitBits
	octaves   = 25 // the last one ends at 2³¹ units, 137 s
)

type (
	cell struct {
		octaves [octaves]atomic.Pointer[octave]
		_       [256 - 8*octaves]byte
	}
	octave [split]atomic.Uint32
)

func newHistogram() *histogram { return &histogram{make([]cell, percpu.Cells())} }

// bucket returns the place of a duration.
func bucket(d time.Duration) (octave, i int) {
	v := min(uint64(max(d, 0))>>unitBits, split<<(octaves-1)-1)
	if v < split {
		return 0, int(v)
	}
	shift := bits.Len64(v) - splitBits - 1
	return shift + 1, int(v>>shift) - split
}

// edge returns the end of a bucket, which no duration in it reaches.
func edge(octave, i int) time.Duration {
	if octave == 0 {
		return time.Duration(i+1) << unitBits
	}
	return time.Duration(split+i+1) << (octave - 1 + unitBits)
}

func (c *cell) add(d time.Duration) {
	at, i := bucket(d)
	o := c.octaves[at].Load()
	if o == nil {
		c.octaves[at].CompareAndSwap(nil, new(octave))
		o = c.octaves[at].Load()
	}
	o[i].Add(1)
}

// sum adds the counters of one power of two, over all cells.
func (h *histogram) sum(at int, into *[split]int64) {
	for c := range h.cells {
		o := h.cells[c].octaves[at].Load()
		if o == nil {
			continue
		}
		for i := range o {
			into[i] += int64(o[i].Load())
		}
	}
}

func (h *histogram) samples() (n int64) {
	for at := range octaves {
		var counts [split]int64
		h.sum(at, &counts)
		for _, c := range counts {
			n += c
		}
	}
	return n
}
