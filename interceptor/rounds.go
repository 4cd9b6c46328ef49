package interceptor

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
)

// rounds is what the attempts of a hedged call share: one round of them at a time,
// which the first success or fatal status decides.
//
// The original, or a retry, runs on the caller's goroutine and into the caller's
// reply. A timer starts hedges beside it, each on the goroutine of the timer and
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
	delay    time.Duration   // between the starts of two attempts
	replies  replies         // of hedges
	ctx      context.Context // of the call
	fireFunc func()          // fire, made once

	mu      sync.Mutex // guards what follows, the timeline and what observers are told
	changed sync.Cond  // something that somebody waits for

	joined  bool     // the caller's goroutine is in a round
	kept    *attempt // of a stream: the one that it is committed to
	keptFor CommitReason

	decided    *attempt   // by now; who fails last decides if nobody does better
	over       bool       // nothing will be started any more
	made       int        // attempts of the call
	places     int        // of the schedule, taken by attempts and by hedges that were denied
	running    []*attempt // that have started in this round, with nil for those that have ended
	workers    int        // goroutines that make attempts, the caller's included
	pushedBack bool       // the server forbade further attempts
	lastHedge  bool       // no more hedges: another reply could not be made
	torn       *tear

	timer     *time.Timer
	armed     bool      // the timer is on, or its goroutine has not looked yet
	due       time.Time // of the next hedge
	dueAfter  time.Duration
	dueReason WaitReason
}

// runRound makes a round of attempts, the lead on this goroutine, and returns when
// all of them have. What became of it is in c.decided.
func (c *call) runRound(ctx context.Context) {
	c.enter(ctx)
	for a := c.lead; a != nil; a = c.settle(a) {
		c.try(ctx, a)
	}
	c.join()
}

func (c *call) enter(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ctx = ctx
	if c.lead.cancel == nil { // the original of a stream has one
		c.lead.leash(ctx)
	}
	c.joined = true
	c.over = c.kept != nil
	c.workers = 1
	c.places = c.made
	c.running = append(c.running[:0], c.lead)
	if !c.over {
		c.armNextLocked(c.lead.Start)
	}
}

// settle takes in that an attempt has ended, and returns the one that its
// goroutine is to make next, or nil if it has left the round.
func (c *call) settle(a *attempt) (next *attempt) {
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
		if a.Result != AttemptFailed || !c.survivable(a) {
			c.decideLocked(a)
		}
	case c.kept != nil, c.decided != nil && c.decided.Result == AttemptWon:
		a.Result, a.goesOn = AttemptLost, false
	default:
		a.Result, a.goesOn = AttemptCancelled, false
	}
	if !a.goesOn {
		c.recordLocked(a)
	}
	if !c.over {
		next = c.replaceLocked(a)
	}
	if next == nil {
		c.leaveLocked()
	}
	return next
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

// replaceLocked returns the hedge that takes the place of a failed attempt, on
// the same goroutine.
func (c *call) replaceLocked(a *attempt) *attempt {
	hint := a.seen.Hint
	if hint.Stops() {
		c.pushedBack = true
		return nil
	}
	if wait, why := hinted(hint); wait > 0 {
		// If nobody is left to wait beside, the round ends here, and what comes
		// next waits as long.
		c.armLocked(a.End, wait, why)
		return nil
	}
	next, lease, ok := c.hedgeLocked(a.End, 0, WaitNone)
	if !ok {
		return nil
	}
	a = c.successor(a, next, lease)
	a.leash(c.ctx)
	c.running = append(c.running, a)
	return a
}

// hedgeLocked asks for leave to start a hedge now, after a wait, and sets the
// timer for the one after it.
func (c *call) hedgeLocked(now time.Time, wait time.Duration, why WaitReason) (Attempt, budget.Lease, bool) {
	if c.pushedBack || c.lastHedge || c.made >= c.plan.maxAttempts {
		return Attempt{}, budget.Lease{}, false
	}
	c.places++
	c.armNextLocked(now)
	hedge := Attempt{Kind: budget.Hedge, Wait: wait, WaitedOn: why}
	switch {
	case c.conn != nil && c.conn.GetState() != connectivity.Ready:
		c.denyLocked(c.ctx, hedge, now, DeniedNotReady)
		return Attempt{}, budget.Lease{}, false
	case c.tooClose(c.ctx, now, 0):
		c.denyLocked(c.ctx, hedge, now, DeniedByDeadline)
		return Attempt{}, budget.Lease{}, false
	}
	lease, granted := budget.Take(c.plan.hedges, budget.Hedge)
	if !granted {
		c.denyLocked(c.ctx, hedge, now, DeniedByBudget)
		return Attempt{}, budget.Lease{}, false
	}
	if c.beforeExtra != nil {
		c.beforeExtra(c.conn, c.method)
	}
	c.made++
	hedge.Number, hedge.Start = c.made, now
	return hedge, lease, true
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
	returned := false
	defer c.catch(&returned)
	for a := c.startHedge(); a != nil; a = c.settle(a) {
		c.try(c.ctx, a)
	}
	returned = true
}

// startHedge returns the hedge that is due, or nil.
func (c *call) startHedge() *attempt {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if early := c.due.Sub(now); early > 0 && !c.over {
		c.timer.Reset(early)
		return nil
	}
	c.armed = false
	if c.over {
		c.changed.Broadcast()
		return nil
	}
	c.workers++
	next, lease, ok := c.hedgeLocked(now, c.dueAfter, c.dueReason)
	if !ok {
		c.leaveLocked()
		return nil
	}
	a := c.newAttempt(next, lease)
	a.leash(c.ctx)
	c.running = append(c.running, a) // what it holds is returned from here on
	if !c.streaming {
		a.reply = c.replies.make()
	}
	return a
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

// leaveLocked is for a goroutine that makes no more attempts. The last one ends
// the round.
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
	defer c.mu.Unlock()
	if c.torn == nil && panicked != nil {
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

// catch keeps what tears a hedge down for the caller's goroutine, where it
// belongs.
func (c *call) catch(returned *bool) {
	if *returned {
		return
	}
	t := c.newTear(recover())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.torn = t
	c.stopLocked()
	c.leaveLocked()
}
