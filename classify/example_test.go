package classify_test

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/classify"
)

// failed returns an attempt as a server ends it with code.
func failed(code codes.Code, i classify.Idempotency) *classify.EndedAttempt {
	st := status.New(code, "")
	return &classify.EndedAttempt{Err: st.Err(), Status: st, Delivery: classify.DeliveryAnswered, Idempotency: i}
}

// The same status is worth a retry or not, depending on what is known of the
// attempt and its method.
func Example() {
	refused := failed(codes.Unavailable, classify.IdempotencyUnknown)
	refused.Delivery = classify.DeliveryNotSent
	for _, a := range []*classify.EndedAttempt{
		refused,
		failed(codes.Unavailable, classify.IdempotencyUnknown),
		failed(codes.Unavailable, classify.Idempotent),
	} {
		o := classify.GRPC.Classify(a)
		fmt.Printf("%v, %v, %v: %v (%v)\n", a.Code(), a.Delivery, a.Idempotency, o.Class, o.Reason)
	}
	// Output:
	// Unavailable, not-sent, unknown: retryable (not-sent)
	// Unavailable, answered, unknown: non-retryable (not-idempotent)
	// Unavailable, answered, idempotent: retryable (unavailable)
}

// Who lists codes decides alone: the idempotency of the method is not asked.
func ExampleCodes() {
	c := classify.Codes(codes.Unavailable, codes.Aborted)
	for _, code := range []codes.Code{codes.Aborted, codes.Internal} {
		o := c.Classify(failed(code, classify.IdempotencyUnknown))
		fmt.Printf("%v: %v (%v)\n", code, o.Class, o.Reason)
	}
	// Output:
	// Aborted: retryable (listed-code)
	// Internal: non-retryable (fatal-code)
}

// A rule of one's own says only what it sees differently.
func ExampleFunc() {
	c := classify.Func(func(a *classify.EndedAttempt) classify.Outcome {
		if a.Code() == codes.Internal && a.Idempotency.AllowsRetry() {
			return classify.Outcome{Class: classify.Retryable}
		}
		return classify.Outcome{} // the rest is left to classify.GRPC
	})
	for _, code := range []codes.Code{codes.Internal, codes.NotFound} {
		fmt.Printf("%v: %v\n", code, c.Classify(failed(code, classify.Idempotent)).Class)
	}
	// Output:
	// Internal: retryable
	// NotFound: undecided
}

func ExampleFirst() {
	notFound := classify.Func(func(a *classify.EndedAttempt) classify.Outcome {
		if a.Code() == codes.NotFound { // replicas lag behind for a moment
			return classify.Outcome{Class: classify.Retryable}
		}
		return classify.Outcome{}
	})
	c := classify.First(notFound, classify.GRPC)
	for _, code := range []codes.Code{codes.NotFound, codes.InvalidArgument} {
		fmt.Printf("%v: %v\n", code, c.Classify(failed(code, classify.NoSideEffects)).Class)
	}
	// Output:
	// NotFound: retryable
	// InvalidArgument: non-retryable
}

// SearchResponse stands for a generated message.
type SearchResponse struct{ Partial bool }

// A server that answers OK with a part of the result wants to be asked again.
func ExampleReply() {
	c := classify.Reply(func(r *SearchResponse) bool { return r.Partial })
	for _, partial := range []bool{true, false} {
		o := c.Classify(&classify.EndedAttempt{
			Reply:       &SearchResponse{Partial: partial},
			Idempotency: classify.NoSideEffects,
		})
		fmt.Printf("partial %t: %v %v\n", partial, o.Class, o.Reason)
	}
	// Output:
	// partial true: retryable soft-failure
	// partial false: undecided
}
