package interceptor

import (
	"time"

	"github.com/rego-go/rego/budget"
)

// answer is what a trigger says: how long it is until the next hedge, or why there is none.
type answer struct {
	after  time.Duration
	denied DenialReason
}

// How much time is between two questions about the same hedge.
const (
	leastPace = time.Millisecond
	mostPace  = time.Second // to a budget, unless the delay is longer
	doublings = 10          // from the one to the other
)

// triggerSays schedules the hedge after an attempt that has started, or that was denied for
// good. A trigger that wants none ends hedging for the call.
func (k *course) triggerSays(now time.Time, says answer) step {
	switch {
	case !k.hasPlace():
		return step{}
	case says.denied != DeniedNothing:
		k.decline()
		return step{next: wanted{kind: budget.Hedge}, denied: says.denied}
	}
	k.delay = says.after
	k.schedule(now, wanted{budget.Hedge, says.after, WaitHedgeDelay})
	return step{setTimer: true}
}

// decline ends hedging for the call. An attempt that has timed out can still be replaced.
func (k *course) decline() { k.declined = true }

// hasPlace reports whether another hedge can be scheduled.
func (k *course) hasPlace() bool {
	return !k.over && !k.refused && !k.declined && k.places < k.rules.maxAttempts
}

// triggerSaysWhenDue decides whether a hedge that is due is put off. The first time it may
// be for as short as the trigger likes.
func (k *course) triggerSaysWhenDue(now time.Time, says answer) (s step, isDue bool) {
	switch {
	case says.denied != DeniedNothing:
		return k.triggerSays(now, says), false
	case says.after <= 0:
		return step{}, true
	case !k.hasPlace():
		return step{}, false
	}
	if k.putOff {
		says.after = max(says.after, leastPace)
	}
	k.putOff = true
	k.dueIn(now, says.after)
	return step{setTimer: true}, false
}

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
		return step{take: true, next: k.replacement, trigger: true}
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
// gone that the caller has left. One that is denied has had its place in the schedule, but
// for one that a budget denies.
func (k *course) hedgeDue(m moment, next wanted, canSend, gone bool) step {
	slow := next.why == WaitHedgeDelay // is the reason for it
	if next.why == WaitBudget {
		if !k.waits { // another one was granted
			return step{}
		}
		slow, k.waits = true, false
		next.wait = m.now.Sub(k.waitsSince())
	}
	if gone || k.declined || !k.mayStart() || k.alive && slow {
		return step{}
	}
	k.places++
	s := step{next: next, trigger: true}
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

// budgetDenied is the answer of a budget that was asked for a hedge. It keeps its place and
// waits in the queue, where it is asked for again: when another attempt has ended and, if
// none does, at the pace of the delay and then ever more slowly. It is told once. In policies
// that are gRPC's it has had its place.
func (k *course) budgetDenied(now time.Time, s step) step {
	k.asking--
	denied := step{next: s.next, denied: DeniedByBudget}
	if k.rules.asGRPC {
		denied.trigger = true
		return denied
	}
	k.places--
	switch {
	case k.over, k.waits && s.next.why != WaitBudget: // another one of the call does
		return denied
	case s.next.why == WaitBudget:
		k.denials = min(k.denials+1, doublings)
		denied.denied = DeniedNothing
	default:
		k.schedule(now.Add(-s.next.wait), s.next)
	}
	pace := max(k.delay, leastPace)
	k.scheduled.why, k.waits = WaitBudget, true
	k.dueIn(now, max(pace, min(pace<<k.denials, mostPace)))
	denied.setTimer, denied.waits = true, true
	return denied
}

// budgetGranted is told when an attempt that a budget has granted is about to start in the
// round, and returns its number. It does not start if the round was decided meanwhile.
func (k *course) budgetGranted() (number int, starts bool) {
	k.asking--
	if k.over {
		return 0, false
	}
	k.racing++
	k.waits = false
	return k.started(), true
}

// schedule schedules the next hedge, which waits from a time on.
func (k *course) schedule(from time.Time, next wanted) {
	k.scheduled, k.due = next, from.Add(next.wait)
	k.putOff, k.waits, k.denials = false, false, 0
}

// waitsSince returns since when the hedge has waited that is scheduled.
func (k *course) waitsSince() time.Time { return k.due.Add(-k.scheduled.wait) }

// dueIn puts off the hedge that is scheduled.
func (k *course) dueIn(now time.Time, d time.Duration) {
	k.scheduled.wait = now.Add(d).Sub(k.waitsSince())
	k.due = now.Add(d)
}

// untilDue returns how much too early it is for the hedge that is scheduled: the timer may
// have been on its way when that was put off.
func (k *course) untilDue(now time.Time) time.Duration {
	if k.over {
		return 0
	}
	return max(k.due.Sub(now), 0)
}
