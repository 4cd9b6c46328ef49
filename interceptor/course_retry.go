package interceptor

import (
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

// afterFailure decides on the attempt after a failed one, when none is running any more.
// The rules are asked in the order of the design: caller, outcome, pushback, attempts left,
// commit, deadline, budget. The first that says no gives the end reason. Spoilt says that
// the caller's reply cannot be used again.
func (k *course) afterFailure(a *attemptState, m moment, spoilt bool) step {
	if end := k.endsWith(a); end != EndUnfinished {
		return step{end: end}
	}
	s := step{next: wanted{kind: budget.Retry}}
	if k.rules.retriesOff {
		s.next.kind = budget.Hedge // gRFC A6: pushback delays the next hedge
	}
	if spoilt {
		s.end, s.denied = EndCommitted, DeniedReplyType
		return s
	}
	replaces := k.hasReplacement && a.timedOut
	if replaces {
		s.next.wait, s.next.why = k.replacement.wait, k.replacement.why
		k.backoffs++
	} else {
		s.next.wait, s.next.why = k.backoff(a)
	}
	if m.tooClose(s.next.wait) {
		s.end, s.denied = EndDeadlineTooClose, DeniedByDeadline
		return s
	}
	if k.hasReplacement {
		s.take = replaces && k.replacement.kind == s.next.kind
		s.giveBack = !s.take
		k.dropReplacement()
	}
	s.inherit = !s.take && a.keepsLease
	s.ask = !s.take && !s.inherit
	return s
}

// endsWith returns why nothing can follow a failed attempt, whatever time and budget say.
func (k *course) endsWith(a *attemptState) EndReason {
	switch {
	case a.left != EndUnfinished:
		return a.left
	case a.Outcome.Reason == classify.ReasonNotIdempotent:
		return EndNotIdempotent
	case a.Hint.Stops(), k.pushedBack && a.Outcome.Class == classify.Retryable:
		return EndPushback
	case a.Outcome.Class != classify.Retryable:
		return EndNonRetryable
	case a.unreachable:
		return EndUnreachable
	case a.unpaid:
		return EndBudgetDenied
	case k.chained:
		return EndChainStopped
	case k.counted() >= k.rules.maxAttempts:
		return EndAttemptsExhausted
	case k.committedTo != 0:
		return k.keptFor.endReason()
	case k.headerCommits(a):
		return EndCommitted
	case k.rules.retriesOff && !(k.hedged && a.Hint.Asks()):
		return EndDisabled
	}
	return EndUnfinished
}

// endReason is why a stream that was committed before is not retried.
func (r CommitReason) endReason() EndReason {
	switch r {
	case CommitBufferFull:
		return EndReplayBufferFull
	case CommitOneAttempt: // and attempts are left
		return EndDisabled
	default:
		return EndCommitted
	}
}

// deniedByBudget is the step after a budget has denied a retry.
func (s step) deniedByBudget() step {
	return step{next: s.next, end: EndBudgetDenied, denied: DeniedByBudget}
}

// attemptTimedOut decides on an attempt whose timeout has passed. All is asked that a retry
// would ask: whether the timeout of an attempt is retryable here, whether an attempt is
// left, whether its wait fits. Then a budget is asked.
func (k *course) attemptTimedOut(a *attemptState, m moment, retryable bool) step {
	if !retryable || a.alive || k.hasReplacement || k.committedTo != 0 || !k.mayStart() {
		return k.notReplaced(a, m, step{})
	}
	next := wanted{kind: budget.Hedge}
	if !k.hedged {
		next = wanted{budget.Retry, k.rules.backoff.Delay(k.backoffs, nil), WaitBackoff}
	}
	if m.tooClose(next.wait) { // it may fit another time, since it is drawn
		return k.notReplaced(a, m, step{next: next, denied: DeniedByDeadline})
	}
	k.asking++
	return step{ask: true, next: next}
}

// replacementAnswered is told what the budget has said. What was granted is counted among what
// is asked for until it starts.
func (k *course) replacementAnswered(a *attemptState, m moment, s step, granted bool) step {
	switch {
	case !granted:
		k.asking--
		return k.notReplaced(a, m, step{next: s.next, denied: DeniedByBudget})
	case k.over, a.alive, k.committedTo != 0:
		k.asking--
		return k.notReplaced(a, m, step{giveBack: true})
	}
	a.timedOut = true
	k.hasReplacement, k.replacement = true, s.next
	return step{keep: true, expire: true}
}

// notReplaced is the step for an attempt that has timed out and that nothing takes the place of: it goes
// on, unless nothing else would ever end it. A stream that is open may have nothing to
// tell.
func (k *course) notReplaced(a *attemptState, m moment, s step) step {
	if !m.bounded && !a.open {
		a.timedOut = true
		s.expire, s.denied = true, DeniedNothing
	}
	return s
}

// dropReplacement forgets what was granted in advance.
func (k *course) dropReplacement() {
	k.hasReplacement = false
	k.asking--
}

// backoff returns the wait before the attempt after a failed one.
func (k *course) backoff(a *attemptState) (time.Duration, WaitReason) {
	least, why := hinted(a.Hint)
	if why == WaitPushback {
		k.backoffs = 0
		return least, why
	}
	b := k.rules.backoff
	if a.Code == codes.ResourceExhausted {
		b = b.From(policy.OverloadBackoff)
	}
	wait := b.Delay(k.backoffs, nil)
	k.backoffs++
	if why == WaitRetryInfo {
		return max(wait, least), why
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

// spread returns d times a random 1 to 1.5, so that clients which were told the
// same delay do not come back together.
func spread(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 + 0.5*rand.Float64()))
}
