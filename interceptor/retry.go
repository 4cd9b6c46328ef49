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
// in the order of the design: caller, outcome, pushback, attempts left, deadline,
// budget. It holds the lease of what it returns in c.pending.
func (c *call) next(ctx context.Context, failed *attempt) (Attempt, EndReason) {
	switch {
	case failed.seen.CallerDone:
		return Attempt{}, callerReason(ctx)
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
	}
	next := Attempt{Number: c.made + 1, Kind: budget.Retry}
	from := c.plan.budget
	if c.plan.retriesOff {
		if !c.hedged || !failed.seen.Hint.Asks() {
			return Attempt{}, EndDisabled
		}
		next.Kind, from = budget.Hedge, c.plan.hedges // gRFC A6: pushback delays the next hedge
	}
	next.Wait, next.WaitedOn = c.backoff(failed)
	if c.tooClose(ctx, failed.End, next.Wait) {
		c.deny(ctx, next, failed.End, DeniedByDeadline)
		return Attempt{}, EndDeadlineTooClose
	}
	var granted bool
	if c.pending, granted = budget.Take(from, next.Kind); !granted {
		c.deny(ctx, next, failed.End, DeniedByBudget)
		return Attempt{}, EndBudgetDenied
	}
	if c.beforeExtra != nil {
		c.beforeExtra(c.conn, c.method)
	}
	return next, EndUnfinished
}

// tooClose reports whether the wait, and what the method usually takes, do not
// fit into the time left.
func (c *call) tooClose(ctx context.Context, now time.Time, wait time.Duration) bool {
	deadline, bounded := ctx.Deadline()
	return bounded && deadline.Sub(now) <= wait+c.plan.method.usual.duration()
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
func (c *call) wait(ctx context.Context, next *Attempt) EndReason {
	if c.watched {
		c.mu.Lock()
		c.observe(ctx, Event{
			Kind: RetryWait, Time: time.Now(), Timeline: c.timeline,
			Wait: next.Wait, WaitReason: next.WaitedOn,
		})
		c.mu.Unlock()
	}
	if next.Wait > 0 {
		timer := time.NewTimer(next.Wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		c.pending.Release(budget.Unsent)
		return callerReason(ctx)
	}
	return EndUnfinished
}

// deny notes an attempt that will not be made.
func (c *call) deny(ctx context.Context, a Attempt, now time.Time, reason DenialReason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.denyLocked(ctx, a, now, reason)
}

func (c *call) denyLocked(ctx context.Context, a Attempt, now time.Time, reason DenialReason) {
	if c.watched {
		c.timeline.Denials = append(c.timeline.Denials, Denial{Time: now, Kind: a.Kind, Reason: reason, Wait: a.Wait})
		c.observe(ctx, Event{Kind: AttemptDenied, Time: now, Timeline: c.timeline})
	}
}

// callerReason says which way the caller left.
func callerReason(ctx context.Context) EndReason {
	if ctx.Err() == context.Canceled {
		return EndCallerCancelled
	}
	return EndDeadline
}

// spread returns d times a random 1 to 1.5, so that clients which were told the
// same delay do not come back together.
func spread(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 + 0.5*rand.Float64()))
}
