package hedge

import (
	"time"

	"google.golang.org/grpc/metadata"
)

// A Trigger says when a hedge is due. [Delay] is one; others may go by what is known of the
// server, of the request's kind or of the time of day. What a Trigger says bounds no load:
// hedges are still taken from budgets, and there are no more attempts than the policy allows.
//
// It is called from many calls at once, on the goroutines that make their attempts, and slows
// them by the time it takes.
type Trigger interface {
	// Next returns how long it is until the next hedge of c is due. It is asked when an
	// attempt of the call starts and, once the time has passed that it then named, again:
	// zero or less starts the hedge, more puts it off and asks again after that. Any state
	// but Ready ends hedging for the call.
	Next(c Call) (wait time.Duration, s State)
	// Ended tells of an attempt that has ended: of every one of the methods whose policies
	// name the Trigger and may be hedged, whether a hedge ran beside it or not. One of a
	// stream counts as ended when its first message has come.
	Ended(a EndedAttempt)
}

// Call is a call whose attempts run, as a [Trigger] sees it.
type Call struct {
	Method    string        // "/pkg.Service/Method"
	Target    string        // of the connection, as it was dialed
	Running   int           // attempts that run, at least one
	Elapsed   time.Duration // since the first attempt of the call started
	SinceLast time.Duration // since the last one did, or was denied for good
}

// EndedAttempt is an attempt that has ended, as a [Trigger] sees it.
type EndedAttempt struct {
	Method     string
	Target     string
	Number     int // of the attempts of its call, from 1, which is the original
	Start, End time.Time
	Err        error // as the attempt returned it; nil of one that answered
	// Complete says that it took as long as the method takes: it ended by itself, with a
	// reply. One that failed, timed out or was cancelled, since another one was faster, might
	// have taken longer.
	Complete bool
	// Header and Trailer are what the server sent, nil if they have not come. They must not
	// be changed.
	Header, Trailer metadata.MD
}
