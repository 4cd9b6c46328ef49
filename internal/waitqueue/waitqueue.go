// Package waitqueue is where calls wait whose hedge a budget has denied, who has waited
// longest first.
package waitqueue

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"
)

// Queue is where the calls wait that ask one budget. That mostly has something again when an
// attempt has ended. Then the first in the queue is called, and asks; who comes later does
// not ask before it. All have their timers besides, and ask when these have run down, since a
// budget may go by something else.
//
// A waiter is called by setting its timer to now. The goroutine of the timer learns that from
// HasCalled. The zero Queue is empty and ready.
type Queue struct {
	length atomic.Int64

	mu      sync.Mutex
	waiters list.List
	next    time.Time // nobody is called before
}

// leastPause is how long nobody is called after the one before, who may have been denied
// again.
const leastPause = time.Millisecond

// Waiter is a call, in a queue or not. While it is, nothing but the queue uses its timer.
type Waiter struct { // the queue's mu guards it
	timer  *time.Timer
	place  *list.Element // nil if it is not in the queue
	called bool          // before its timer has run down
}

// NewWaiter returns a call that asks whenever its timer has run down. It is for one queue.
func NewWaiter(timer *time.Timer) *Waiter { return &Waiter{timer: timer} }

// Len is how many calls wait.
func (q *Queue) Len() int64 { return q.length.Load() }

// IsEmpty reports whether no call waits. It takes no lock.
func (q *Queue) IsEmpty() bool { return q.Len() == 0 }

// Wait puts a waiter in the queue, if it is not, and sets its timer. On says that the timer
// was set before. It may have run down since: then its goroutine will see that it is early.
func (q *Queue) Wait(w *Waiter, d time.Duration, on bool) {
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

// Leave takes a waiter out of the queue. If a budget has granted what it waited for, or it
// was called and does not ask, there may be something for the next, which is called.
func (q *Queue) Leave(w *Waiter, granted bool) {
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

// Precedes reports whether there are hedges that come before one that is due now. The first
// of them is called.
func (q *Queue) Precedes(now time.Time) bool {
	if q.IsEmpty() {
		return false
	}
	q.Advance(now, nil)
	return true
}

// HasCalled reports, once, whether a waiter is to ask though its timer has not run down.
func (q *Queue) HasCalled(w *Waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	called := w.called
	w.called = false
	return called
}

// Advance calls the first in the queue that is not about to ask, but not within a
// millisecond of the last: that may have been denied again. The call of own has just seen an
// attempt of its own end, and need not be called.
func (q *Queue) Advance(now time.Time, own *Waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !now.Before(q.next) {
		q.advanceLocked(now, own)
	}
}

func (q *Queue) advanceLocked(now time.Time, own *Waiter) {
	for e := q.waiters.Front(); e != nil; e = e.Next() {
		if w := e.Value.(*Waiter); w != own && w.timer.Stop() {
			w.called = true
			w.timer.Reset(0)
			q.next = now.Add(leastPause)
			return
		}
	}
}
