package interceptor

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// pace knows how long the fast ones of a method's attempts take, so that no retry is
// begun that could not end in time even if it were one of them. It looks back two to four
// seconds, and says nothing before it has a few samples: one slow attempt, or a slow
// minute that is over, must not switch off what repairs the next one.
//
// It counts in powers of two of a microsecond. Its answer is the lower end of one, so it
// errs towards trying.
type pace struct {
	window atomic.Int64 // that is running
	counts [2][paceBuckets]atomic.Uint32
}

const (
	paceWindow  = 2 * time.Second
	paceBuckets = 32
	paceSamples = 20 // at least
	paceFast    = 10 // one in so many is fast
)

func paceWindowOf(now time.Time) int64 { return now.UnixNano() / int64(paceWindow) }

// add counts an attempt that ended well. Who counts into a window that ends meanwhile
// does no harm.
func (p *pace) add(now time.Time, d time.Duration) {
	w := paceWindowOf(now)
	if have := p.window.Load(); have != w && p.window.CompareAndSwap(have, w) {
		p.empty(w & 1)
		if have != w-1 {
			p.empty(1 - w&1)
		}
	}
	p.counts[w&1][min(bits.Len64(uint64(max(d, 0)/time.Microsecond)), paceBuckets-1)].Add(1)
}

func (p *pace) empty(window int64) {
	for i := range p.counts[window] {
		p.counts[window][i].Store(0)
	}
}

// fast returns what a tenth of the recent attempts took less than, zero if too few are
// known.
func (p *pace) fast(now time.Time) time.Duration {
	age := paceWindowOf(now) - p.window.Load()
	if age < 0 || age > 1 {
		return 0
	}
	var counts [paceBuckets]uint32
	var samples uint32
	for i := range counts {
		if counts[i] = p.counts[p.window.Load()&1][i].Load(); age == 0 {
			counts[i] += p.counts[1-p.window.Load()&1][i].Load()
		}
		samples += counts[i]
	}
	if samples < paceSamples {
		return 0
	}
	var below uint32
	for i, n := range counts {
		if below += n; below*paceFast >= samples && i > 0 {
			return time.Microsecond << (i - 1)
		}
	}
	return 0
}
