package budget

import (
	"sync/atomic"
	"time"
)

// A history remembers how far a count had come a second ago. It is told the
// count at each look, and keeps the last one of each eighth of a second.
//
// Nine eighths are kept, because of the eighth that is running only a part has
// passed. So what it says was the count between 1 and 1.125 s ago or, if nobody
// looked then, at the last look before: never less than a second ago, so what
// was counted in the last second is always known to be recent.
type history struct {
	marks [eighthsKept]atomic.Uint64 // see newMark; the place is the number modulo eighthsKept
	old   atomic.Int64               // the highest count known to be a second old
}

const (
	eighth      = time.Second / 8
	eighthsKept = 9
)

// A mark packs the number of an eighth and a count, both modulo 2³², into one
// word, so that it is replaced as a whole. Numbers last for 17 years; and a
// count looked at every few steps does not come round before its mark is
// replaced.
func newMark(number uint32, count int64) uint64 {
	return uint64(number)<<32 | uint64(uint32(count))
}

// number begins at eighthsKept, so that marks not made yet are old from the
// start.
func number(now time.Duration) uint32 { return uint32(now/eighth) + eighthsKept }

// age is how many eighths before number the mark was made. It is negative for
// a mark made by a goroutine that was faster.
func age(mark uint64, number uint32) int32 { return int32(number - uint32(mark>>32)) }

// advance is how far the count has come since the mark was made.
func advance(mark uint64, count int64) int32 { return int32(uint32(count) - uint32(mark)) }

// look notes the count and returns what it was a second ago.
func (h *history) look(now time.Duration, count int64) int64 {
	n := number(now)
	place := &h.marks[n%eighthsKept]
	last := place.Load()
	switch since := age(last, n); {
	case since > 0:
		h.retire(n, count) // before a mark is replaced, so that none is lost
		place.CompareAndSwap(last, newMark(n, count))
	case since == 0 && advance(last, count) > 0:
		place.CompareAndSwap(last, newMark(n, count))
	}
	return h.old.Load()
}

// retire raises old to the marks that have become a second old. It tries all
// of them: after a pause the last one before it can be in any place.
func (h *history) retire(number uint32, count int64) {
	for i := range h.marks {
		mark := h.marks[i].Load()
		if age(mark, number) < eighthsKept {
			continue
		}
		was := count - int64(uint32(advance(mark, count)))
		for old := h.old.Load(); was > old && !h.old.CompareAndSwap(old, was); old = h.old.Load() {
		}
	}
}
