package interceptor

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/internal/expiry"
)

// timeoutWatch watches over the timeout of an attempt. When that has passed, it asks the
// rules whether another attempt takes its place, and only then ends it: otherwise an attempt
// that nothing comes after would be ended, and a call be worse off than without rego. What a
// budget denies is asked for again when the timeout has passed once more.
//
// A call without a deadline has nothing else that ends it, so there the attempt ends in
// any case, but for a stream that is open.
type timeoutWatch struct {
	call    *call
	attempt *attempt
	after   time.Duration
	ctx     *expiry.Context // of the attempt
	timer   *time.Timer
	told    bool // that it was denied. Of the goroutine that asks

	mu       sync.Mutex
	over     bool // the attempt has ended, or nothing ends it any more
	paused   bool // the clock does
	asking   bool // a goroutine of the timer's
	asked    sync.WaitGroup
	panicked *panicValue
}

func (c *call) watchTimeout(a *attempt, after time.Duration, ctx *expiry.Context) *timeoutWatch {
	w := &timeoutWatch{call: c, attempt: a, after: after, ctx: ctx}
	w.mu.Lock()
	defer w.mu.Unlock() // else the timer's goroutine may be there before the timer is
	w.timer = time.AfterFunc(after, w.onTimeout)
	return w
}

// arm starts the clock anew.
func (w *timeoutWatch) arm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused = false; !w.over {
		w.timer.Reset(w.after)
	}
}

// pause stops the clock until it is started again.
func (w *timeoutWatch) pause() {
	w.timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = true
}

// retire stops it for good, and does not wait for what it may just be doing.
func (w *timeoutWatch) retire() {
	w.timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

// stop ends the watch, and passes on what has torn it down.
func (w *timeoutWatch) stop() {
	w.timer.Stop()
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	w.asked.Wait()
	if w.panicked != nil {
		w.panicked.rethrow()
	}
}

// onTimeout runs on a goroutine of the timer's.
func (w *timeoutWatch) onTimeout() {
	w.mu.Lock()
	if w.over || w.paused {
		w.mu.Unlock()
		return
	}
	if w.asking { // the clock was started anew meanwhile
		w.timer.Reset(w.after)
		w.mu.Unlock()
		return
	}
	w.asking = true
	w.asked.Add(1)
	w.mu.Unlock()
	defer w.answered()
	returned := false
	defer func() {
		if !returned {
			w.panicked = w.call.capturePanic(recover())
			w.ctx.Cancel()
		}
	}()
	w.decide()
	returned = true
}

func (w *timeoutWatch) answered() {
	w.mu.Lock()
	w.asking = false
	w.mu.Unlock()
	w.asked.Done()
}

func (w *timeoutWatch) decide() {
	c := w.call
	if c.conn != nil {
		c.boundBy(c.conn.GetMethodConfig(c.method))
	}
	s := c.replaceTimedOut(w.attempt)
	if s.expire {
		w.ctx.Expire()
	}
	if s.denied == DeniedNothing || !w.askAgain() || w.told {
		return
	}
	w.told = true
	c.deny(Attempt{Kind: s.next.kind}, time.Now(), s.denied)
}

// askAgain sets the timer, unless the watch is over.
func (w *timeoutWatch) askAgain() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.timer.Reset(w.after)
	}
	return !w.over
}

// replaceTimedOut takes the lease of the attempt that follows one that has timed out, if
// there is one.
func (c *call) replaceTimedOut(a *attempt) step {
	retryable := c.classify(c.asTimedOut(a)).Class == classify.Retryable && !c.dirty
	m := c.momentAt(time.Now())
	c.mu.Lock()
	s := c.course.attemptTimedOut(&a.attemptState, m, retryable)
	c.mu.Unlock()
	if !s.ask {
		return s
	}
	lease, granted := budget.Take(c.plan.budgetOf(s.next.kind), s.next.leaseKind(true))
	c.mu.Lock()
	s = c.course.replacementAnswered(&a.attemptState, m, s, granted)
	if s.keep {
		c.replacementLease = lease
	}
	c.mu.Unlock()
	if s.giveBack {
		lease.Release(budget.Unsent)
	}
	return s
}

// asTimedOut returns what classifiers would see of an attempt if its timeout ended it now.
func (c *call) asTimedOut(a *attempt) *classify.EndedAttempt {
	expired := status.FromContextError(context.DeadlineExceeded)
	seen := &classify.EndedAttempt{
		Method: c.method, Idempotency: c.idempotency,
		Err: expired.Err(), Status: expired, TimedOut: true,
	}
	if !c.streaming { // what a stream receives into is known only later
		seen.Reply = a.reply
	}
	return seen
}

// isTimedOut reports whether the attempt's own timeout has cancelled it.
func (c *call) isTimedOut(a *attempt) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return a.timedOut
}
