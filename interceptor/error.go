package interceptor

import (
	"context"
	"errors"

	"google.golang.org/grpc/status"
)

// Error is what a failed call returns: the error of the attempt that decided it,
// with the same text and the same status, and the reason why rego stopped there.
//
//	if e, ok := errors.AsType[*interceptor.Error](err); ok && e.Reason == interceptor.EndBudgetDenied { … }
//
// status.FromError, status.Code and logs see no difference to a bare call.
type Error struct {
	// Reason is why no further attempt was made.
	Reason EndReason
	// Attempts are the attempts of the call by their numbers. The deciding one is
	// the last, unless attempts ran side by side: then it is the one that was
	// fatal, or the last to fail. The start of the first is known only if the call
	// was hedged, observed or had a timeline.
	Attempts []Attempt

	err error
}

// Error returns the text of the deciding attempt's error.
func (e *Error) Error() string { return e.err.Error() }

// GRPCStatus returns the status of the deciding attempt. A context error that
// reached rego raw has the status that status.FromContextError gives it.
func (e *Error) GRPCStatus() *status.Status { return statusOf(e.err) }

// Unwrap returns the deciding attempt's error as grpc returned it.
func (e *Error) Unwrap() error { return e.err }

// statusOf returns the status of err, nil for nil.
func statusOf(err error) *status.Status {
	st, ok := status.FromError(err)
	if !ok && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return status.FromContextError(err)
	}
	return st
}
