package policy

import "google.golang.org/grpc/codes"

// MethodCounts says what the calls of a method did since the program began, as in reports to
// a control plane. Counts go away only when their target is forgotten.
type MethodCounts struct {
	// Method is the full name, "/pkg.Service/Method". Empty stands for all methods whose
	// names may be made up.
	Method string
	// Ends of calls, each once. The order means nothing.
	Ends []EndCount
	// Retries and Hedges count the retries and hedges that have ended.
	Retries, Hedges int64
	// Denials of attempts that could have helped, each once. The order means nothing.
	Denials []DenialCount
}

// EndCount says how many calls ended with a code and a reason.
type EndCount struct {
	// Code that the caller got. It is Unknown for all codes that gRPC does not define.
	Code codes.Code
	// Reason why there was no further attempt, in the words of timelines: "succeeded",
	// "budget-denied".
	Reason string
	Calls  int64
}

// DenialCount says how many attempts were denied for a reason.
type DenialCount struct {
	// Kind is "retry" or "hedge".
	Kind string
	// Reason in the words of timelines: "budget-denied".
	Reason string
	Count  int64
}
