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
	o := &timeoutWatch{call: c, attempt: a, after: after, ctx: ctx}
	o.mu.Lock()
	defer o.mu.Unlock() // else the timer's goroutine may be there before the timer is
	o.timer = time.AfterFunc(after, o.onTimeout)
	return o
}

// arm starts the clock anew.
func (o *timeoutWatch) arm() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.paused = false; !o.over {
		o.timer.Reset(o.after)
	}
}

// pause stops the clock until it is started again.
func (o *timeoutWatch) pause() {
	o.timer.Stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.paused = true
}

// retire stops it for good, and does not wait for what it may just be doing.
func (o *timeoutWatch) retire() {
	o.timer.Stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
}

// stop ends the watch, and passes on what has torn it down.
func (o *timeoutWatch) stop() {
	o.timer.Stop()
	o.mu.Lock()
	o.over = true
	o.mu.Unlock()
	o.asked.Wait()
	if o.panicked != nil {
		o.panicked.rethrow()
	}
}

// onTimeout runs on a goroutine of the timer's.
func (o *timeoutWatch) onTimeout() {
	o.mu.Lock()
	if o.over || o.paused {
		o.mu.Unlock()
		return
	}
	if o.asking { // the clock was started anew meanwhile
		o.timer.Reset(o.after)
		o.mu.Unlock()
		return
	}
	o.asking = true
	o.asked.Add(1)
	o.mu.Unlock()
	defer o.answered()
	returned := false
	defer func() {
		if !returned {
			o.panicked = o.call.capturePanic(recover())
			o.ctx.Cancel()
		}
	}()
	o.decide()
	returned = true
}

func (o *timeoutWatch) answered() {
	o.mu.Lock()
	o.asking = false
	o.mu.Unlock()
	o.asked.Done()
}

func (o *timeoutWatch) decide() {
	c := o.call
	if c.conn != nil {
		c.boundBy(c.conn.GetMethodConfig(c.method))
	}
	s := c.replaceTimedOut(o.attempt)
	if s.expire {
		o.ctx.Expire()
	}
	if s.denied == DeniedNothing || !o.askAgain() || o.told {
		return
	}
	o.told = true
	c.deny(Attempt{Kind: s.next.kind}, time.Now(), s.denied)
}

// askAgain sets the timer, unless the watch is over.
func (o *timeoutWatch) askAgain() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.over {
		o.timer.Reset(o.after)
	}
	return !o.over
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
