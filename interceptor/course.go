package interceptor

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

// course is what the rules know of one call. It is told of events, and returns what is to
// be done: which attempt decides, whether another one is made, when, and why not. It knows
// no goroutine, lock, timer, clock or context, and of grpc only the codes, so that its tests
// are tables. TestCoreIsApart holds the files course*.go to that.
//
// The call does what the steps say. While attempts run side by side it tells the course of
// events with its mu held. Budgets it asks without: a step says that one is to be asked, and
// the answer is another event.
type course struct {
	rules  *rules
	hedged bool

	before         int // attempts of earlier parts of a resumed stream
	made           int // attempts of the call since
	unsent         int // of these, hedges that found no connection, which do not count
	asking         int // more of them, which a budget is being asked for or has granted
	backoffs       int // waits since the last pushback
	committedTo    int // number of the attempt that a stream keeps, else 0
	keptFor        CommitReason
	pushedBack     bool          // the server forbade further attempts
	refused        bool          // no more hedges: one was refused
	declined       bool          // no more hedges: the trigger wants none
	chained        bool          // the call serves a retry of another one, and makes one attempt
	lastHedge      bool          // no more hedges: another reply could not be made
	resumes        bool          // what was delivered is not delivered again, so nothing commits but that
	hasReplacement bool          // an attempt has been granted that takes the place of
	replacement    wanted        // one that has timed out, once that has ended
	waited         time.Duration // for a connection, in all

	// Of the round.
	over      bool          // it is decided: nothing will be started any more
	alive     bool          // an attempt has shown that it is not slow, so its like is not hedged
	won       bool          // by a success
	racing    int           // attempts that run
	places    int           // of the schedule, taken by attempts and by hedges that were denied for good
	delay     time.Duration // that the trigger has last asked for
	scheduled wanted
	due       time.Time // when that is
	putOff    bool      // the trigger has put it off
	waits     bool      // in the queue, for a budget that has denied it
	denials   uint8     // by budgets, after the first
}

// rules is what a policy says of attempts. It does not change.
type rules struct {
	maxAttempts    int
	retriesOff     bool
	asGRPC         bool
	attemptTimeout time.Duration
	backoff        policy.Backoff
	reconnect      time.Duration // not positive if calls do not wait for a connection
}

// attemptState is an attempt as the rules see it. Whoever makes the attempt says how it
// ended, before the course is told that it has.
type attemptState struct {
	Attempt
	left       EndReason // how the caller had left when it ended, else EndUnfinished
	local      bool      // this side has refused it
	hasHeader  bool      // the server has sent a header, or nobody knows
	open       bool      // of a stream: it is open, and may have nothing to tell
	survivable bool      // it failed in a way that leaves a chance to others
	timedOut   bool      // its own timeout has ended it, or is about to
	alive      bool      // of a stream: it has shown a sign of life, so its timeout is over
	continues  bool      // of a stream: it had its first message, and others may follow

	// If it was not sent.
	away        bool // since the channel has no connection
	reconnected bool // it has waited for a connection, and there was one
	unreachable bool // there was none, or it has not waited since there has been none for long
	unpaid      bool // a budget would not have it any more when there was one
	keepsLease  bool // for the attempt that follows
}

// wanted is an attempt that is to be made.
type wanted struct {
	kind budget.Kind
	wait time.Duration
	why  WaitReason
}

// attempt returns the record that the attempt starts with.
func (w wanted) attempt() Attempt {
	return Attempt{Kind: w.kind, Wait: w.wait, WaitedOn: w.why}
}

// leaseKind is what a budget is asked for, in the place of an attempt that has timed out or
// not.
func (w wanted) leaseKind(timedOut bool) budget.Kind {
	if timedOut && w.kind == budget.Retry {
		return budget.Replacement
	}
	return w.kind
}

// moment is when something is decided, and what time the call has left then.
type moment struct {
	now      time.Time
	deadline time.Time
	bounded  bool          // there is a deadline
	fast     time.Duration // what even a fast attempt takes
}

// tooClose reports whether a wait and a fast attempt do not fit into the time left.
func (m moment) tooClose(wait time.Duration) bool {
	return m.bounded && m.deadline.Sub(m.now) <= wait+m.fast
}

// step is what is to be done after an event. The zero step is nothing.
type step struct {
	next     wanted
	ask      bool         // a budget for next
	keep     bool         // what it has granted, until the attempt that next replaces has ended
	take     bool         // next has what was kept
	inherit  bool         // next has what the failed attempt was granted
	giveBack bool         // what was granted is not needed
	hedge    bool         // next is a hedge that is due now
	trigger  bool         // is to be asked when the hedge after this one is due
	setTimer bool         // for the hedge that is scheduled
	waits    bool         // in the queue, for a budget
	expire   bool         // end the attempt, as if its deadline had passed
	denied   DenialReason // why next is not made
	end      EndReason    // why the call ends, EndUnfinished if it does not
}

// verdict is what the end of an attempt means for its round.
type verdict struct {
	decides     bool      // by now: who fails last decides if nobody does better
	cancels     bool      // those that run
	cancelledAt time.Time // when; zero if the caller does it
}

// started counts an attempt, and returns its number.
func (k *course) started() int {
	k.made++
	return k.before + k.made
}

// counted returns how many of MaxAttempts have been made.
func (k *course) counted() int { return k.made - k.unsent }

// roundBegins is told at the start of each round, of which one attempt runs, with what the
// trigger says.
func (k *course) roundBegins(now time.Time, says answer) step {
	k.over, k.won, k.alive = k.committedTo != 0, false, false
	k.racing, k.places = 1, k.counted()
	return k.triggerSays(now, says)
}

// attemptEnded says what became of an attempt of a round, and what becomes of the round.
func (k *course) attemptEnded(a *attemptState) verdict {
	k.racing--
	if a.Kind == budget.Hedge && a.away { // else it would take the place of an attempt that can wait
		k.unsent++
	}
	switch {
	case a.Number == k.committedTo:
		a.Result = a.result()
		return verdict{decides: true}
	case !k.over:
		a.Result = a.result()
		k.won = a.Result == AttemptWon
		v := verdict{decides: true, cancels: k.isDecidedBy(a)}
		if k.over = v.cancels; k.over && a.Result != AttemptCancelled {
			v.cancelledAt = a.End
		}
		return v
	case k.committedTo != 0, k.won:
		a.Result, a.continues = AttemptLost, false
	default:
		a.Result, a.continues = AttemptCancelled, false
	}
	return verdict{}
}

// isDecidedBy reports whether an attempt decides against those that run. A success does,
// and so does the end of the call. A retryable failure does not (gRFC A6's non-fatal
// codes). Any other failure of the lead does, as it would without hedging. That of a hedge
// does in policies that are gRPC's; in others only if every attempt would be told the same,
// since without rego the lead would go on.
func (k *course) isDecidedBy(a *attemptState) bool {
	switch {
	case a.Result != AttemptFailed:
		return true
	case a.survivable:
		return false
	}
	return a.Kind != budget.Hedge || k.rules.asGRPC || a.isSure() || k.racing == 0
}

// stop ends the round undecided: all have left it, or a panic or a commit has ended it.
func (k *course) stop() { k.over = true }

// commit keeps an attempt of a stream whatever becomes of it.
func (k *course) commit(number int, why CommitReason) { k.committedTo, k.keptFor = number, why }

// resume lets a stream go on with another attempt than the one it was committed to. Since
// that has got on, attempts and waits are counted anew.
func (k *course) resume() {
	k.committedTo = 0
	k.before, k.made, k.unsent, k.backoffs, k.waited = k.before+k.made, 0, 0, 0, 0
}

// headerCommits reports whether an attempt has committed its call as gRFC A6 has it. A
// stream that can be resumed goes on all the same.
func (k *course) headerCommits(a *attemptState) bool {
	return k.rules.asGRPC && a.hasHeader && !k.resumes
}

// isLast reports whether no other attempt can follow, nor run beside.
func (k *course) isLast(number int) bool {
	return (number-k.before >= k.rules.maxAttempts || k.chained) && !k.hedged && !k.resumes
}

// isAlive is told that an attempt has shown that it is not slow.
func (k *course) isAlive() { k.alive = true }

// timeoutOf returns when an attempt is to make place for another one, zero if none can
// follow. Without a deadline nothing else ends the attempt, so then it is ended also if
// nothing follows.
func (k *course) timeoutOf(number int, bounded bool) time.Duration {
	last := number-k.before >= k.rules.maxAttempts || k.committedTo != 0 || k.chained || k.rules.retriesOff && !k.hedged
	if bounded && last {
		return 0
	}
	return k.rules.attemptTimeout
}

// result returns what became of an attempt that no other one was faster than.
func (a *attemptState) result() AttemptResult {
	switch {
	case a.Outcome.Class == classify.Success:
		return AttemptWon
	case a.left != EndUnfinished:
		return AttemptCancelled
	}
	return AttemptFailed
}

// isSure reports whether an attempt failed with what every other attempt would be told:
// INVALID_ARGUMENT is a fault of the request "regardless of the state of the system", as
// the status codes of gRPC define it, and what this side has refused it would refuse
// again. Every other status may be a matter of the backend, its load or the moment: also an
// answer that is too large to be taken.
func (a *attemptState) isSure() bool {
	return a.Code == codes.InvalidArgument || a.local && !a.hasHeader
}

// leaseResult says how the attempt ended as far as budgets care.
func (a *attemptState) leaseResult() budget.Result {
	switch o := a.Outcome; {
	case o.Class == classify.Success:
		return budget.Success
	case a.Delivery == classify.DeliveryNotSent:
		return budget.Unsent
	case o.Class == classify.Retryable, o.Reason == classify.ReasonNotIdempotent,
		o.Reason == classify.ReasonPushbackStop:
		return budget.Failure
	}
	return budget.Neutral
}
