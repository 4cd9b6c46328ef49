package classify

import "google.golang.org/grpc/codes"

// GRPC is the default classifier. The first row that fits decides:
//
//	the attempt                                      method not known idempotent   idempotent
//	OK                                               success                       success
//	caller cancelled, or its deadline passed         abort                         abort
//	refused by this side: a message that is too
//	  large, a codec that fails                      stop                          stop
//	pushback negative or unparsable, a delay above
//	  MaxHint, QuotaFailure without RetryInfo        stop                          stop
//	not sent, and UNAVAILABLE or attempt timeout     retry                         retry
//	server asks (pushback ≥ 0, RetryInfo) on
//	  UNAVAILABLE, RESOURCE_EXHAUSTED                retry                         retry
//	  ABORTED                                        stop                          retry
//	UNAVAILABLE, answered or unknown                 stop: not idempotent          retry
//	the attempt's own timeout                        stop: not idempotent          retry
//	anything else                                    stop                          stop
//
// A server that asks for a retry says that it did not do the work. So this is enough even
// for methods of which nothing is known. In gRFC A6 servers ask for retries through
// pushback; google.rpc.RetryInfo says when a client may come back.
var GRPC Classifier = Func(classifyGRPC)

func classifyGRPC(a *EndedAttempt) Outcome {
	if o := common(a); o.Class != Undecided {
		return o
	}
	code := a.Code()
	if a.Delivery == DeliveryNotSent && (code == codes.Unavailable || a.TimedOut) {
		return Outcome{Retryable, ReasonNotSent}
	}
	if a.Hint.Asks() {
		switch code {
		case codes.Unavailable, codes.ResourceExhausted:
			return Outcome{Retryable, ReasonServerAsked}
		case codes.Aborted:
			return ifIdempotent(a, ReasonServerAsked)
		}
	}
	switch {
	case a.TimedOut:
		return ifIdempotent(a, ReasonAttemptTimeout)
	case code == codes.Unavailable:
		return ifIdempotent(a, ReasonUnavailable)
	case code == codes.ResourceExhausted && a.Delivery == DeliveryAnswered:
		return Outcome{NonRetryable, ReasonOverloaded}
	}
	return Outcome{NonRetryable, ReasonFatalCode}
}

// Codes returns gRFC A6's rule for a list of codes: an attempt that failed with one of them
// is retryable, whatever the idempotency of the method. So list a code only if repeating is
// safe: otherwise a server may do the work twice. Other failures end the call. The attempt's
// own timeout is retryable if DEADLINE_EXCEEDED is listed, as in A6. What the client itself
// has refused is never sent again, whatever its code, as in grpc.
func Codes(list ...codes.Code) Classifier {
	var set uint32
	for _, c := range list {
		if c < 32 {
			set |= 1 << c
		}
	}
	return Func(func(a *EndedAttempt) Outcome {
		if o := common(a); o.Class != Undecided {
			return o
		}
		if c := a.Code(); c < 32 && set&(1<<c) != 0 {
			return Outcome{Retryable, ReasonListedCode}
		}
		return Outcome{NonRetryable, ReasonFatalCode}
	})
}

// common holds the rows that no list of codes changes.
func common(a *EndedAttempt) Outcome {
	switch {
	case a.Err == nil:
		return Outcome{Class: Success}
	case a.CallerDone:
		return Outcome{Abort, ReasonCallerDone}
	case a.Local:
		return Outcome{NonRetryable, ReasonLocalError}
	case a.Hint.Kind == HintStop:
		return Outcome{NonRetryable, ReasonPushbackStop}
	case a.Hint.Kind == HintQuota:
		return Outcome{NonRetryable, ReasonQuotaExceeded}
	}
	return Outcome{}
}

func ifIdempotent(a *EndedAttempt, r Reason) Outcome {
	if a.Idempotency.AllowsRetry() {
		return Outcome{Retryable, r}
	}
	return Outcome{NonRetryable, ReasonNotIdempotent}
}
