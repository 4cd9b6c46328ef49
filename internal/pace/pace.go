// Package pace tells how long the fast attempts of a method take, so that no retry is begun
// that could not end in time even if it were one of them.
package pace

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Pace is that of one method. It looks back two to four seconds, and says nothing before it
// has a few samples: one slow attempt, or a slow minute that is over, must not switch off what
// repairs the next one.
//
// It counts in powers of two of a microsecond. Its answer is the lower end of one, so it
// errs towards trying. The zero Pace is ready, and safe for concurrent use.
type Pace struct {
	window atomic.Int64 // that is running
	counts [2][buckets]atomic.Uint32
}

const (
	windowLength = 2 * time.Second
	buckets      = 32
	leastSamples = 20
	fastOneIn    = 10 // so many is fast
)

func windowOf(now time.Time) int64 { return now.UnixNano() / int64(windowLength) }

// Add counts an attempt that ended well. Who counts into a window that ends meanwhile
// does no harm.
func (p *Pace) Add(now time.Time, d time.Duration) {
	w := windowOf(now)
	if have := p.window.Load(); have != w && p.window.CompareAndSwap(have, w) {
		p.empty(w & 1)
		if have != w-1 {
			p.empty(1 - w&1)
		}
	}
	p.counts[w&1][min(bits.Len64(uint64(max(d, 0)/time.Microsecond)), buckets-1)].Add(1)
}

func (p *Pace) empty(window int64) {
	for i := range p.counts[window] {
		p.counts[window][i].Store(0)
	}
}

// Fast returns what a tenth of the recent attempts took less than, zero if too few are
// known.
func (p *Pace) Fast(now time.Time) time.Duration {
	w := p.window.Load()
	age := windowOf(now) - w
	if age < 0 || age > 1 {
		return 0
	}
	var counts [buckets]uint32
	var samples uint32
	for i := range counts {
		if counts[i] = p.counts[w&1][i].Load(); age == 0 {
			counts[i] += p.counts[1-w&1][i].Load()
		}
		samples += counts[i]
	}
	if samples < leastSamples {
		return 0
	}
	var below uint32
	for i, n := range counts {
		if below += n; below*fastOneIn >= samples && i > 0 {
			return time.Microsecond << (i - 1)
		}
	}
	return 0
}
