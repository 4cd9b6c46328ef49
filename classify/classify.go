// Package classify decides what the end of an attempt means for its call: the call is done,
// it may make another attempt, or it is over.
//
// The rule that surprises people: a status code alone never decides. If a connection was
// refused, UNAVAILABLE is safe to retry for every method. If a connection broke in the
// middle of a call, it is not safe, because the server may have done the work. So a
// [Classifier] sees not only the status, but also the [Delivery] of the attempt and the
// [Idempotency] of the method.
//
// Start with [GRPC], the default table. [Codes] takes a list of codes. [Func], [First] and
// [Reply] are for rules of your own.
package classify

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Class is what the end of an attempt means for its call.
type Class uint8

const (
	// Undecided, the zero Class, leaves the decision to the next classifier, and in the end
	// to [GRPC].
	Undecided Class = iota
	// Success ends the call with this attempt's reply.
	Success
	// Retryable allows another attempt, if all other rules allow it, too.
	Retryable
	// NonRetryable ends the call with this attempt's status.
	NonRetryable
	// Abort ends the call because nobody waits for it any more: the caller cancelled the
	// call, or its deadline passed.
	Abort
)

var classNames = [...]string{"undecided", "success", "retryable", "non-retryable", "abort"}

func (c Class) String() string { return name(classNames[:], int(c)) }

// MarshalText returns the words of String.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Reason says which rule led to a [Class].
type Reason uint8

const (
	// ReasonNone is the zero Reason: the Class needs no reason.
	ReasonNone Reason = iota
	// ReasonNotSent: no server has looked at the attempt, so repeating it is safe.
	ReasonNotSent
	// ReasonServerAsked: the server asked for a retry with pushback or RetryInfo.
	ReasonServerAsked
	// ReasonUnavailable: the status is UNAVAILABLE, and the method is idempotent.
	ReasonUnavailable
	// ReasonAttemptTimeout: the attempt's own timeout ended it.
	ReasonAttemptTimeout
	// ReasonListedCode: the code is among those of [Codes].
	ReasonListedCode
	// ReasonSoftFailure: the reply itself says that the work was not done.
	ReasonSoftFailure
	// ReasonNotIdempotent: a retry could help, but the attempt may have been executed, and
	// the method is not known to be idempotent.
	ReasonNotIdempotent
	// ReasonOverloaded: RESOURCE_EXHAUSTED, and the server does not say when to come back.
	ReasonOverloaded
	// ReasonPushbackStop: the server forbade retries with negative or unparsable
	// pushback, or asked for a delay above [MaxHint].
	ReasonPushbackStop
	// ReasonQuotaExceeded: the status has a QuotaFailure and no RetryInfo.
	ReasonQuotaExceeded
	// ReasonFatalCode: retries do not help with this code.
	ReasonFatalCode
	// ReasonCallerDone: the caller cancelled the call or its deadline passed.
	ReasonCallerDone
	// ReasonCallDecided: another attempt decided the call, and this one was
	// cancelled or came too late.
	ReasonCallDecided
	// ReasonLocalError: the client itself refused to send the request or to take the reply,
	// and would do so again.
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
	// DeliveryUnknown: the attempt may have been executed, or may still run. It is the zero
	// value, because it is the safe assumption.
	DeliveryUnknown Delivery = iota
	// DeliveryNotSent: no server looked at the request. The attempt never got a transport,
	// or the server said that it did not process the request (REFUSED_STREAM, or a GOAWAY
	// below it).
	DeliveryNotSent
	// DeliveryAnswered: the status is from the server itself.
	DeliveryAnswered
)

var deliveryNames = [...]string{"unknown", "not-sent", "answered"}

func (d Delivery) String() string { return name(deliveryNames[:], int(d)) }

// MarshalText returns the words of String.
func (d Delivery) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// EndedAttempt is an attempt that has ended, as a [Classifier] sees it. It is valid only
// during the call of Classify. Nothing in it may be changed.
type EndedAttempt struct {
	// Method is the full method name, "/pkg.Service/Method".
	Method string
	// Reply is the reply message. It holds the server's answer if Err is nil.
	Reply any
	// Err is what the attempt returned, nil for OK.
	Err error
	// Status is Err as a status. If Err has no status, it is UNKNOWN or what
	// status.FromContextError makes of it. It is nil for OK.
	Status *status.Status
	// Header and Trailer are the response metadata that arrived. They may be nil.
	Header, Trailer metadata.MD
	// Delivery says what is known about whether the attempt reached a server.
	Delivery Delivery
	// Idempotency is what the call option, the policy or the descriptor declares.
	Idempotency Idempotency
	// TimedOut says that the attempt's own timeout ended it, not the caller's
	// deadline and not the server.
	TimedOut bool
	// CallerDone says that the call's context had already ended when the attempt ended.
	CallerDone bool
	// Local says that the client itself refused the request or the reply: it is too large,
	// or a codec or compressor fails.
	Local bool
	// Hint is what the server said about retries, from Trailer and Status.
	Hint Hint
}

// Code returns the attempt's status code.
func (a *EndedAttempt) Code() codes.Code { return a.Status.Code() }

// Outcome is what a [Classifier] says about an attempt.
type Outcome struct {
	Class  Class
	Reason Reason
}

// Classifier turns the end of an attempt into an [Outcome]. It is called on the goroutine of
// the call, for many calls at once. It must not keep the [EndedAttempt].
//
// The zero Outcome leaves the decision to [GRPC], so a classifier only has to say what it
// decides differently. Two things it cannot change: a server that forbids retries is obeyed,
// and a call whose caller has gone ends.
//
// A panic in a classifier reaches the caller's goroutine, as a panic in an interceptor
// would. The call's budget leases are returned.
type Classifier interface {
	Classify(a *EndedAttempt) Outcome
}

// Func is a function that is a [Classifier].
type Func func(a *EndedAttempt) Outcome

// Classify calls f. A nil f is undecided.
func (f Func) Classify(a *EndedAttempt) Outcome {
	if f == nil {
		return Outcome{}
	}
	return f(a)
}

// First asks the classifiers in turn. The first Outcome whose Class is not Undecided
// decides. If all are undecided, it returns the zero Outcome. A nil classifier is undecided.
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

// Reply finds soft failures: OK replies of type T whose content says that the work failed
// for now. It calls failed for every such reply. If failed returns true and the method is
// known to be idempotent, the attempt is retryable. If the method is not known to be
// idempotent, the call ends with that reply, because the server did execute the request.
// When attempts run out, the caller gets the last reply and no error, as without rego.
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
