// Package classify decides what an attempt's end means for its call: done,
// worth another attempt, or over.
//
// The rule that surprises people: a status code alone never decides. UNAVAILABLE
// from a connection that was refused is safe to retry for every method;
// UNAVAILABLE from a connection that broke in mid-call is not, because the server
// may have done the work. A [Classifier] therefore sees the [Delivery] of the
// attempt and the [Idempotency] of the method beside the status.
//
// Start with [GRPC], the default table. [Codes] is for those who list codes
// themselves, [Func], [First] and [Reply] for rules of one's own.
package classify

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Class is what the end of an attempt means for its call.
type Class uint8

const (
	// Undecided, the zero Kind, leaves the decision to the next classifier and
	// in the end to [GRPC].
	Undecided Class = iota
	// Success ends the call with this attempt's reply.
	Success
	// Retryable allows another attempt, if all other rules allow it too.
	Retryable
	// NonRetryable ends the call with this attempt's status.
	NonRetryable
	// Abort ends the call because nobody waits for it any more: the caller
	// cancelled it or its deadline passed.
	Abort
)

var classNames = [...]string{"undecided", "success", "retryable", "non-retryable", "abort"}

func (c Class) String() string { return name(classNames[:], int(c)) }

// MarshalText returns the words of String.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Reason says which rule led to a [Class].
type Reason uint8

const (
	// ReasonNone is the zero Reason: the Class says it all.
	ReasonNone Reason = iota
	// ReasonNotSent: the attempt never got a transport, so repeating it is safe.
	ReasonNotSent
	// ReasonServerAsked: the server asked for a retry with pushback or RetryInfo.
	ReasonServerAsked
	// ReasonUnavailable: the server is UNAVAILABLE and the method idempotent.
	ReasonUnavailable
	// ReasonAttemptTimeout: the attempt's own timeout ended it.
	ReasonAttemptTimeout
	// ReasonListedCode: the code is among those of [Codes].
	ReasonListedCode
	// ReasonSoftFailure: the reply itself says that the work was not done.
	ReasonSoftFailure
	// ReasonNotIdempotent: worth a retry, but the attempt may have been executed and
	// the method is not known to be idempotent.
	ReasonNotIdempotent
	// ReasonOverloaded: RESOURCE_EXHAUSTED without a hint on when to come back.
	ReasonOverloaded
	// ReasonPushbackStop: the server forbade retries with negative or unparsable
	// pushback, or asked for a delay above [MaxHint].
	ReasonPushbackStop
	// ReasonQuotaExceeded: the status carries a QuotaFailure and no RetryInfo.
	ReasonQuotaExceeded
	// ReasonFatalCode: the code is not one that retries help with.
	ReasonFatalCode
	// ReasonCallerDone: the caller cancelled the call or its deadline passed.
	ReasonCallerDone
	// ReasonCallDecided: another attempt decided the call, and this one was
	// cancelled or came too late.
	ReasonCallDecided
	// ReasonLocalError: this side refused to send the request or to take the reply, and
	// would again.
	ReasonLocalError
)

var reasonNames = [...]string{
	"", "not-sent", "server-asked", "unavailable", "attempt-timeout", "listed-code", "soft-failure",
	"not-idempotent", "overloaded", "pushback-stop", "quota-exceeded", "fatal-code", "caller-done",
	"call-decided", "local-error",
}

func (r Reason) String() string { return name(reasonNames[:], int(r)) }

// MarshalText returns the words of String.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Delivery is what is known about whether an attempt reached a server.
type Delivery uint8

const (
	// DeliveryUnknown: the attempt may have been executed, or still be under
	// way. It is the zero value, because it is the assumption that is safe.
	DeliveryUnknown Delivery = iota
	// DeliveryNotSent: no server looked at it. The attempt never got a transport, or
	// the server said that it did not process it (REFUSED_STREAM, or GOAWAY below it).
	DeliveryNotSent
	// DeliveryAnswered: the status is the server's own.
	DeliveryAnswered
)

var deliveryNames = [...]string{"unknown", "not-sent", "answered"}

func (d Delivery) String() string { return name(deliveryNames[:], int(d)) }

// MarshalText returns the words of String.
func (d Delivery) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// EndedAttempt is an attempt that has ended, as a [Classifier] sees it. It is valid
// during the call of Classify only, and none of it may be changed.
type EndedAttempt struct {
	// Method is the full method name, "/pkg.Service/Method".
	Method string
	// Reply is the reply message. It holds the server's answer if Err is nil.
	Reply any
	// Err is what the attempt returned, nil for OK.
	Err error
	// Status is Err as a status; for an Err that carries none, UNKNOWN or what
	// status.FromContextError makes of it. Nil for OK.
	Status *status.Status
	// Header and Trailer are the response metadata that arrived, perhaps nil.
	Header, Trailer metadata.MD
	// Delivery is what is known of the attempt's way.
	Delivery Delivery
	// Idempotency is what call option, policy or descriptor declare.
	Idempotency Idempotency
	// TimedOut says that the attempt's own timeout ended it, not the caller's
	// deadline and not the server.
	TimedOut bool
	// CallerDone says that the call's context had ended when the attempt did.
	CallerDone bool
	// Local says that this side refused the request or the reply: it is too large, or
	// a codec or compressor fails.
	Local bool
	// Hint is the server's word on retries, from Trailer and Status.
	Hint Hint
}

// Code returns the attempt's status code.
func (a *EndedAttempt) Code() codes.Code { return a.Status.Code() }

// Outcome is what a [Classifier] says of an attempt.
type Outcome struct {
	Class  Class
	Reason Reason
}

// Classifier turns the end of an attempt into an Outcome. It is called on the
// goroutine of the call, from many calls at once, and must not keep the EndedAttempt.
//
// The zero Outcome leaves the decision to [GRPC], so that a classifier needs to
// say only what it sees differently. Whatever a classifier says, a server that
// forbids retries is obeyed, and a call whose caller is gone ends.
//
// A panic in a classifier surfaces on the caller's goroutine, as one in an
// interceptor would; the call's budget leases are returned.
type Classifier interface {
	Classify(a *EndedAttempt) Outcome
}

// Func is a function as a [Classifier].
type Func func(a *EndedAttempt) Outcome

// Classify calls f. Nil is undecided.
func (f Func) Classify(a *EndedAttempt) Outcome {
	if f == nil {
		return Outcome{}
	}
	return f(a)
}

// First asks the classifiers in turn; the first Outcome whose Class is not
// [Undecided] decides. It returns the zero Outcome if all are undecided. Nil ones are.
func First(cs ...Classifier) Classifier {
	return Func(func(a *EndedAttempt) Outcome {
		for _, c := range cs {
			if c == nil {
				continue
			}
			if o := c.Classify(a); o.Class != Undecided {
				return o
			}
		}
		return Outcome{}
	})
}

// Reply finds soft failures: OK replies of type T whose content says that the
// work failed for now. failed is asked for every such reply; when it returns
// true the attempt is retryable if the method is known to be idempotent, since
// the server did execute it, and else the call ends with that reply. When
// attempts run out the caller gets the last reply and no error, as without rego.
func Reply[T any](failed func(reply T) bool) Classifier {
	return Func(func(a *EndedAttempt) Outcome {
		reply, ok := a.Reply.(T)
		if a.Err != nil || !ok || failed == nil || !failed(reply) {
			return Outcome{}
		}
		if !a.Idempotency.AllowsRetry() {
			return Outcome{NonRetryable, ReasonNotIdempotent}
		}
		return Outcome{Retryable, ReasonSoftFailure}
	})
}

func name(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return "invalid"
}
