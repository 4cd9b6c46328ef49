package interceptor

import (
	"time"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/internal/waitqueue"
)

// How hedges start. The call has one timer, for the hedge that is scheduled. When that is
// due the trigger is asked, then the rules, then the budget; and when it has started the
// trigger is asked about the one after it. Triggers and budgets are foreign, so mu is not
// held then.

// dueHedge is a hedge that is due, and what a trigger wants to know then.
type dueHedge struct {
	now     time.Time
	next    wanted
	running int
	since   time.Time // it has waited: when the last attempt began, or was denied for good
}

// fire is what the timer runs, on a goroutine of its own.
func (c *call) fire() {
	var a *attempt
	returned := false
	defer func() {
		if !returned {
			c.catch(recover(), a)
		}
	}()
	if h, ok := c.isDue(); ok {
		if !c.isPutOff(h) {
			a = c.startHedge(h.now, h.next, nil)
		}
		for a != nil {
			a, _ = c.afterAttempt(c.try(a))
		}
		c.leave()
	}
	returned = true
}

// isDue reports whether the next hedge is due, and then counts its goroutine.
func (c *call) isDue() (h dueHedge, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h = dueHedge{time.Now(), c.scheduled, max(c.racing, 1), c.course.waitsSince()} // one may just be replaced
	c.armed = false
	called := c.isCalledLocked()
	if early := c.course.untilDue(h.now); early > 0 && !called {
		c.setTimerLocked(early, c.course.waits)
		return h, false
	}
	if c.over {
		c.changed.Broadcast()
		return h, false
	}
	c.workers++
	return h, true
}

// isPutOff asks the trigger about a hedge that is due. One that waits for a budget, or that
// the server has asked to wait, is not its business any more.
func (c *call) isPutOff(h dueHedge) bool {
	if h.next.why != WaitHedgeDelay {
		return false
	}
	says := c.askTrigger(h.now, h.since, h.running)
	c.mu.Lock()
	s, isDue := c.course.triggerSaysWhenDue(h.now, says)
	c.armLocked(h.now, s)
	c.mu.Unlock()
	c.denyStep(s, h.now)
	return !isDue
}

// startHedge asks for leave to start a hedge now, in the place of another attempt if that is
// not nil.
func (c *call) startHedge(now time.Time, next wanted, instead *attempt) *attempt {
	c.askChannel()
	m, canSend, gone := c.momentAt(now), c.canSend(), c.ctx.Err() != nil
	c.mu.Lock()
	s := c.course.hedgeDue(m, next, canSend, gone)
	if !s.ask && next.why == WaitBudget {
		c.leaveQueueLocked(false)
	}
	c.mu.Unlock()
	if s.ask {
		if lease, granted := c.askBudget(now, s.next); granted {
			return c.startGranted(now, s.next, lease, instead)
		}
		c.mu.Lock()
		s = c.course.budgetDenied(now, s)
		c.armLocked(now, s)
		c.mu.Unlock()
	}
	c.denyStep(s, now)
	if s.trigger {
		c.scheduleHedge(now)
	}
	return nil
}

// askBudget asks for a hedge. One that is due since its call is slow does not ask before those
// that wait in the queue, but has the first of them ask.
func (c *call) askBudget(now time.Time, next wanted) (lease budget.Lease, granted bool) {
	if next.why == WaitHedgeDelay && c.plan.queue.Precedes(now) {
		return lease, false
	}
	return budget.Take(c.plan.budgetOf(next.kind), next.kind)
}

// startGranted returns an attempt that a budget was asked for and has granted, unless the
// round has been decided meanwhile.
func (c *call) startGranted(now time.Time, next wanted, lease budget.Lease, instead *attempt) *attempt {
	c.tellOfRetryPolicy(c.conn, c.method)
	n := next.attempt()
	n.Start = now
	var a *attempt
	if instead != nil {
		a = c.successor(instead, n, lease)
	} else {
		a = c.newAttempt(n, lease)
		if !c.streaming {
			a.reply, a.ownReply = c.replies.Make(), true
		}
	}
	c.makeCancellable(a)
	c.mu.Lock()
	number, starts := c.course.budgetGranted()
	if starts {
		a.Number = number
		c.running = append(c.running, a) // what it holds is returned from here on
		c.leaveQueueLocked(true)
	}
	c.mu.Unlock()
	if !starts {
		a.cancel()
		a.lease.Release(budget.Unsent)
		return nil
	}
	returned := false
	defer func() {
		if !returned { // a trigger has ended the goroutine
			c.tearDown(a)
		}
	}()
	c.scheduleHedge(now)
	returned = true
	return a
}

// scheduleHedge asks the trigger when the hedge is due that comes after one that has started
// or been denied for good, and sets the timer.
func (c *call) scheduleHedge(now time.Time) {
	c.mu.Lock()
	running, hasPlace := max(c.racing, 1), c.course.hasPlace()
	c.mu.Unlock()
	if !hasPlace {
		return
	}
	says := c.askTrigger(now, now, running)
	c.mu.Lock()
	s := c.course.triggerSays(now, says)
	c.armLocked(now, s)
	c.mu.Unlock()
	c.denyStep(s, now)
}

// armLocked sets the timer for the hedge that is scheduled, if a step says so. One that does
// not wait for a budget leaves the queue.
func (c *call) armLocked(now time.Time, s step) {
	if !s.setTimer {
		return
	}
	if !s.waits {
		c.leaveQueueLocked(false)
	}
	c.setTimerLocked(c.course.due.Sub(now), s.waits)
}

// setTimerLocked sets the timer, of a call that waits in the queue or of one that does not.
func (c *call) setTimerLocked(d time.Duration, waits bool) {
	on := c.armed
	c.armed = true
	switch {
	case c.timer == nil:
		c.timer = time.AfterFunc(d, c.fireFunc)
	case waits:
	case !on || c.timer.Stop():
		c.timer.Reset(d)
	} // else its goroutine is on the way and will see that it is early
	if waits {
		if c.waiter == nil {
			c.waiter = waitqueue.NewWaiter(c.timer)
		}
		c.plan.queue.Wait(c.waiter, d, on)
	}
}

func (c *call) leaveQueueLocked(granted bool) {
	if c.waiter != nil {
		c.plan.queue.Leave(c.waiter, granted)
	}
}

// isCalledLocked reports whether the queue has called the call before its timer has run
// down.
func (c *call) isCalledLocked() bool {
	return c.waiter != nil && c.plan.queue.HasCalled(c.waiter)
}

// denyStep notes that the hedge of a step is not made, or waits.
func (c *call) denyStep(s step, now time.Time) {
	if s.denied != DeniedNothing {
		c.deny(s.next.attempt(), now, s.denied)
	}
}
