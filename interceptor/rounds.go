package interceptor

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
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
	hedged   bool
	delay    time.Duration // between the starts of two attempts
	replies  replies       // of hedges
	wasReady bool          // the channel, when the call began
	fireFunc func()        // fire, made once

	mu      sync.Mutex // guards what follows; nothing foreign is called while it is held
	changed sync.Cond  // something that somebody waits for

	joined  bool     // the caller's goroutine is in a round
	kept    *attempt // of a stream: the one that it is committed to
	keptFor CommitReason

	decided     *attempt   // by now; who fails last decides if nobody does better
	over        bool       // nothing will be started any more
	made        int        // attempts of the call
	asking      int        // more of them, which a budget is being asked for
	places      int        // of the schedule, taken by attempts and by hedges that were denied
	running     []*attempt // that have started in this round, with nil for those that have ended
	firstTwo    [2]*attempt
	workers     int  // goroutines that make attempts, the caller's included
	pushedBack  bool // the server forbade further attempts
	lastHedge   bool // no more hedges: another reply could not be made
	refused     bool // no more hedges: one was refused
	alive       bool // an attempt of the round has shown that it is not slow: its like is not hedged
	replacement *replacement
	torn        *tear

	timer     *time.Timer
	armed     bool      // the timer is on, or its goroutine has not looked yet
	due       time.Time // of the next hedge
	dueAfter  time.Duration
	dueReason WaitReason
}

// runRound makes a round of attempts, the lead on this goroutine, and returns when
// all of them have. What became of it is in c.decided.
func (c *call) runRound() {
	c.enter()
	for next := c.lead; next != nil; next = c.settle(next) {
		c.mine = next
		c.try(next)
	}
	c.join()
}

func (c *call) enter() {
	if c.lead.cancel == nil { // the original of a stream has one
		c.leash(c.lead)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.joined = true
	c.over = c.kept != nil
	c.workers = 1
	c.alive = false
	c.places = c.made
	c.running = append(c.firstTwo[:0], c.lead)
	if !c.over {
		c.armNextLocked(c.lead.Start)
	}
}

// settle takes in that an attempt has ended, and returns the one that its
// goroutine is to make next, or nil if it has left the round.
func (c *call) settle(a *attempt) *attempt {
	goesOn := c.conclude(a)
	if !a.goesOn {
		c.record(a)
	}
	if goesOn {
		if next := c.replace(a); next != nil {
			return next
		}
	}
	c.leave()
	return nil
}

// conclude says what became of an attempt that has ended, and reports whether the round
// goes on.
func (c *call) conclude(a *attempt) (goesOn bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range c.running {
		if r == a {
			c.running[i] = nil
		}
	}
	switch {
	case a == c.kept:
		c.decided = a
		a.Result = resultOf(a)
	case !c.over:
		c.decided = a
		a.Result = resultOf(a)
		if c.decidesLocked(a) {
			c.decideLocked(a)
		}
	case c.kept != nil, c.decided != nil && c.decided.Result == AttemptWon:
		a.Result, a.goesOn = AttemptLost, false
	default:
		a.Result, a.goesOn = AttemptCancelled, false
	}
	return !c.over
}

// decidesLocked reports whether an attempt decides against those that run. A success
// does, and so does the end of the call. A retryable failure does not (gRFC A6's
// non-fatal codes). Any other failure of the lead does, as it would without hedging. That
// of a hedge does in policies that are gRPC's; in others only if every attempt would be
// told the same, since without rego the lead would go on.
func (c *call) decidesLocked(a *attempt) bool {
	switch {
	case a.Result != AttemptFailed:
		return true
	case a.survivable:
		return false
	}
	return a.Kind != budget.Hedge || c.plan.policy.AsGRPC || a.isSure() || !c.anyRunningLocked()
}

func (c *call) anyRunningLocked() bool {
	for _, r := range c.running {
		if r != nil {
			return true
		}
	}
	return false
}

// survivable reports whether an attempt failed in a way that leaves a chance to
// others (gRFC A6's non-fatal codes). A server that pushes back forbids new
// attempts, not those that run.
func (c *call) survivable(a *attempt) bool {
	if !a.seen.Hint.Stops() {
		return a.Outcome.Kind == classify.Retryable
	}
	seen := a.seen
	seen.Hint = classify.Hint{}
	return c.classify(&seen).Kind == classify.Retryable
}

// replace returns the hedge that takes the place of a failed attempt, on the same
// goroutine. There is none after a refusal of the server or, since it would be refused
// as well, of the hedge itself.
func (c *call) replace(a *attempt) *attempt {
	wait, why := hinted(a.seen.Hint)
	c.mu.Lock()
	var r *replacement
	if a.timedOut {
		r, c.replacement = c.replacement, nil
	}
	takes := false
	switch {
	case a.seen.Hint.Stops():
		c.pushedBack = true
	case !a.survivable || c.isCommitted(a):
		c.refused = true
	case wait > 0:
		// If nobody is left to wait beside, the round ends here, and what comes
		// next waits as long.
		c.armLocked(a.End, wait, why)
	default:
		if takes = r != nil; takes {
			c.places++
			c.armNextLocked(a.End)
			break
		}
		c.mu.Unlock()
		return c.startHedge(a.End, 0, WaitNone, a)
	}
	if r != nil && !takes {
		c.asking--
	}
	c.mu.Unlock()
	if takes {
		return c.startGranted(a.End, r.next, r.lease, a)
	}
	r.giveBack()
	return nil
}

// startHedge asks for leave to start a hedge now, after a wait, and sets the timer for
// the one after it. It takes the place of another attempt, if that is not nil.
func (c *call) startHedge(now time.Time, wait time.Duration, why WaitReason, instead *attempt) *attempt {
	hedge := Attempt{Kind: budget.Hedge, Wait: wait, WaitedOn: why}
	c.askChannel()
	canSend := c.canSend()
	tooClose := c.tooClose(now, 0)
	gone := c.ctx.Err() != nil
	c.mu.Lock()
	if gone || c.over || c.alive && instead == nil || c.pushedBack || c.lastHedge || c.refused || c.made+c.asking >= c.plan.maxAttempts {
		c.mu.Unlock()
		return nil
	}
	c.places++
	c.armNextLocked(now)
	c.asking++
	c.mu.Unlock()
	denied := DeniedNothing
	var lease budget.Lease
	switch {
	case !canSend:
		denied = DeniedNotReady
	case tooClose:
		denied = DeniedByDeadline
	default:
		var granted bool
		if lease, granted = budget.Take(c.plan.hedges, budget.Hedge); !granted {
			denied = DeniedByBudget
		}
	}
	if denied != DeniedNothing {
		c.mu.Lock()
		c.asking--
		c.mu.Unlock()
		c.deny(hedge, now, denied)
		return nil
	}
	return c.startGranted(now, hedge, lease, instead)
}

// startGranted returns an attempt that a budget was asked for and has granted, unless the
// round has been decided meanwhile.
func (c *call) startGranted(now time.Time, next Attempt, lease budget.Lease, instead *attempt) *attempt {
	c.tellOfRetryPolicy(c.conn, c.method)
	next.Start = now
	var a *attempt
	if instead != nil {
		a = c.successor(instead, next, lease)
	} else {
		a = c.newAttempt(next, lease)
		if !c.streaming {
			a.reply, a.ownReply = c.replies.make(), true
		}
	}
	c.leash(a)
	c.mu.Lock()
	c.asking--
	if c.over {
		c.mu.Unlock()
		a.cancel()
		a.lease.Release(budget.Unsent)
		return nil
	}
	defer c.mu.Unlock()
	c.made++
	a.Number = c.legStartsAt + c.made
	c.running = append(c.running, a) // what it holds is returned from here on
	return a
}

// armNextLocked sets the timer for the next hedge on schedule. A hedge that was
// denied has had its place.
func (c *call) armNextLocked(now time.Time) {
	if c.places < c.plan.maxAttempts {
		c.armLocked(now, c.delay, WaitHedgeDelay)
	}
}

func (c *call) armLocked(now time.Time, wait time.Duration, why WaitReason) {
	c.due, c.dueAfter, c.dueReason = now.Add(wait), wait, why
	switch {
	case c.timer == nil:
		c.timer = time.AfterFunc(wait, c.fireFunc)
	case !c.armed || c.timer.Stop():
		c.timer.Reset(wait)
	} // else its goroutine is on the way and will see that it is early
	c.armed = true
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
	now, after, why, ok := c.isDue()
	if !ok {
		returned = true
		return
	}
	if a = c.startHedge(now, after, why, nil); a == nil {
		c.leave()
	}
	for a != nil {
		c.try(a)
		a = c.settle(a)
	}
	returned = true
}

// isDue reports whether the next hedge is due, and then counts its goroutine.
func (c *call) isDue() (now time.Time, after time.Duration, why WaitReason, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, after, why = time.Now(), c.dueAfter, c.dueReason
	if early := c.due.Sub(now); early > 0 && !c.over {
		c.timer.Reset(early)
		return now, after, why, false
	}
	c.armed = false
	if c.over {
		c.changed.Broadcast()
		return now, after, why, false
	}
	c.workers++
	return now, after, why, true
}

// decideLocked ends the round with the attempt that has decided it.
func (c *call) decideLocked(by *attempt) {
	if by.Result != AttemptCancelled { // else the caller cancels them all
		c.cancelledLocked(by.End)
	}
	c.stopLocked()
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
	c.over = true
	for _, a := range c.running {
		if a != nil && a != c.kept {
			a.dropped = true
			a.cancel()
		}
	}
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

// join waits until everybody has left the round, and passes on what tore one of
// its attempts down.
func (c *call) join() {
	c.mu.Lock()
	for c.workers > 0 || c.armed {
		c.changed.Wait()
	}
	torn := c.torn
	c.joined = false
	c.mu.Unlock()
	if torn != nil {
		torn.again()
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

// tear is a panic, or with a nil value a runtime.Goexit.
type tear struct{ panicked any }

// newTear logs the stack of a panic, which is lost on the way to where it belongs.
// One that has been passed on before has been logged.
func (c *call) newTear(panicked any) *tear {
	c.mu.Lock()
	first := c.torn == nil
	c.mu.Unlock()
	if first && panicked != nil {
		c.interceptor.log.Error("rego: an attempt panicked, its caller will", "method", c.method, "panic", panicked, "stack", string(debug.Stack()))
	}
	return &tear{panicked}
}

func (t *tear) again() {
	if t.panicked == nil {
		runtime.Goexit()
	}
	panic(t.panicked)
}

// catch keeps what tears a hedge down for the caller's goroutine, where it belongs, and
// returns what the hedge holds.
func (c *call) catch(panicked any, a *attempt) {
	t := c.newTear(panicked)
	if a != nil {
		c.tearDown(a)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.torn = t
	c.stopLocked()
	c.leaveLocked()
}
