package budget

import (
	"sync/atomic"
	"time"
)

// A history remembers how far a count had come some time ago. Time comes in
// steps of whatever length its user gives them, and a span is eight steps. It is
// told the count at each look, and keeps the last one of each step.
//
// Nine steps are kept, because of the step that is running only a part has
// passed. So what it says was the count between 8 and 9 steps ago or, if nobody
// looked then, at the last look before: never less than a span ago, so what was
// counted in the last span is always known to be recent.
type history struct {
	marks [stepsKept]atomic.Uint64 // see newMark; the place is the step modulo stepsKept
	old   atomic.Int64             // the highest count known to be a span old
}

const (
	spanSteps = 8
	stepsKept = spanSteps + 1
)

// A mark packs the number of a step and a count, both modulo 2³², into one
// word, so that it is replaced as a whole. Numbers of eighths of a second last
// for 17 years; and a count looked at every few steps does not come round before
// its mark is replaced.
func newMark(step uint32, count int64) uint64 {
	return uint64(step)<<32 | uint64(uint32(count))
}

// stepAt is the number of the step that is running at a time. It begins at
// stepsKept, so that marks not made yet are old from the start.
func stepAt(now, length time.Duration) uint32 { return uint32(now/length) + stepsKept }

// age is how many steps before step the mark was made. It is negative for
// a mark made by a goroutine that was faster.
func age(mark uint64, step uint32) int32 { return int32(step - uint32(mark>>32)) }

// advance is how far the count has come since the mark was made.
func advance(mark uint64, count int64) int32 { return int32(uint32(count) - uint32(mark)) }

// look notes the count and returns what it was a span ago.
func (h *history) look(step uint32, count int64) int64 {
	place := &h.marks[step%stepsKept]
	last := place.Load()
	switch since := age(last, step); {
	case since > 0:
		h.retire(step, count) // before a mark is replaced, so that none is lost
		place.CompareAndSwap(last, newMark(step, count))
	case since == 0 && advance(last, count) > 0:
		place.CompareAndSwap(last, newMark(step, count))
	}
	return h.old.Load()
}

// retire raises old to the marks that have become a span old. It tries all of
// them: after a pause the last one before it can be in any place.
func (h *history) retire(step uint32, count int64) {
	for i := range h.marks {
		mark := h.marks[i].Load()
		if age(mark, step) < stepsKept {
			continue
		}
		was := count - int64(uint32(advance(mark, count)))
		for old := h.old.Load(); was > old && !h.old.CompareAndSwap(old, was); old = h.old.Load() {
		}
	}
}
