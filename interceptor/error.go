package interceptor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/status"
)

// Error is what a failed call returns. It has the text and the status of the attempt that
// decided the call, and the reason why rego stopped there.
//
//	var e *interceptor.Error
//	if errors.As(err, &e) && e.Reason == interceptor.EndBudgetDenied { … }
//
// For status.FromError, status.Code and logs it is like the error of a bare call. To see all
// of it, print it with %+v: the text, the reason, and a line for each attempt with its own
// error.
type Error struct {
	// Reason is why no further attempt was made.
	Reason EndReason
	// Attempts are the attempts of the call, ordered by their numbers. The last one decided
	// the call, unless attempts ran side by side: then the one that was fatal, or the last
	// one to fail, decided it. The start of the first attempt is known if the call was hedged,
	// observed, recorded or had a timeline, or if the service config has a timeout for its
	// method. Else it is known only of the first call of a method and of one call in 64.
	Attempts []AttemptError

	err error
}

// AttemptError is an attempt of a failed call, and how it failed.
type AttemptError struct {
	Attempt
	// Err is the attempt's error as grpc returned it. Unlike the attempt itself it may hold
	// what a server says, so it is in no timeline, span or log. It is nil if the attempt had
	// a reply that a classifier took as a failure.
	Err error
}

// Error returns the text of the deciding attempt's error.
func (e *Error) Error() string {
	if e.err == nil {
		return e.Reason.String() // of an Error that rego has not made
	}
	return e.err.Error()
}

// GRPCStatus returns the status of the deciding attempt. It is nil if that attempt's error
// has none: then status.FromError reports that there is none, as for the bare error.
func (e *Error) GRPCStatus() *status.Status {
	if st, ok := status.FromError(e.err); ok && e.err != nil {
		return st
	}
	return nil
}

// Unwrap returns the deciding attempt's error as grpc returned it.
func (e *Error) Unwrap() error { return e.err }

// Format prints the text, and with %+v also the reason and the attempts.
func (e *Error) Format(f fmt.State, verb rune) {
	if verb == 'v' && f.Flag('+') {
		_, _ = io.WriteString(f, e.story())
		return
	}
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), e.Error())
}

func (e *Error) story() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nstopped after %s: %s", e.Error(), plural(len(e.Attempts), "attempt"), e.Reason)
	for i := range e.Attempts {
		a := &e.Attempts[i]
		fmt.Fprintf(&b, "\n  %s: %s", a.label(), a.explain())
		if a.Err != nil {
			fmt.Fprintf(&b, ": %v", a.Err)
		}
	}
	return b.String()
}

// statusOf returns the status of err, nil for nil.
func statusOf(err error) *status.Status {
	st, ok := status.FromError(err)
	if !ok && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return status.FromContextError(err)
	}
	return st
}
