package interceptor

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
)

// overdue watches over the timeout of a unary attempt. When that has passed, it asks all
// that a retry would ask: whether the timeout of an attempt is retryable here, whether an
// attempt is left, the wait fits and the budget grants it. Only then does it end the
// attempt, whose place is taken by the one that was granted. Otherwise an attempt that
// nothing comes after would be ended, and a call be worse off than without rego. What a
// budget denies is asked for again when the timeout has passed once more.
//
// A call without a deadline has nothing else that ends it, so there the attempt ends in
// any case, but for a stream that is open.
type overdue struct {
	call    *call
	attempt *attempt
	after   time.Duration
	ctx     *expiring // of the attempt
	timer   *time.Timer
	told    bool // that it was denied. Of the timer's goroutine

	mu    sync.Mutex
	over  bool // the attempt has ended, or nothing ends it any more
	rests bool // the clock does
	asked sync.WaitGroup
	torn  *tear
}

// replacement is the attempt that takes the place of one that timed out.
type replacement struct {
	lease budget.Lease
	next  Attempt
}

// giveBack is for one that was not needed.
func (r *replacement) giveBack() {
	if r != nil {
		r.lease.Release(budget.Unsent)
	}
}

func (c *call) watchOver(a *attempt, after time.Duration, ctx *expiring) *overdue {
	o := &overdue{call: c, attempt: a, after: after, ctx: ctx}
	o.mu.Lock()
	defer o.mu.Unlock() // else the timer's goroutine may be there before the timer is
	o.timer = time.AfterFunc(after, o.ask)
	return o
}

// arm starts the clock anew.
func (o *overdue) arm() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.rests = false; !o.over {
		o.timer.Reset(o.after)
	}
}

// rest stops the clock until it is started again.
func (o *overdue) rest() {
	o.timer.Stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rests = true
}

// retire stops it for good, and does not wait for what it may just be doing.
func (o *overdue) retire() {
	o.timer.Stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
}

// stop ends the watch, and passes on what has torn it down.
func (o *overdue) stop() {
	o.timer.Stop()
	o.mu.Lock()
	o.over = true
	o.mu.Unlock()
	o.asked.Wait()
	if o.torn != nil {
		o.torn.again()
	}
}

// ask runs on a goroutine of the timer's.
func (o *overdue) ask() {
	o.mu.Lock()
	if o.over || o.rests {
		o.mu.Unlock()
		return
	}
	o.asked.Add(1)
	o.mu.Unlock()
	defer o.asked.Done()
	returned := false
	defer func() {
		if !returned {
			o.torn = o.call.newTear(recover())
			o.ctx.cancel()
		}
	}()
	o.decide()
	returned = true
}

func (o *overdue) decide() {
	c := o.call
	if c.conn != nil {
		c.boundBy(c.conn.GetMethodConfig(c.method))
	}
	replaced, why := c.replaceOverdue(o.attempt)
	if replaced {
		o.ctx.expire()
		return
	}
	if _, bounded := c.deadline(); !bounded {
		c.mu.Lock()
		ends := !c.streaming || !o.attempt.tried // a stream that is open may have nothing to tell
		o.attempt.timedOut = o.attempt.timedOut || ends
		c.mu.Unlock()
		if ends {
			o.ctx.expire()
			return
		}
	}
	if why != DeniedNothing && !o.told {
		o.told = true
		c.deny(Attempt{Kind: c.kindOfNext()}, time.Now(), why)
	}
	if why == DeniedByBudget {
		o.mu.Lock()
		defer o.mu.Unlock()
		if !o.over {
			o.timer.Reset(o.after)
		}
	}
}

// kindOfNext is what takes the place of an attempt while the call goes on.
func (c *call) kindOfNext() budget.Kind {
	if c.hedged {
		return budget.Hedge
	}
	return budget.Retry
}

// replaceOverdue takes the lease of the attempt that follows one that has timed out, and
// reports whether there is one.
func (c *call) replaceOverdue(a *attempt) (bool, DenialReason) {
	expired := status.FromContextError(context.DeadlineExceeded)
	seen := &classify.Attempt{
		Method: c.method, Reply: a.reply, Idempotency: c.idempotency,
		Err: expired.Err(), Status: expired, TimedOut: true,
	}
	if c.classify(seen).Kind != classify.Retryable || c.dirty {
		return false, DeniedNothing
	}
	now := time.Now()
	r := &replacement{next: Attempt{Kind: c.kindOfNext()}}
	from := c.plan.hedges
	if !c.hedged {
		from = c.plan.budget
		r.next.Wait, r.next.WaitedOn = c.plan.policy.Retry.Backoff.Delay(c.backoffs, nil), WaitBackoff
	}
	c.mu.Lock()
	left := c.made+c.asking < c.plan.maxAttempts && !c.over && c.kept == nil && !c.pushedBack && !c.lastHedge && !c.refused && c.replacement == nil
	if left {
		c.asking++
	}
	c.mu.Unlock()
	if !left {
		return false, DeniedNothing
	}
	var granted bool
	tooClose := c.tooClose(now, r.next.Wait)
	if !tooClose {
		r.lease, granted = budget.Take(from, r.next.Kind)
	}
	c.mu.Lock()
	if granted && !c.over {
		a.timedOut = true
		c.replacement = r // and is counted among what is asked for, until it starts
		c.mu.Unlock()
		return true, DeniedNothing
	}
	c.asking--
	c.mu.Unlock()
	switch {
	case granted:
		r.giveBack()
		return false, DeniedNothing
	case tooClose:
		return false, DeniedByDeadline
	}
	return false, DeniedByBudget
}

// isTimedOut reports whether the attempt's own timeout has cancelled it.
func (c *call) isTimedOut(a *attempt) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return a.timedOut
}
