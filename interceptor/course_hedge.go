package interceptor

import (
	"time"

	"github.com/rego-go/rego/budget"
)

// attemptFailed decides on what takes the place of an attempt that has failed while its
// round goes on: nothing after a refusal of the server or, since it would be refused as
// well, of the hedge itself.
func (k *course) attemptFailed(a *attemptState) step {
	replaces := k.hasReplacement && a.timedOut
	if replaces {
		k.hasReplacement = false // it starts, or is given back
	}
	var s step
	wait, why := hinted(a.Hint)
	switch {
	case a.Hint.Stops():
		k.pushedBack = true
	case !a.survivable, k.headerCommits(a):
		k.refused = true
	case wait > 0:
		// If nobody is left to wait beside, the round ends here, and what comes
		// next waits as long.
		k.schedule(a.End, wanted{budget.Hedge, wait, why})
		s.setTimer = true
	case replaces:
		k.places++
		return step{take: true, next: k.replacement, setTimer: k.scheduleNext(a.End)}
	default:
		return step{hedge: true, next: wanted{kind: budget.Hedge}}
	}
	if replaces {
		k.asking--
		s.giveBack = true
	}
	return s
}

// hedgeDue decides on a hedge that is due. CanSend says that it would get a connection,
// gone that the caller has left. One that is denied has had its place in the schedule.
func (k *course) hedgeDue(m moment, next wanted, canSend, gone bool) step {
	if gone || !k.mayStart() || k.alive && next.why == WaitHedgeDelay {
		return step{}
	}
	k.places++
	s := step{next: next, setTimer: k.scheduleNext(m.now)}
	switch {
	case !canSend:
		s.denied = DeniedNotReady
	case m.tooClose(0):
		s.denied = DeniedByDeadline
	default:
		s.ask = true
		k.asking++
	}
	return s
}

// mayStart reports whether an attempt may start beside others.
func (k *course) mayStart() bool {
	return !k.over && !k.pushedBack && !k.lastHedge && !k.refused && !k.chained && k.counted()+k.asking < k.rules.maxAttempts
}

// budgetDenied is the answer of a budget that was asked for a hedge.
func (k *course) budgetDenied(s step) step {
	k.asking--
	return step{next: s.next, denied: DeniedByBudget}
}

// budgetGranted is told when an attempt that a budget has granted is about to start in the
// round, and returns its number. It does not start if the round was decided meanwhile.
func (k *course) budgetGranted() (number int, starts bool) {
	k.asking--
	if k.over {
		return 0, false
	}
	k.racing++
	return k.started(), true
}

// scheduleNext schedules the next hedge, and reports whether there is one.
func (k *course) scheduleNext(now time.Time) bool {
	if k.places >= k.rules.maxAttempts {
		return false
	}
	k.schedule(now, wanted{budget.Hedge, k.delay, WaitHedgeDelay})
	return true
}

func (k *course) schedule(now time.Time, next wanted) {
	k.scheduled, k.due = next, now.Add(next.wait)
}

// untilDue returns how much too early it is for the hedge that is scheduled: the timer may
// have been on its way when that was put off.
func (k *course) untilDue(now time.Time) time.Duration {
	if k.over {
		return 0
	}
	return max(k.due.Sub(now), 0)
}
