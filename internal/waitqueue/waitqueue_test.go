package waitqueue

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/internal/virtual"
)

const ms = time.Millisecond

// waiting is a queue of waiters, and who has been called or whose timer has run down.
type waiting struct {
	Queue
	waiters []*Waiter

	noting sync.Mutex
	asked  []int
}

func newWaiting(n int) *waiting {
	w := new(waiting)
	for i := range n {
		w.waiters = append(w.waiters, NewWaiter(time.AfterFunc(time.Hour, func() { w.note(i) })))
		w.Wait(w.waiters[i], time.Second, true)
	}
	return w
}

func (w *waiting) note(i int) {
	w.noting.Lock()
	defer w.noting.Unlock()
	w.asked = append(w.asked, i)
}

// after returns who asks within a time.
func (w *waiting) after(d time.Duration) []int {
	virtual.Sleep(d)
	synctest.Wait()
	w.noting.Lock()
	defer w.noting.Unlock()
	asked := w.asked
	w.asked = nil
	return asked
}

func (w *waiting) stop() {
	for _, x := range w.waiters {
		w.Leave(x, false)
		x.timer.Stop()
	}
}

func TestQueue(t *testing.T) {
	t.Parallel()
	for name, play := range map[string]func(t *testing.T, w *waiting){
		"the first is called, and the next a millisecond later": func(t *testing.T, w *waiting) {
			w.Advance(time.Now(), nil)
			w.Advance(time.Now(), nil)
			assert.Equal(t, []int{0}, w.after(ms))
			assert.True(t, w.HasCalled(w.waiters[0]))
			assert.False(t, w.HasCalled(w.waiters[0]), "once")
			assert.False(t, w.HasCalled(w.waiters[1]))
			w.Advance(time.Now(), nil) // the first is about to ask
			assert.Equal(t, []int{1}, w.after(0))
		},
		"nobody else is called within a millisecond, though the first is about to ask": func(t *testing.T, w *waiting) {
			w.Advance(time.Now(), nil)
			assert.Equal(t, []int{0}, w.after(0))
			w.Advance(time.Now(), nil)
			assert.Empty(t, w.after(ms-1))
			w.Advance(time.Now(), nil)
			assert.Empty(t, w.after(1))
			w.Advance(time.Now(), nil)
			assert.Equal(t, []int{1}, w.after(0))
		},
		"one that is denied again is still the first": func(t *testing.T, w *waiting) {
			w.Advance(time.Now(), nil)
			assert.Equal(t, []int{0}, w.after(ms))
			w.Wait(w.waiters[0], time.Minute, false)
			w.Advance(time.Now(), nil)
			assert.Equal(t, []int{0}, w.after(ms))
		},
		"after one that is granted, or has gone, the next is called at once": func(t *testing.T, w *waiting) {
			w.Advance(time.Now(), nil)
			assert.Equal(t, []int{0}, w.after(0))
			w.Leave(w.waiters[0], true)
			assert.Equal(t, []int{1}, w.after(0))
			w.Leave(w.waiters[1], false)
			assert.Equal(t, []int{2}, w.after(0))
		},
		"who sees an attempt of its own end has the next called": func(t *testing.T, w *waiting) {
			w.Advance(time.Now(), w.waiters[0])
			assert.Equal(t, []int{1}, w.after(0))
		},
		"who comes later has the first called, and is not called itself": func(t *testing.T, w *waiting) {
			assert.True(t, w.Precedes(time.Now()))
			assert.Equal(t, []int{0}, w.after(0))
			w.stop()
			assert.False(t, w.Precedes(time.Now()))
		},
		"who leaves is not called": func(t *testing.T, w *waiting) {
			w.Leave(w.waiters[0], false)
			w.Leave(w.waiters[2], false)
			w.Leave(w.waiters[2], false)
			assert.Equal(t, int64(1), w.Len())
			w.Advance(time.Now(), nil)
			assert.Equal(t, []int{1}, w.after(0))
			w.Leave(w.waiters[1], false)
			assert.True(t, w.IsEmpty())
			w.Advance(time.Now(), nil)
			w.Wait(w.waiters[0], time.Minute, true)
			assert.Empty(t, w.after(0))
		},
		"a timer that has run down is not set again": func(t *testing.T, w *waiting) {
			assert.Len(t, w.after(time.Second), 3)
			w.Wait(w.waiters[0], ms, true) // its goroutine is on the way, for all that is known
			w.Wait(w.waiters[1], ms, false)
			assert.Equal(t, []int{1}, w.after(ms))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWaiting(3)
				defer w.stop()
				play(t, w)
			})
		})
	}
}
