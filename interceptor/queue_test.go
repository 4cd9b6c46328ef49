package interceptor

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// waiting is a queue of waiters, and who has been called or whose timer has run down.
type waiting struct {
	queue
	waiters []*waiter

	noting sync.Mutex
	asked  []int
}

func newWaiting(n int) *waiting {
	w := new(waiting)
	for i := range n {
		w.waiters = append(w.waiters, &waiter{timer: time.AfterFunc(time.Hour, func() { w.note(i) })})
		w.wait(w.waiters[i], time.Second, true)
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
	time.Sleep(d)
	synctest.Wait()
	w.noting.Lock()
	defer w.noting.Unlock()
	asked := w.asked
	w.asked = nil
	return asked
}

func (w *waiting) stop() {
	for _, x := range w.waiters {
		w.leave(x, false)
		x.timer.Stop()
	}
}

func TestQueue(t *testing.T) {
	t.Parallel()
	for name, play := range map[string]func(t *testing.T, w *waiting){
		"the first is called, and the next a millisecond later": func(t *testing.T, w *waiting) {
			w.advance(time.Now(), nil)
			w.advance(time.Now(), nil)
			assert.Equal(t, []int{0}, w.after(ms))
			assert.True(t, w.hasCalled(w.waiters[0]))
			assert.False(t, w.hasCalled(w.waiters[0]), "once")
			assert.False(t, w.hasCalled(w.waiters[1]))
			w.advance(time.Now(), nil) // the first is about to ask
			assert.Equal(t, []int{1}, w.after(0))
		},
		"one that is denied again is still the first": func(t *testing.T, w *waiting) {
			w.advance(time.Now(), nil)
			assert.Equal(t, []int{0}, w.after(ms))
			w.wait(w.waiters[0], time.Minute, false)
			w.advance(time.Now(), nil)
			assert.Equal(t, []int{0}, w.after(ms))
		},
		"after one that is granted, or has gone, the next is called at once": func(t *testing.T, w *waiting) {
			w.advance(time.Now(), nil)
			assert.Equal(t, []int{0}, w.after(0))
			w.leave(w.waiters[0], true)
			assert.Equal(t, []int{1}, w.after(0))
			w.leave(w.waiters[1], false)
			assert.Equal(t, []int{2}, w.after(0))
		},
		"who sees an attempt of its own end has the next called": func(t *testing.T, w *waiting) {
			w.advance(time.Now(), w.waiters[0])
			assert.Equal(t, []int{1}, w.after(0))
		},
		"who comes later has the first called, and is not called itself": func(t *testing.T, w *waiting) {
			assert.True(t, w.precedes(time.Now()))
			assert.Equal(t, []int{0}, w.after(0))
			w.stop()
			assert.False(t, w.precedes(time.Now()))
		},
		"who leaves is not called": func(t *testing.T, w *waiting) {
			w.leave(w.waiters[0], false)
			w.leave(w.waiters[2], false)
			w.leave(w.waiters[2], false)
			assert.Equal(t, int64(1), w.length.Load())
			w.advance(time.Now(), nil)
			assert.Equal(t, []int{1}, w.after(0))
			w.leave(w.waiters[1], false)
			assert.True(t, w.isEmpty())
			w.advance(time.Now(), nil)
			w.wait(w.waiters[0], time.Minute, true)
			assert.Empty(t, w.after(0))
		},
		"a timer that has run down is not set again": func(t *testing.T, w *waiting) {
			assert.Len(t, w.after(time.Second), 3)
			w.wait(w.waiters[0], ms, true) // its goroutine is on the way, for all that is known
			w.wait(w.waiters[1], ms, false)
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
