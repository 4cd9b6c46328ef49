package interceptor

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
)

// next decides on the attempt after a failed one, in the order of the design:
// caller, outcome, pushback, attempts left, deadline, budget.
func (c *call) next(ctx context.Context, failed *Attempt) (Attempt, EndReason) {
	switch outcome := failed.Outcome; {
	case c.attempt.CallerDone:
		return Attempt{}, callerReason(ctx)
	case outcome.Reason == classify.ReasonNotIdempotent:
		return Attempt{}, EndNotIdempotent
	case c.attempt.Hint.Stops():
		return Attempt{}, EndPushback
	case outcome.Kind != classify.Retryable:
		return Attempt{}, EndNonRetryable
	case c.plan.retriesOff:
		return Attempt{}, EndDisabled
	case failed.Number >= c.plan.maxAttempts:
		return Attempt{}, EndAttemptsExhausted
	}
	next := Attempt{Number: failed.Number + 1, Kind: budget.Retry}
	next.Wait, next.WaitedOn = c.backoff()
	deadline, bounded := ctx.Deadline()
	if bounded && deadline.Sub(failed.End) <= next.Wait+c.plan.usual.duration() {
		return Attempt{}, c.deny(ctx, &next, failed.End, EndDeadlineTooClose)
	}
	var granted bool
	if c.lease, granted = budget.Take(c.plan.budget, budget.Retry); !granted {
		return Attempt{}, c.deny(ctx, &next, failed.End, EndBudgetDenied)
	}
	if c.beforeRetry != nil {
		c.beforeRetry(c.conn, c.method)
	}
	return next, EndUnfinished
}

// overloadBackoff is where the backoff starts after an answer that says the
// server has too much to do already.
const overloadBackoff = time.Second

// backoff returns the wait before the next attempt.
func (c *call) backoff() (time.Duration, WaitReason) {
	hint := c.attempt.Hint
	if hint.Kind == classify.HintPushback {
		c.backoffs = 0
		return hint.After, WaitPushback
	}
	b := c.plan.policy.Retry.Backoff
	if c.attempt.Code() == codes.ResourceExhausted {
		b = b.From(overloadBackoff)
	}
	wait := b.Delay(c.backoffs, nil)
	c.backoffs++
	if hint.Kind == classify.HintRetryInfo {
		return max(wait, spread(hint.After)), WaitRetryInfo
	}
	return wait, WaitBackoff
}

// wait sleeps before an attempt whose lease is held.
func (c *call) wait(ctx context.Context, next *Attempt) EndReason {
	if c.watched {
		c.observe(ctx, Event{
			Kind: RetryWait, Time: time.Now(), Timeline: c.timeline,
			Wait: next.Wait, WaitReason: next.WaitedOn,
		})
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
		c.lease.Release(budget.Unsent)
		return callerReason(ctx)
	}
	return EndUnfinished
}

func (c *call) deny(ctx context.Context, next *Attempt, now time.Time, reason EndReason) EndReason {
	c.timeline.Denials = append(c.timeline.Denials, Denial{Time: now, Kind: next.Kind, Reason: reason, Wait: next.Wait})
	if c.watched {
		c.observe(ctx, Event{Kind: RetryDenied, Time: now, Timeline: c.timeline})
	}
	return reason
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
