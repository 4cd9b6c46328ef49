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
	// EndNonRetryable: retries do not help with the outcome.
	EndNonRetryable
	// EndNotIdempotent: a retry might have executed the request twice.
	EndNotIdempotent
	// EndCallerCancelled: the caller cancelled the call.
	EndCallerCancelled
	// EndDeadline: the caller's deadline or the policy's timeout passed.
	EndDeadline
	// EndDeadlineTooClose: a retry, with its wait, did not fit into the time left, even if
	// it were as fast as the method's fast attempts.
	EndDeadlineTooClose
	// EndAttemptsExhausted: all attempts that the policy allows were made.
	EndAttemptsExhausted
	// EndBudgetDenied: the budget had nothing left for a retry.
	EndBudgetDenied
	// EndPushback: the server forbade retries.
	EndPushback
	// EndCommitted: the application already had a message or the header.
	EndCommitted
	// EndReplayBufferFull: what was sent did not fit the replay buffer any more.
	EndReplayBufferFull
	// EndDisabled: retries are switched off.
	EndDisabled
	// EndUnreachable: the request was not sent. There was no connection to the target, also
	// not within the time that the policy or the deadline gives to wait for one.
	EndUnreachable
	// EndChainStopped: the call was made while serving a retry, and the policy leaves the
	// next attempt to the client that sent the retry.
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

// CommitReason is why a stream was committed to one attempt: from then on no other can take
// its place.
type CommitReason uint8

const (
	// CommitNone: it was not committed. Unary calls never are.
	CommitNone CommitReason = iota
	// CommitAnswer: the application got the first message, or the stream ended well without
	// one.
	CommitAnswer
	// CommitHeader: Header returned what the server had sent.
	CommitHeader
	// CommitBufferFull: what was sent did not fit the replay buffer any more.
	CommitBufferFull
	// CommitMessageType: attempts ran side by side, and rego could not make a message for
	// each, of the type that the application receives into.
	CommitMessageType
	// CommitOneAttempt: the policy allows no second attempt. Or the client sends on the
	// stream, and the policy allows no attempt after this one.
	CommitOneAttempt
	// CommitSendRefused: a message that the application sent was refused, and the
	// application was told so. An interceptor below refused it, and the stream goes on. Or
	// grpc refused it after CloseSend, which ends the stream.
	CommitSendRefused
)

var commitReasons = [...]string{"", "answer", "header", "replay-buffer-full", "message-type", "one-attempt", "send-refused"}

func (r CommitReason) String() string { return name(commitReasons[:], int(r)) }

// MarshalText returns the words of String.
func (r CommitReason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// WaitReason says what a retry or a hedge waited for.
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
	// WaitHedgeDelay: the delay before a hedge, from the start of the attempt before it.
	WaitHedgeDelay
	// WaitBudget: the delay, and then the time until the budget that had denied the hedge
	// granted it.
	WaitBudget
)

var waitReasons = [...]string{"", "backoff", "pushback", "retry-info", "hedge-delay", "budget"}

func (r WaitReason) String() string { return name(waitReasons[:], int(r)) }

// MarshalText returns the words of String.
func (r WaitReason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// AttemptResult says how an attempt ended within its call.
type AttemptResult uint8

const (
	// AttemptRunning: the attempt has not ended.
	AttemptRunning AttemptResult = iota
	// AttemptWon: the call has this attempt's reply.
	AttemptWon
	// AttemptLost: another attempt won. This one was cancelled or came too late.
	AttemptLost
	// AttemptFailed: the attempt failed.
	AttemptFailed
	// AttemptCancelled: the attempt ended because its call ended.
	AttemptCancelled
)

var attemptResults = [...]string{"running", "won", "lost", "failed", "cancelled"}

func (r AttemptResult) String() string { return name(attemptResults[:], int(r)) }

// MarshalText returns the words of String.
func (r AttemptResult) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Attempt is one try of a call on the wire. The attempt of a stream lasts until the stream
// has ended.
type Attempt struct {
	Number   int // from 1
	Kind     budget.Kind
	Start    time.Time
	End      time.Time
	Wait     time.Duration // before it
	WaitedOn WaitReason
	Result   AttemptResult
	// CancelledAt is when the attempt was cancelled because another one had decided the
	// call; zero if it was not.
	CancelledAt time.Time
	Code        codes.Code
	Delivery    classify.Delivery
	Outcome     classify.Outcome
	Hint        classify.Hint
	Peer        net.Addr // nil if it never got a transport
	// Backend is the endpoint that a load-balancing policy of package spread has picked for
	// the attempt: the addresses that the resolver has for it. Empty without such a policy.
	Backend string
	// NoOtherBackend says that another attempt of the call had already used that backend,
	// but there was no other.
	NoOtherBackend bool
	// Resumed says that the attempt went on where a stream had broken off, with the request
	// that WithResume made.
	Resumed bool
	// Unreachable is how long the attempt waited for a connection, after it had found none.
	Unreachable time.Duration
}

// Wasted returns how long an attempt ran for nothing because another one won. It is zero if
// the attempt did not lose.
func (a *Attempt) Wasted() time.Duration {
	if a.Result != AttemptLost {
		return 0
	}
	return a.End.Sub(a.Start)
}

// DenialReason is why an attempt that could have helped was not made.
type DenialReason uint8

const (
	// DeniedNothing: nothing was denied.
	DeniedNothing DenialReason = iota
	// DeniedByBudget: a budget had nothing left for the attempt.
	DeniedByBudget
	// DeniedByDeadline: the attempt, with its wait, did not fit into the time left.
	DeniedByDeadline
	// DeniedNotReady: the channel was not ready, so a hedge would have waited for a
	// connection as the running attempt does.
	DeniedNotReady
	// DeniedNotIdempotent: the policy asks for hedging, but the method is not known to be
	// idempotent.
	DeniedNotIdempotent
	// DeniedReplyType: rego could not make another reply like the caller's, which is neither
	// a proto message nor a pointer to a zero value.
	DeniedReplyType
	// DeniedFewSamples: not enough is known about the method's latency.
	DeniedFewSamples
	// DeniedTooSlow: the delay would be longer than the policy's Hedge.MaxDelay.
	DeniedTooSlow
	// DeniedDisabled: hedging is switched off.
	DeniedDisabled
	// DeniedNotNamed: the method is a bidirectional stream, and the policy that asks for
	// hedging is for a whole service or for all methods. Opening such a stream may have
	// effects of its own, so it is hedged only if a rule or the call itself names it.
	DeniedNotNamed
	// DeniedChainStopped: the call was made while serving a retry, and the policy leaves the
	// next attempt to the client that sent the retry.
	DeniedChainStopped
	// DeniedByTrigger: the trigger that the policy names wanted no hedge, or panicked.
	DeniedByTrigger
)

var denialReasons = [...]string{
	"", "budget-denied", "deadline-too-close", "not-ready", "not-idempotent", "reply-type", "few-samples",
	"too-slow", "disabled", "not-named", "chain-stopped", "trigger",
}

func (r DenialReason) String() string { return name(denialReasons[:], int(r)) }

// MarshalText returns the words of String.
func (r DenialReason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Denial is a retry or a hedge that could have helped but was not sent. If a policy asks for
// hedging and the call cannot be hedged, the call has a denial at its start. A hedge that
// waits for a budget has one denial, however often it asks. If it is sent in the end, its
// WaitedOn is WaitBudget.
type Denial struct {
	Time   time.Time
	Kind   budget.Kind
	Reason DenialReason
	Wait   time.Duration // how long it would have waited
}

// Timeline is the record of one call: what was tried, when, how it ended, what was denied
// and why it stopped. String draws it. It marshals to JSON and is a slog.LogValuer. It never
// holds request or reply content, metadata or error texts.
type Timeline struct {
	Method string
	Target string
	// Policy and PolicyVersion name the policy in force, empty for the default.
	Policy        string
	PolicyVersion string
	Idempotency   classify.Idempotency
	Start         time.Time
	End           time.Time
	// Untimed says that the start of the call is not known, because nobody watched it. Then
	// Start is when its first attempt ended.
	Untimed bool
	Reason  EndReason
	Code    codes.Code
	// Committed is why a stream was committed to one attempt, and CommittedAt when. With
	// WithResume they are those of the last attempt that was resumed.
	Committed   CommitReason
	CommittedAt time.Time
	// Attempts are the attempts that have ended. While the call runs, they are in the order
	// in which they ended. Afterwards they are ordered by number.
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
