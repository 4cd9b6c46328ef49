package interceptor

import (
	"context"
	"time"

	"github.com/rego-go/rego/budget"
)

// next decides on the attempt after a failed one, when none is running any more. It holds
// the lease of what it returns in c.pending.
func (c *call) next(failed *attempt) (Attempt, EndReason) {
	s := c.course.afterFailure(&failed.attemptState, c.momentAt(failed.End), c.dirty && mayHaveReply(failed))
	switch {
	case s.take:
		c.pending, c.replacementLease = c.replacementLease, budget.Lease{}
	case s.giveBack:
		c.replacementLease.Release(budget.Unsent)
	}
	if s.inherit {
		c.pending, failed.lease = failed.lease, budget.Lease{}
	} else if failed.keepsLease {
		failed.lease.Release(budget.Unsent)
	}
	if s.ask {
		var granted bool
		if c.pending, granted = budget.Take(c.plan.budgetOf(s.next.kind), s.next.leaseKind(failed.timedOut)); !granted {
			s = s.deniedByBudget()
		}
	}
	next := s.next.attempt()
	if s.denied != DeniedNothing {
		c.deny(next, failed.End, s.denied)
	}
	if s.end == EndUnfinished {
		c.tellOfRetryPolicy(c.conn, c.method)
	}
	return next, s.end
}

// momentAt returns what the rules want to know of the time. Opening a stream takes no time
// that counts, and what its first message waits for is no matter of the attempt.
func (c *call) momentAt(now time.Time) moment {
	m := moment{now: now}
	if m.deadline, m.bounded = c.deadline(); m.bounded && !c.streaming {
		m.fast = c.plan.method.pace.Fast(now)
	}
	return m
}

// wait sleeps before an attempt whose lease is held.
func (c *call) wait(next *Attempt) EndReason {
	if c.watching != nil {
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

// deny counts and notes an attempt that will not be made.
func (c *call) deny(a Attempt, now time.Time, reason DenialReason) {
	c.telling.Lock()
	defer c.telling.Unlock()
	c.add(keyOf(ofDenial, uint8(a.Kind), uint8(reason), 0, 0), 1)
	denied := Denial{Time: now, Kind: a.Kind, Reason: reason, Wait: a.Wait}
	if c.watching == nil {
		c.denials = append(c.denials, denied)
		return
	}
	c.timeline.Denials = append(c.timeline.Denials, denied)
	c.observe(c.ctx, Event{Kind: AttemptDenied, Time: now, Timeline: c.timeline})
}

// callerReason says which way the caller left.
func (c *call) callerReason() EndReason {
	if c.ctx.Err() == context.Canceled {
		return EndCallerCancelled
	}
	return EndDeadline
}
