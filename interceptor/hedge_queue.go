package interceptor

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"
)

// queue is where calls wait whose hedge a budget has denied, who has waited longest first.
// A budget mostly has something again when an attempt has ended. Then the first in the
// queue is called, and asks; who comes later does not ask before it. All have their timers
// besides, and ask when these have run down, since a budget may go by something else.
type queue struct {
	length atomic.Int64

	mu      sync.Mutex
	waiters list.List
	next    time.Time // nobody is called before
}

// A waiter is a call in a queue. It is used for one call only. Its fields are guarded by
// the queue's mu, and while it is in the queue so is the use of its timer.
type waiter struct {
	timer  *time.Timer
	place  *list.Element // nil if it is not in the queue
	called bool          // before its timer has run down
}

func (q *queue) isEmpty() bool { return q.length.Load() == 0 }

// wait puts a waiter in the queue, if it is not, and sets its timer. One that is on may have
// run down: then its goroutine will see that it is early.
func (q *queue) wait(w *waiter, d time.Duration, on bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place == nil {
		w.place = q.waiters.PushBack(w)
		q.length.Add(1)
	}
	if !on || w.timer.Stop() {
		w.timer.Reset(d)
	}
}

// leave takes a waiter out of the queue. If a budget has granted what it waited for, or it
// was called and does not ask, there may be something for the next, which is called.
func (q *queue) leave(w *waiter, granted bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place == nil {
		return
	}
	callsNext := granted || w.called
	q.waiters.Remove(w.place)
	w.place, w.called = nil, false
	q.length.Add(-1)
	if callsNext {
		q.advanceLocked(time.Now(), nil)
	}
}

// precedes reports whether there are hedges that come before one that is due now. The first
// of them is called.
func (q *queue) precedes(now time.Time) bool {
	if q.isEmpty() {
		return false
	}
	q.advance(now, nil)
	return true
}

// hasCalled reports whether a waiter is to ask though its timer has not run down.
func (q *queue) hasCalled(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	called := w.called
	w.called = false
	return called
}

// advance calls the first in the queue that is not about to ask, but not within a
// millisecond of the last: that may have been denied again. The call of own has just seen an
// attempt of its own end, and need not be called.
func (q *queue) advance(now time.Time, own *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !now.Before(q.next) {
		q.advanceLocked(now, own)
	}
}

func (q *queue) advanceLocked(now time.Time, own *waiter) {
	for e := q.waiters.Front(); e != nil; e = e.Next() {
		if w := e.Value.(*waiter); w != own && w.timer.Stop() {
			w.called = true
			w.timer.Reset(0)
			q.next = now.Add(leastPace)
			return
		}
	}
}
