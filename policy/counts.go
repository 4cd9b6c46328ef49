package policy

import "google.golang.org/grpc/codes"

// MethodCounts is what the calls of a method did since the program began, as reports to a control
// plane have it. Only a target that is forgotten takes its counts away.
type MethodCounts struct {
	// Method is the full name, "/pkg.Service/Method". Empty stands for all methods whose names
	// may be made up.
	Method string
	// Ends of calls, each once. The order means nothing.
	Ends []EndCount
	// Retries and Hedges are how many attempts that have ended were one.
	Retries, Hedges int64
	// Denials of attempts that would have been of use, each once. The order means nothing.
	Denials []DenialCount
}

// EndCount is how many calls ended like that.
type EndCount struct {
	// Code that the caller got: Unknown for all that gRPC does not define.
	Code codes.Code
	// Reason why there was no further attempt, in the words of timelines: "succeeded",
	// "budget-denied".
	Reason string
	Calls  int64
}

// DenialCount is how many attempts were denied for that reason.
type DenialCount struct {
	// Kind is "retry" or "hedge".
	Kind string
	// Reason in the words of timelines: "budget-denied".
	Reason string
	Count  int64
}
