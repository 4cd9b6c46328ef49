package hedge

import (
	"time"

	"google.golang.org/grpc/metadata"
)

// A Trigger says when a hedge is due. [Delay] is one. Others may use what is known of the
// server, of the kind of request or of the time of day. A Trigger bounds no load: hedges are
// still taken from budgets, and there are no more attempts than the policy allows.
//
// It is called for many calls at once, on the goroutines that make their attempts. A slow
// Trigger makes these calls slower.
type Trigger interface {
	// Next returns how long it is until the next hedge of c is due. It is asked when an
	// attempt of the call starts, and asked again when the returned time has passed. Zero or
	// less starts the hedge. More postpones it: then Next is asked again after that time.
	// Any state but Ready ends hedging for the call.
	Next(c Call) (wait time.Duration, s State)
	// Ended reports an attempt that has ended. It is called for every attempt of the methods
	// whose policies name the Trigger and that may be hedged, whether or not a hedge ran. An
	// attempt of a stream counts as ended when its first message has come.
	Ended(a EndedAttempt)
}

// Call is a call whose attempts run, as a [Trigger] sees it.
type Call struct {
	Method    string        // "/pkg.Service/Method"
	Target    string        // of the connection, as it was dialed
	Running   int           // attempts that run now, at least one
	Elapsed   time.Duration // since the first attempt of the call started
	SinceLast time.Duration // since the last attempt started, or was denied for good
}

// EndedAttempt is an attempt that has ended, as a [Trigger] sees it.
type EndedAttempt struct {
	Method     string
	Target     string
	Number     int // of the attempts of its call, from 1, which is the original
	Start, End time.Time
	Err        error // as the attempt returned it; nil if it has answered
	// Complete says that the attempt took as long as the method takes: it ended by itself,
	// with a reply. An attempt that failed, timed out or was cancelled because another one
	// was faster might have taken longer.
	Complete bool
	// Header and Trailer are what the server sent. They are nil if they have not arrived.
	// They must not be changed.
	Header, Trailer metadata.MD
}
