package interceptor

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
)

// next decides on the attempt after a failed one, when none is running any more,
// in the order of the design: caller, outcome, pushback, attempts left, commit,
// deadline, budget. It holds the lease of what it returns in c.pending.
func (c *call) next(failed *attempt) (Attempt, EndReason) {
	switch {
	case failed.seen.CallerDone:
		return Attempt{}, c.callerReason()
	case failed.Outcome.Reason == classify.ReasonNotIdempotent:
		return Attempt{}, EndNotIdempotent
	case failed.seen.Hint.Stops(), c.pushedBack && failed.Outcome.Kind == classify.Retryable:
		return Attempt{}, EndPushback
	case failed.Outcome.Kind != classify.Retryable:
		return Attempt{}, EndNonRetryable
	case c.made >= c.plan.maxAttempts:
		return Attempt{}, EndAttemptsExhausted
	case c.kept != nil:
		return Attempt{}, c.keptFor.endReason()
	case c.isCommitted(failed):
		return Attempt{}, EndCommitted
	}
	next := Attempt{Number: c.legStartsAt + c.made + 1, Kind: budget.Retry}
	from := c.plan.budget
	if c.plan.retriesOff {
		if !c.hedged || !failed.seen.Hint.Asks() {
			return Attempt{}, EndDisabled
		}
		next.Kind, from = budget.Hedge, c.plan.hedges // gRFC A6: pushback delays the next hedge
	}
	if c.dirty && mayHaveReply(failed) {
		c.deny(next, failed.End, DeniedReplyType)
		return Attempt{}, EndCommitted
	}
	if r := c.replacement; r != nil && failed.timedOut {
		next.Wait, next.WaitedOn = r.next.Wait, r.next.WaitedOn
		c.backoffs++
	} else {
		next.Wait, next.WaitedOn = c.backoff(failed)
	}
	if c.tooClose(failed.End, next.Wait) {
		c.deny(next, failed.End, DeniedByDeadline)
		return Attempt{}, EndDeadlineTooClose
	}
	if !c.takeRetry(next, failed, from) {
		c.deny(next, failed.End, DeniedByBudget)
		return Attempt{}, EndBudgetDenied
	}
	c.tellOfRetryPolicy(c.conn, c.method)
	return next, EndUnfinished
}

// takeRetry takes the lease of a retry: the one that was taken when the attempt before it
// timed out, or a new one.
func (c *call) takeRetry(next Attempt, failed *attempt, from budget.Budget) (granted bool) {
	if r := c.replacement; r != nil {
		c.replacement = nil
		c.asking--
		if failed.timedOut && r.next.Kind == next.Kind {
			c.pending = r.lease
			return true
		}
		r.giveBack()
	}
	c.pending, granted = budget.Take(from, next.Kind)
	return granted
}

// tooClose reports whether the wait, and what even a fast attempt of the method takes, do
// not fit into the time left. Opening a stream takes no time that counts, and what its
// first message waits for is no matter of the attempt.
func (c *call) tooClose(now time.Time, wait time.Duration) bool {
	deadline, bounded := c.deadline()
	if !bounded {
		return false
	}
	if !c.streaming {
		wait += c.plan.method.pace.fast(now)
	}
	return deadline.Sub(now) <= wait
}

// overloadBackoff is where the backoff starts after an answer that says the
// server has too much to do already.
const overloadBackoff = time.Second

// backoff returns the wait before the attempt after a failed one.
func (c *call) backoff(failed *attempt) (time.Duration, WaitReason) {
	least, reason := hinted(failed.seen.Hint)
	if reason == WaitPushback {
		c.backoffs = 0
		return least, reason
	}
	b := c.plan.policy.Retry.Backoff
	if failed.seen.Code() == codes.ResourceExhausted {
		b = b.From(overloadBackoff)
	}
	wait := b.Delay(c.backoffs, nil)
	c.backoffs++
	if reason == WaitRetryInfo {
		return max(wait, least), reason
	}
	return wait, WaitBackoff
}

// hinted returns how long the server asks to wait, and how it said so: after
// pushback exactly so long, after RetryInfo at least.
func hinted(h classify.Hint) (time.Duration, WaitReason) {
	switch h.Kind {
	case classify.HintPushback:
		return h.After, WaitPushback
	case classify.HintRetryInfo:
		return spread(h.After), WaitRetryInfo
	default:
		return 0, WaitNone
	}
}

// wait sleeps before an attempt whose lease is held.
func (c *call) wait(next *Attempt) EndReason {
	if c.watched {
		c.telling.Lock()
		c.observe(c.ctx, Event{
			Kind: RetryWait, Time: time.Now(), Timeline: c.timeline,
			Wait: next.Wait, WaitReason: next.WaitedOn,
		})
		c.telling.Unlock()
	}
	if next.Wait > 0 {
		c.pending.Pause()
		timer := time.NewTimer(next.Wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.ctx.Done():
		}
	}
	if c.ctx.Err() != nil {
		c.pending.Release(budget.Unsent)
		return c.callerReason()
	}
	if !c.pending.Resume() {
		c.deny(*next, time.Now(), DeniedByBudget)
		return EndBudgetDenied
	}
	return EndUnfinished
}

// deny notes an attempt that will not be made.
func (c *call) deny(a Attempt, now time.Time, reason DenialReason) {
	if !c.watched {
		return
	}
	c.telling.Lock()
	defer c.telling.Unlock()
	c.timeline.Denials = append(c.timeline.Denials, Denial{Time: now, Kind: a.Kind, Reason: reason, Wait: a.Wait})
	c.observe(c.ctx, Event{Kind: AttemptDenied, Time: now, Timeline: c.timeline})
}

// callerReason says which way the caller left.
func (c *call) callerReason() EndReason {
	if c.ctx.Err() == context.Canceled {
		return EndCallerCancelled
	}
	return EndDeadline
}

// spread returns d times a random 1 to 1.5, so that clients which were told the
// same delay do not come back together.
func spread(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 + 0.5*rand.Float64()))
}
