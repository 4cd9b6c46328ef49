package interceptor

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
)

// finish ends the call with the deciding attempt, and returns what the caller gets.
func (c *call) finish(reason EndReason, now time.Time) error {
	c.replacementLease.Release(budget.Unsent)
	err := c.decided.seen.Err
	if err != nil {
		err = c.newError(reason)
	}
	if c.watching != nil {
		c.telling.Lock()
		defer c.telling.Unlock()
		c.timeline.Reason = reason
		c.timeline.Code = status.Code(err)
		c.timeline.sort()
		c.timeline.End = now
		for _, a := range c.timeline.Attempts {
			if a.End.After(now) { // it lost, and was waited for
				c.timeline.End = a.End
			}
		}
		c.endObserved(err)
		if c.settings.timelineTo != nil {
			*c.settings.timelineTo = *c.timeline
		}
	}
	if !c.original.timed && c.decided.isPlain() && len(c.denials) == 0 {
		c.isCounted = true
		c.plan.method.counts.Frequent(c.seat) // what ended would do
		return nil
	}
	c.ended(err, reason, now)
	return err
}

// endObserved tells observers that the call is over, once. Whoever keeps the timeline keeps
// nothing else of the call.
func (c *call) endObserved(err error) {
	outside := c.outside
	c.outside = nil
	c.observe(outside, Event{Kind: CallEnd, Time: c.timeline.End, Timeline: c.timeline, Err: err})
	c.event = Event{}
}

// newError explains the deciding attempt's error.
func (c *call) newError(reason EndReason) error {
	err := c.decided.seen.Err
	if c.left(reason) {
		err = status.FromContextError(c.ctx.Err()).Err()
	}
	failures := make([]AttemptError, 0, len(c.past))
	for _, a := range c.past {
		if a.Outcome.Class != classify.Success {
			failures = append(failures, a)
		}
	}
	slices.SortFunc(failures, func(a, b AttemptError) int { return a.Number - b.Number })
	return &Error{Reason: reason, Attempts: failures, err: err}
}

// left reports whether the caller left while the call was waiting for a retry. It gets
// its own status, as from a bare call.
func (c *call) left(reason EndReason) bool {
	return !c.decided.seen.CallerDone && (reason == EndCallerCancelled || reason == EndDeadline)
}

// abort returns what a call holds that a panic or runtime.Goexit tears down, and
// tells its observers that it is over.
func (c *call) abort() {
	if c.joined {
		c.abandon()
	}
	c.pending.Release(budget.Neutral)
	c.mu.Lock()
	c.course.stop() // so that what a budget may be asked for just now is given back
	replacement := c.replacementLease
	c.replacementLease = budget.Lease{}
	c.mu.Unlock()
	replacement.Release(budget.Unsent)
	for _, a := range []*attempt{c.lead, c.mine} {
		if a != nil {
			c.tearDown(a)
		}
	}
	if c.watching != nil && c.outside != nil {
		c.timeline.End = time.Now()
		c.timeline.Code = codes.Unknown
		c.endObserved(errAbandoned)
	}
	c.ended(errAbandoned, EndUnfinished, time.Now())
}

// tearDown returns what an attempt holds that a panic has ended, if it has not
// been returned.
func (c *call) tearDown(a *attempt) {
	a.lease.Release(budget.Neutral)
	if a.streamAttempt != nil && a.watch != nil {
		a.watch.retire()
	}
	if a.cancel != nil {
		a.cancel()
	}
	c.telling.Lock()
	defer c.telling.Unlock()
	if a.isCounted {
		return
	}
	c.notRunning(a)
	a.Code, a.End = codes.Unknown, time.Now()
	c.countAttempt(a)
	c.past = append(c.past, AttemptError{a.Attempt, errAbandoned})
	if c.watching != nil {
		c.timeline.Attempts = append(c.timeline.Attempts, a.Attempt)
	}
	if a.inside == nil {
		return
	}
	inside := a.inside
	a.inside = nil
	c.observe(inside, Event{Kind: AttemptEnd, Time: a.End, Timeline: c.timeline, Attempt: &a.Attempt, Err: errAbandoned})
}

var errAbandoned = errors.New("rego: the call was torn down by a panic")

func (c *call) start(ctx context.Context, e Event) context.Context {
	c.event = e
	for _, o := range c.observers {
		ctx = o.start(ctx, &c.event)
	}
	return ctx
}

func (c *call) observe(ctx context.Context, e Event) {
	c.event = e
	for _, o := range c.observers {
		o.observe(ctx, &c.event)
	}
}
