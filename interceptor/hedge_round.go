package interceptor

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/internal/reply"
	"github.com/rego-go/rego/internal/waitqueue"
)

// rounds is what the attempts of a hedged call share: one round of them at a time,
// which the first success or fatal status decides.
//
// The original, or a retry, runs on the caller's goroutine and into the caller's
// reply: the lead. A timer starts hedges beside it, each on the goroutine of the timer and
// into a reply of its own. A goroutine whose attempt fails in a way that the
// others survive makes the next hedge itself, at once (gRFC A6). When a round is
// decided all attempts that still run are cancelled, and the caller's goroutine
// waits until they have returned. So a hedge that is not started costs a context
// and a timer, and nothing is written after the call has returned.
//
// Of a stream the goroutine is not the caller's but its engine's, and the first
// message is the reply.
type rounds struct {
	replies  reply.Maker // of hedges
	wasReady bool        // the channel, when the call began
	fireFunc func()      // fire, made once

	// Guarded by mu, which is held while nothing foreign is called.
	joined  bool     // the caller's goroutine is in a round, or was alone in the last
	workers int      // goroutines that make attempts, the caller's included
	kept    *attempt // of a stream: the one that it is committed to

	decided          *attempt   // by now; who fails last decides if nobody does better
	running          []*attempt // that have started in this round, with nil for those that have ended
	firstTwo         [2]*attempt
	replacementLease budget.Lease // of the attempt that was granted in advance
	panicked         *panicValue

	timer  *time.Timer
	armed  bool              // the timer is on, or its goroutine has not looked yet
	waiter *waitqueue.Waiter // in the queue; nil if the call has never been there
	began  time.Time         // the original, if a trigger wants to know. Not guarded: it does not change
}

// locks are those of a call. They are not overwritten with it: who has unlocked a mutex may
// not yet have left it when the next one has.
type locks struct {
	mu      sync.Mutex
	changed sync.Cond  // something that somebody waits for, with mu
	telling sync.Mutex // held while observers are told, and the record is written
}

// runRound makes a round of attempts, the lead on this goroutine, and returns when
// all of them have. What became of it is in c.decided.
func (c *call) runRound() {
	c.enter()
	alone := false
	for next := c.lead; next != nil; {
		c.mine = next
		next, alone = c.afterAttempt(c.try(next))
	}
	if !alone {
		c.join()
	}
}

func (c *call) enter() {
	if c.lead.cancel == nil { // the original of a stream has one
		c.makeCancellable(c.lead)
	}
	now, says := c.lead.Start, answer{after: c.delay} // the trigger has been asked before the call began
	switch {
	case c.lead.Number > 1:
		says = c.askTrigger(now, now, 1)
	case c.plan.hedging.trigger != nil:
		c.began = now
	}
	c.mu.Lock()
	c.joined = true
	c.workers = 1
	c.running = append(c.firstTwo[:0], c.lead)
	s := c.course.roundBegins(now, says)
	c.armLocked(now, s)
	c.mu.Unlock()
	c.denyStep(s, now)
}

// afterAttempt takes in that an attempt has ended, and returns the one that its goroutine is to
// make next, or nil if it makes no more. alone says that then nobody else is in the round,
// nor will be.
func (c *call) afterAttempt(a *attempt) (next *attempt, alone bool) {
	undecided, alone := c.conclude(a)
	if !a.continues {
		c.record(a)
	}
	if undecided {
		next = c.replace(a)
	}
	return next, alone
}

// conclude says what became of an attempt that has ended, and reports whether the round
// goes on, and if it does not whether this goroutine is the only one in it.
func (c *call) conclude(a *attempt) (undecided, alone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notRunningLocked(a)
	v := c.course.attemptEnded(&a.attemptState)
	if v.decides {
		c.decided = a
	}
	if v.cancels {
		c.cancelledLocked(v.cancelledAt)
		c.stopLocked()
	}
	return !c.over, c.over && c.workers == 1 && !c.armed && c.panicked == nil
}

// notRunning takes an attempt out of those that others may cancel.
func (c *call) notRunning(a *attempt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notRunningLocked(a)
}

func (c *call) notRunningLocked(a *attempt) {
	for i, r := range c.running {
		if r == a {
			c.running[i] = nil
		}
	}
}

// replace returns the attempt that takes the place of a failed one, on the same goroutine.
func (c *call) replace(a *attempt) *attempt {
	c.mu.Lock()
	s := c.course.attemptFailed(&a.attemptState)
	c.armLocked(a.End, s)
	var lease budget.Lease
	if s.take || s.giveBack {
		lease, c.replacementLease = c.replacementLease, budget.Lease{}
	}
	c.mu.Unlock()
	switch {
	case s.take:
		return c.startGranted(a.End, s.next, lease, a)
	case s.giveBack:
		lease.Release(budget.Unsent)
	case s.hedge:
		return c.startHedge(a.End, s.next, a)
	}
	return nil
}

// cancelledLocked notes that all that run, but for the one that is kept, are
// cancelled.
func (c *call) cancelledLocked(now time.Time) {
	for _, a := range c.running {
		if a != nil && a != c.kept {
			a.CancelledAt = now
		}
	}
}

func (c *call) stopLocked() {
	c.course.stop()
	for _, a := range c.running {
		if a != nil && a != c.kept {
			a.dropped = true
			a.cancel()
		}
	}
	c.leaveQueueLocked(false)
	if c.armed && c.timer.Stop() {
		c.armed = false
	}
	c.changed.Broadcast()
}

func (c *call) isDropped(a *attempt) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return a.dropped
}

// leave is for a goroutine that makes no more attempts. The last one ends the round.
func (c *call) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaveLocked()
}

func (c *call) leaveLocked() {
	if c.workers--; c.workers > 0 {
		return
	}
	if !c.over {
		c.stopLocked()
	}
	c.changed.Broadcast()
}

// join leaves the round, waits until everybody has, and passes on what tore one of its
// attempts down.
func (c *call) join() {
	c.mu.Lock()
	c.leaveLocked()
	for c.workers > 0 || c.armed {
		c.changed.Wait()
	}
	torn := c.panicked
	c.joined = false
	c.mu.Unlock()
	if torn != nil {
		torn.rethrow()
	}
}

// abandon ends the round that the caller's goroutine is torn down in, if there is
// one: it has left the others only once no worker is left.
func (c *call) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.workers = max(c.workers-1, 0)
	c.stopLocked()
	for c.workers > 0 || c.armed {
		c.changed.Wait()
	}
}

// panicValue is a panic, or with a nil value a runtime.Goexit.
type panicValue struct{ panicked any }

// capturePanic logs the stack of a panic, which is lost on the way to where it belongs.
// One that has been passed on before has been logged.
func (c *call) capturePanic(panicked any) *panicValue {
	c.mu.Lock()
	first := c.panicked == nil
	c.mu.Unlock()
	if first && panicked != nil {
		c.interceptor.log.Error("rego: an attempt panicked, its caller will", "method", c.method, "panic", panicked, "stack", string(debug.Stack()))
	}
	return &panicValue{panicked}
}

func (p *panicValue) rethrow() {
	if p.panicked == nil {
		runtime.Goexit()
	}
	panic(p.panicked)
}

// catch keeps what tears a hedge down for the caller's goroutine, where it belongs, and
// returns what the hedge holds.
func (c *call) catch(panicked any, a *attempt) {
	t := c.capturePanic(panicked)
	if a != nil {
		c.tearDown(a)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.panicked = t
	c.stopLocked()
	c.leaveLocked()
}
