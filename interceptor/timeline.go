package interceptor

import (
	"cmp"
	"context"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
)

// EndReason is the answer to "why did the call stop there?".
type EndReason uint8

const (
	// EndUnfinished: the call has not ended, or a panic ended it.
	EndUnfinished EndReason = iota
	// EndSucceeded: the last attempt was a success.
	EndSucceeded
	// EndNonRetryable: the outcome was not one that retries help with.
	EndNonRetryable
	// EndNotIdempotent: a retry might have executed the request twice.
	EndNotIdempotent
	// EndCallerCancelled: the caller cancelled the call.
	EndCallerCancelled
	// EndDeadline: the caller's deadline or the policy's timeout passed.
	EndDeadline
	// EndDeadlineTooClose: the wait for a retry, and the time the method usually
	// takes, did not fit into the time left.
	EndDeadlineTooClose
	// EndAttemptsExhausted: all attempts the policy allows were made.
	EndAttemptsExhausted
	// EndBudgetDenied: the budget had nothing left for a retry.
	EndBudgetDenied
	// EndPushback: the server forbade retries.
	EndPushback
	// EndCommitted: a result had been handed to the application.
	EndCommitted
	// EndReplayBufferFull: what was sent no longer fitted the replay buffer.
	EndReplayBufferFull
	// EndDisabled: retries are switched off.
	EndDisabled
	// EndUnreachable: the request was not sent, since the target could not be connected to,
	// and not in the time that the policy or the deadline gives to wait for it.
	EndUnreachable
	// EndChainStopped: the call was made to serve a retry, and the policy leaves the next
	// one to whoever sent that.
	EndChainStopped
)

var endReasons = [...]string{
	"unfinished", "succeeded", "non-retryable", "not-idempotent", "caller-cancelled", "deadline",
	"deadline-too-close", "attempts-exhausted", "budget-denied", "pushback", "committed",
	"replay-buffer-full", "disabled", "unreachable", "chain-stopped",
}

func (r EndReason) String() string { return name(endReasons[:], int(r)) }

// MarshalText returns the words of String.
func (r EndReason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// CommitReason is why a stream kept one attempt: from then on no other can take
// its place.
type CommitReason uint8

const (
	// CommitNone: it did not. Unary calls never do.
	CommitNone CommitReason = iota
	// CommitAnswer: the first message was handed to the application, or the stream
	// ended well without one.
	CommitAnswer
	// CommitHeader: Header returned what the server had sent.
	CommitHeader
	// CommitBufferFull: what was sent no longer fitted the replay buffer.
	CommitBufferFull
	// CommitMessageType: attempts ran side by side, and a message like the one that
	// the application receives into could not be made for each.
	CommitMessageType
	// CommitOneAttempt: the policy allows no second attempt or, of a stream that the client
	// sends on, none after this one.
	CommitOneAttempt
	// CommitSendRefused: a message that the application sent was refused, and it was told so:
	// by an interceptor below, and the stream goes on, or by grpc after CloseSend, which ends it.
	CommitSendRefused
)

var commitReasons = [...]string{"", "answer", "header", "replay-buffer-full", "message-type", "one-attempt", "send-refused"}

func (r CommitReason) String() string { return name(commitReasons[:], int(r)) }

// MarshalText returns the words of String.
func (r CommitReason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// WaitReason is why a retry or a hedge waited as long as it did.
type WaitReason uint8

const (
	// WaitNone: the attempt did not wait.
	WaitNone WaitReason = iota
	// WaitBackoff: the policy's backoff.
	WaitBackoff
	// WaitPushback: the server's pushback, exactly.
	WaitPushback
	// WaitRetryInfo: at least what the server's RetryInfo says.
	WaitRetryInfo
	// WaitHedgeDelay: the delay before a hedge, since the attempt before it began.
	WaitHedgeDelay
	// WaitBudget: the same and then, since a budget had denied the hedge, until it granted it.
	WaitBudget
)

var waitReasons = [...]string{"", "backoff", "pushback", "retry-info", "hedge-delay", "budget"}

func (r WaitReason) String() string { return name(waitReasons[:], int(r)) }

// MarshalText returns the words of String.
func (r WaitReason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// AttemptResult is what became of an attempt within its call.
type AttemptResult uint8

const (
	// AttemptRunning: it has not ended.
	AttemptRunning AttemptResult = iota
	// AttemptWon: its reply is the call's.
	AttemptWon
	// AttemptLost: another attempt won, this one was cancelled or too late.
	AttemptLost
	// AttemptFailed: it failed.
	AttemptFailed
	// AttemptCancelled: it ended because its call did.
	AttemptCancelled
)

var attemptResults = [...]string{"running", "won", "lost", "failed", "cancelled"}

func (r AttemptResult) String() string { return name(attemptResults[:], int(r)) }

// MarshalText returns the words of String.
func (r AttemptResult) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Attempt is one try of a call on the wire. That of a stream lasts until the stream
// has ended.
type Attempt struct {
	Number   int // from 1
	Kind     budget.Kind
	Start    time.Time
	End      time.Time
	Wait     time.Duration // before it
	WaitedOn WaitReason
	Result   AttemptResult
	// CancelledAt is when it was cancelled because another attempt had decided
	// the call; zero if it was not.
	CancelledAt time.Time
	Code        codes.Code
	Delivery    classify.Delivery
	Outcome     classify.Outcome
	Hint        classify.Hint
	Peer        net.Addr // nil if it never got a transport
	// Backend is the endpoint that a load-balancing policy of package spread has picked for
	// it: the addresses that the resolver has of it. Empty without such a policy.
	Backend string
	// NoOtherBackend says that another attempt of the call had used that backend, as no other
	// was found.
	NoOtherBackend bool
	// Resumed says that it went on where a stream had broken off, with the request
	// that WithResume made.
	Resumed bool
	// Unreachable is how long the attempt has waited for a connection, after it had found
	// that there was none.
	Unreachable time.Duration
}

// Wasted returns how long an attempt ran for nothing, because another one won. It
// is zero for those that did not lose.
func (a *Attempt) Wasted() time.Duration {
	if a.Result != AttemptLost {
		return 0
	}
	return a.End.Sub(a.Start)
}

// DenialReason is why an attempt was not made that would have been of use.
type DenialReason uint8

const (
	// DeniedNothing: it was not denied.
	DeniedNothing DenialReason = iota
	// DeniedByBudget: a budget had nothing left for it.
	DeniedByBudget
	// DeniedByDeadline: what it would have taken, its wait included, did not fit
	// into the time left.
	DeniedByDeadline
	// DeniedNotReady: the channel was not ready, so a hedge would have waited for
	// a connection as the attempt beside it does.
	DeniedNotReady
	// DeniedNotIdempotent: the policy asks for hedging, and the method is not
	// known to be idempotent.
	DeniedNotIdempotent
	// DeniedReplyType: another reply like the caller's could not be made: it is
	// neither a proto message nor a pointer to a zero value.
	DeniedReplyType
	// DeniedFewSamples: not enough is known of the method's latency.
	DeniedFewSamples
	// DeniedTooSlow: the delay would be above the policy's Hedge.MaxDelay.
	DeniedTooSlow
	// DeniedDisabled: hedging is switched off.
	DeniedDisabled
	// DeniedNotNamed: the method is a bidirectional stream, and the policy that asks for
	// hedging is one for a service or for all methods. Opening such a stream may have effects
	// of its own, so it is hedged only if a rule, or the call itself, names it.
	DeniedNotNamed
	// DeniedChainStopped: the call serves a retry, and the policy leaves the next attempt
	// to whoever sent that.
	DeniedChainStopped
	// DeniedByTrigger: the trigger that the policy names wanted no hedge, or has panicked.
	DeniedByTrigger
)

var denialReasons = [...]string{
	"", "budget-denied", "deadline-too-close", "not-ready", "not-idempotent", "reply-type", "few-samples",
	"too-slow", "disabled", "not-named", "chain-stopped", "trigger",
}

func (r DenialReason) String() string { return name(denialReasons[:], int(r)) }

// MarshalText returns the words of String.
func (r DenialReason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Denial is a retry or a hedge that was not sent although there was reason to. A
// call that cannot be hedged, though its policy asks for it, has one at its start. A
// hedge that waits for a budget has one, however often it is asked for; if it is sent
// after all, its WaitedOn is WaitBudget.
type Denial struct {
	Time   time.Time
	Kind   budget.Kind
	Reason DenialReason
	Wait   time.Duration // that it would have waited
}

// Timeline is the record of one call: what was tried, when, how it ended, what was
// denied and why it stopped. String draws it; it marshals to JSON and is a
// slog.LogValuer. It never holds request or reply content, metadata or error texts.
type Timeline struct {
	Method string
	Target string
	// Policy and PolicyVersion name the policy in force, empty for the default.
	Policy        string
	PolicyVersion string
	Idempotency   classify.Idempotency
	Start         time.Time
	End           time.Time
	// Untimed says that it is not known when the call began, since nobody watched it: Start is
	// when its first attempt ended.
	Untimed bool
	Reason  EndReason
	Code    codes.Code
	// Committed is why a stream kept one attempt, and CommittedAt since when. With
	// WithResume they are those of the last attempt that was resumed.
	Committed   CommitReason
	CommittedAt time.Time
	// Attempts are those that have ended: while the call runs in the order in
	// which they did, and then by number.
	Attempts []Attempt
	Denials  []Denial
}

// watching is what a call needs besides if somebody will look at its timeline.
type watching struct {
	timeline    Timeline
	first       [1]Attempt      // in it: most calls make no other
	event       Event           // what observers are told last
	outside     context.Context // of the call, while observers wait for its end
	committedAt time.Time       // of a stream. Guarded by mu
}

// empty reports whether the timeline was never filled.
func (t *Timeline) empty() bool {
	return t.Method == "" && t.Start.IsZero() && len(t.Attempts) == 0 && len(t.Denials) == 0
}

func (t *Timeline) clone() *Timeline {
	c := *t
	c.Attempts, c.Denials = slices.Clone(t.Attempts), slices.Clone(t.Denials)
	return &c
}

// sort brings attempts that ran side by side into the order of their numbers.
func (t *Timeline) sort() {
	slices.SortFunc(t.Attempts, func(a, b Attempt) int { return cmp.Compare(a.Number, b.Number) })
}

// Elapsed returns how long the call took. It is zero if the call has not ended.
func (t *Timeline) Elapsed() time.Duration {
	if t.End.IsZero() {
		return 0
	}
	return t.End.Sub(t.Start)
}

func (a *Attempt) peerName() string {
	if a.Peer == nil {
		return ""
	}
	return a.Peer.String()
}

func name(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return "invalid"
}
