package classify_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/classify"
)

var (
	unknown     = []classify.Idempotency{classify.IdempotencyUnknown, classify.NotIdempotent}
	idempotent  = []classify.Idempotency{classify.Idempotent, classify.NoSideEffects}
	deliveries  = []classify.Delivery{classify.DeliveryUnknown, classify.DeliveryNotSent, classify.DeliveryAnswered}
	hints       = []classify.HintKind{classify.NoHint, classify.HintPushback, classify.HintRetryInfo, classify.HintStop, classify.HintQuota}
	foreignCode = codes.Code(99) // one that gRPC does not define
)

// ended returns an attempt that ended with code, OK included.
func ended(code codes.Code) classify.EndedAttempt {
	if code == codes.OK {
		return classify.EndedAttempt{}
	}
	st := status.New(code, "ended")
	return classify.EndedAttempt{Err: st.Err(), Status: st}
}

// TestGRPC has the rows of GRPC's doc comment, in its order.
func TestGRPC(t *testing.T) {
	t.Parallel()
	const (
		ours, theirs    = true, true // whose clock fired: the attempt's, the caller's
		no              = false
		notSent         = classify.DeliveryNotSent
		answered        = classify.DeliveryAnswered
		lost            = classify.DeliveryUnknown
		none            = classify.NoHint
		pushed          = classify.HintPushback
		info            = classify.HintRetryInfo
		forbidden       = classify.HintStop
		quota           = classify.HintQuota
		unavailable     = codes.Unavailable
		exhausted       = codes.ResourceExhausted
		aborted         = codes.Aborted
		deadline        = codes.DeadlineExceeded
		cancelled       = codes.Canceled
		invalidArgument = codes.InvalidArgument
	)
	retry := func(r classify.Reason) classify.Outcome {
		return classify.Outcome{Class: classify.Retryable, Reason: r}
	}
	stop := func(r classify.Reason) classify.Outcome {
		return classify.Outcome{Class: classify.NonRetryable, Reason: r}
	}
	success := classify.Outcome{Class: classify.Success}
	abort := classify.Outcome{Class: classify.Abort, Reason: classify.ReasonCallerDone}
	fatal := stop(classify.ReasonFatalCode)
	unsafe := stop(classify.ReasonNotIdempotent)

	rows := []struct {
		code       codes.Code
		delivery   classify.Delivery
		hint       classify.HintKind
		timedOut   bool
		callerDone bool
		unknown    classify.Outcome // of a method not known to be idempotent
		idempotent classify.Outcome
	}{
		{codes.OK, answered, none, no, no, success, success},
		{codes.OK, answered, forbidden, no, no, success, success},    // nothing to retry
		{codes.OK, answered, none, no, theirs, success, success},     // the reply was there first
		{cancelled, lost, none, no, theirs, abort, abort},            // caller cancelled
		{cancelled, notSent, none, no, theirs, abort, abort},         // safe to repeat, but for nobody
		{deadline, lost, none, no, theirs, abort, abort},             // caller's deadline
		{deadline, lost, none, ours, theirs, abort, abort},           // both clocks: the caller's decides
		{unavailable, answered, pushed, no, theirs, abort, abort},    // server asks, nobody listens
		{unavailable, answered, forbidden, no, theirs, abort, abort}, // caller before pushback

		{unavailable, answered, forbidden, no, no, stop(classify.ReasonPushbackStop), stop(classify.ReasonPushbackStop)},
		{unavailable, notSent, forbidden, no, no, stop(classify.ReasonPushbackStop), stop(classify.ReasonPushbackStop)},
		{exhausted, answered, quota, no, no, stop(classify.ReasonQuotaExceeded), stop(classify.ReasonQuotaExceeded)},
		{unavailable, answered, quota, no, no, stop(classify.ReasonQuotaExceeded), stop(classify.ReasonQuotaExceeded)},
		{invalidArgument, answered, forbidden, no, no, stop(classify.ReasonPushbackStop), stop(classify.ReasonPushbackStop)},

		{unavailable, notSent, none, no, no, retry(classify.ReasonNotSent), retry(classify.ReasonNotSent)}, // refused
		{deadline, notSent, none, ours, no, retry(classify.ReasonNotSent), retry(classify.ReasonNotSent)},  // still connecting
		{cancelled, notSent, none, ours, no, retry(classify.ReasonNotSent), retry(classify.ReasonNotSent)}, // the same, as another code
		{deadline, notSent, none, no, no, fatal, fatal},                                                    // not by our clock
		{codes.Internal, notSent, none, no, no, fatal, fatal},                                              // a codec, credentials
		{exhausted, notSent, none, no, no, fatal, fatal},                                                   // request too large

		{unavailable, answered, pushed, no, no, retry(classify.ReasonServerAsked), retry(classify.ReasonServerAsked)},
		{unavailable, answered, info, no, no, retry(classify.ReasonServerAsked), retry(classify.ReasonServerAsked)},
		{unavailable, notSent, pushed, no, no, retry(classify.ReasonNotSent), retry(classify.ReasonNotSent)}, // not sent comes first
		{exhausted, answered, pushed, no, no, retry(classify.ReasonServerAsked), retry(classify.ReasonServerAsked)},
		{exhausted, answered, info, no, no, retry(classify.ReasonServerAsked), retry(classify.ReasonServerAsked)},
		{aborted, answered, pushed, no, no, unsafe, retry(classify.ReasonServerAsked)},
		{aborted, answered, info, no, no, unsafe, retry(classify.ReasonServerAsked)},
		{invalidArgument, answered, pushed, no, no, fatal, fatal}, // asking does not make it better
		{codes.Internal, answered, info, no, no, fatal, fatal},
		{deadline, answered, pushed, no, no, fatal, fatal},

		{unavailable, answered, none, no, no, unsafe, retry(classify.ReasonUnavailable)},
		{unavailable, lost, none, no, no, unsafe, retry(classify.ReasonUnavailable)}, // broke in mid-call

		{deadline, lost, none, ours, no, unsafe, retry(classify.ReasonAttemptTimeout)},
		{cancelled, lost, none, ours, no, unsafe, retry(classify.ReasonAttemptTimeout)},
		{deadline, answered, none, ours, no, unsafe, retry(classify.ReasonAttemptTimeout)}, // the server was the quicker to say so
		{deadline, lost, pushed, ours, no, unsafe, retry(classify.ReasonAttemptTimeout)},   // asks, but on another code

		{exhausted, answered, none, no, no, stop(classify.ReasonOverloaded), stop(classify.ReasonOverloaded)},
		{exhausted, lost, none, no, no, fatal, fatal}, // reply too large: this side's own
		{deadline, answered, none, no, no, fatal, fatal},
		{cancelled, answered, none, no, no, fatal, fatal},
		{aborted, answered, none, no, no, fatal, fatal},
		{codes.Internal, answered, none, no, no, fatal, fatal},
		{codes.Unknown, answered, none, no, no, fatal, fatal},
		{codes.Unknown, lost, none, no, no, fatal, fatal},
		{codes.Unimplemented, answered, none, no, no, fatal, fatal},
		{invalidArgument, answered, none, no, no, fatal, fatal},
		{foreignCode, answered, none, no, no, fatal, fatal},
	}
	for _, r := range rows {
		a := ended(r.code)
		a.Delivery, a.TimedOut, a.CallerDone = r.delivery, r.timedOut, r.callerDone
		a.Hint.Kind = r.hint
		for _, a.Idempotency = range unknown {
			assert.Equal(t, r.unknown, classify.GRPC.Classify(&a), describe(&a))
		}
		for _, a.Idempotency = range idempotent {
			assert.Equal(t, r.idempotent, classify.GRPC.Classify(&a), describe(&a))
		}
	}
}

func describe(a *classify.EndedAttempt) string {
	return fmt.Sprintf("%v, %v, hint %q, %v, timed out %t, caller done %t, local %t",
		a.Code(), a.Delivery, a.Hint.Kind, a.Idempotency, a.TimedOut, a.CallerDone, a.Local)
}

// everyAttempt calls f with every combination of what the built-in classifiers
// look at.
func everyAttempt(f func(a *classify.EndedAttempt)) {
	for code := codes.OK; code <= codes.Unauthenticated+1; code++ {
		if code > codes.Unauthenticated {
			code = foreignCode
		}
		a := ended(code)
		for _, a.Delivery = range deliveries {
			for _, a.Hint.Kind = range hints {
				a.Hint.After = 0
				if a.Hint.Asks() {
					a.Hint.After = time.Second
				}
				for i := classify.IdempotencyUnknown; i <= classify.NoSideEffects; i++ {
					for bits := range 8 {
						a.Idempotency, a.TimedOut, a.CallerDone, a.Local = i, bits&1 != 0, bits&2 != 0, bits&4 != 0
						f(&a)
					}
				}
			}
		}
	}
}

// TestGRPCNeverUnsafe holds the promises that no row may break.
func TestGRPCNeverUnsafe(t *testing.T) {
	t.Parallel()
	seen, retryable := 0, 0
	everyAttempt(func(a *classify.EndedAttempt) {
		seen++
		got := classify.GRPC.Classify(a)
		require.NotEqual(t, classify.Undecided, got.Class, describe(a))
		require.Equal(t, a.Err == nil, got.Class == classify.Success, describe(a))
		require.Equal(t, a.Err != nil && a.CallerDone, got.Class == classify.Abort, describe(a))
		require.Equal(t, got.Class == classify.Success, got.Reason == classify.ReasonNone, describe(a))

		known := *a
		known.Idempotency = classify.Idempotent
		repeatable := classify.GRPC.Classify(&known).Class == classify.Retryable
		require.Equal(t, repeatable && got.Class == classify.NonRetryable, got.Reason == classify.ReasonNotIdempotent,
			"the reason must be what stands in the way: %s", describe(a))

		if got.Class != classify.Retryable {
			return
		}
		retryable++
		require.False(t, a.CallerDone || a.Local, describe(a))
		require.False(t, a.Hint.Stops(), describe(a))
		if a.Delivery != classify.DeliveryNotSent && !a.Hint.Asks() {
			require.True(t, a.Idempotency.AllowsRetry(), "may run twice: %s", describe(a))
		}
	})
	require.Equal(t, 18*3*5*4*8, seen)
	require.NotZero(t, retryable)
}

// TestCodes: the list decides, and nothing but a caller that is gone, this side or a
// server that says no is stronger.
func TestCodes(t *testing.T) {
	t.Parallel()
	lists := [][]codes.Code{
		nil,
		{codes.Unavailable},
		{codes.Unavailable, codes.Internal, codes.Unavailable}, // twice is once
		{codes.DeadlineExceeded, codes.Unauthenticated},
		{codes.OK},         // nothing that a failure has
		{foreignCode},      // no code: ignored
		{foreignCode % 32}, // not to be taken for the one above
	}
	for _, list := range lists {
		c := classify.Codes(list...)
		everyAttempt(func(a *classify.EndedAttempt) {
			listed := false
			for _, code := range list {
				listed = listed || code == a.Code() && code < 32
			}
			want := classify.Outcome{Class: classify.NonRetryable, Reason: classify.ReasonFatalCode}
			switch {
			case a.Err == nil:
				want = classify.Outcome{Class: classify.Success}
			case a.CallerDone:
				want = classify.Outcome{Class: classify.Abort, Reason: classify.ReasonCallerDone}
			case a.Local:
				want.Reason = classify.ReasonLocalError
			case a.Hint.Kind == classify.HintStop:
				want.Reason = classify.ReasonPushbackStop
			case a.Hint.Kind == classify.HintQuota:
				want.Reason = classify.ReasonQuotaExceeded
			case listed:
				want = classify.Outcome{Class: classify.Retryable, Reason: classify.ReasonListedCode}
			}
			require.Equal(t, want, c.Classify(a), "%v: %s", list, describe(a))
		})
	}
}

func TestCodesKeepsNothingOfTheList(t *testing.T) {
	t.Parallel()
	list := []codes.Code{codes.Internal}
	c := classify.Codes(list...)
	list[0] = codes.Unavailable
	a := ended(codes.Internal)
	assert.Equal(t, classify.Retryable, c.Classify(&a).Class)
}
