// Package twin holds rego against a bare client: it runs a random program of an
// application twice in virtual time, with rego and without, against the same scripted
// server, and compares everything that the application and the server can observe.
//
// With one attempt both must show the same, to the nanosecond. Where rego makes several,
// the bare run makes the same attempts at the same times, and its application is given
// what the deciding one shows. So the twin says nothing on whether rego should have made
// an attempt; that is what the other tests of package interceptor are for. Of streams
// with several attempts only the deciding one is played bare, and times are not compared.
//
// Begin with [Check]. A program is data: [Random] makes it from a seed, [Shrink] finds a
// small one that still differs, and [Program.GoString] prints it, to be pasted into a
// test.
package twin

import (
	"time"

	"google.golang.org/grpc/codes"
)

// Program is what an application does on one connection, and what the network and the
// server do about it. Every value is a valid program.
type Program struct {
	// Rules are the policies of the two methods that each kind of call has.
	Rules [2]Rules
	// Watched has the interceptor tell an observer of every call.
	Watched bool
	// Lanes are the goroutines of the application, each with calls one after the other.
	Lanes [][]Call
	// Above and Below are interceptors, the outermost first: between the application and
	// rego, and between rego and grpc.
	Above, Below []Meddler
	// Direct has nothing stand between rego and grpc, not even what notes the attempts.
	// It counts if there is no interceptor below, and no ServiceTimeout.
	Direct bool
	// Outages are times in which the server refuses connections.
	Outages []Outage
	// ServiceTimeout is the timeout of the channel's service config. Zero means none.
	ServiceTimeout time.Duration
}

// Rules are what of a policy a program varies. Backoffs are exact, budgets unlimited.
type Rules struct {
	MaxAttempts    int // zero counts as one
	Idempotent     bool
	ListsCodes     bool // UNAVAILABLE and RESOURCE_EXHAUSTED, instead of classify.GRPC
	None           bool // the classifier to which every failure is final
	RetryOff       bool
	WaitForReady   bool
	Timeout        time.Duration
	AttemptTimeout time.Duration
	HedgeAfter     time.Duration // zero means no hedges
	Reconnect      bool          // attempts that are not sent wait for a connection
}

// Call is a call of the application.
type Call struct {
	Kind     Kind
	Method   int           // the first or the second of its kind
	Think    time.Duration // before it
	Deadline time.Duration // from its beginning; zero means none
	Cancel   time.Duration // when its context is cancelled; zero means not before its end
	Options  []Option
	Ops      []Op      // of a stream
	Beside   []Op      // of a stream, on a goroutine of their own
	Attempts []Attempt // what the server does about each attempt; the last repeats
}

// Kind is a kind of call.
type Kind uint8

// The kinds of calls.
const (
	Unary Kind = iota
	Watch
	Upload
	Chat
)

// Option is what a call is made with.
type Option uint8

// Options of calls.
const (
	WantHeader Option = iota
	WantTrailer
	WantPeer
	WantFinish
	FinishPanics
	WantTimeline // rego's own: bare it does nothing
	WaitForReady
	FailFast
	StaticMethod
	JSON      // a codec that merges into what it is given
	SmallSend // the request is larger than what may be sent
	SmallRecv // so is the answer
	NoSuchCompressor
	Credentials
	ReuseRequest // the lane's own, changed before each call and each message of a stream
	ReuseReply   // the lane's own, with what the call before has left in it
)

// Op is an operation on a stream.
type Op struct {
	Do    Operation
	Think time.Duration // before it
	Big   bool          // the message does not fit a stream's window
}

// Operation is what an [Op] does.
type Operation uint8

// Operations on a stream.
const (
	Send Operation = iota
	CloseSend
	Recv
	Drain // receives until the end
	Header
	Trailer // only after the end: grpc forbids it before
	Context
	Cancel
)

// Attempt is what the server does about an attempt.
type Attempt struct {
	Refuse int // so many streams are refused before, as unprocessed
	Steps  []Step
}

// Step is what the server does next. After the last one an attempt ends with OK.
type Step struct {
	Do   Action
	Wait time.Duration // before it
	Code codes.Code    // of Status
	MD   Extra         // of Status
	N    int           // of ReadN
}

// Action is what a [Step] does.
type Action uint8

// Actions of the server.
const (
	SendHeader  Action = iota
	SendMessage        // with the header before it, if there was none
	Status             // with the header before it, if there was one
	Reset              // ends the stream with RST_STREAM: INTERNAL_ERROR
	Refused            // the same with REFUSED_STREAM, whatever was done before
	GoAway             // the connection takes no more streams; this one goes on
	GoAwayBelow        // the same, and this stream is said to be unprocessed
	Kill               // cuts the connection
	ReadN              // waits for N messages, or the end of what the client sends
	ReadAll            // waits for that end
	Hang               // does nothing any more
)

// Extra is what a status carries.
type Extra uint8

// What a status carries.
const (
	Plain       Extra = iota
	WithTrailer       // custom metadata
	Pushback0         // retry at once
	PushbackNo        // do not retry
	QuotaInfo         // QuotaFailure and RetryInfo
)

// Outage is a time in which the server refuses connections.
type Outage struct{ From, To time.Duration }

// Meddler is an interceptor.
type Meddler struct {
	Do    Meddling
	Nth   int           // the invocation, and below rego the attempt, that it meddles with; zero means all
	After time.Duration // of ReturnEarly
}

// Meddling is what a [Meddler] does.
type Meddling uint8

// What interceptors do.
const (
	Wrap        Meddling = iota // adds metadata, and words to the error
	DropOptions                 // hands no options on
	Refuse                      // fails with RESOURCE_EXHAUSTED, and sends nothing
	FailRaw                     // fails with context.DeadlineExceeded as it is
	Answer                      // answers by itself, header included
	ReturnEarly                 // fails before what it has called returns
	Again                       // calls once more after a failure
	FailSend                    // of a stream, the second message
	FailRecv                    // of a stream, the second message
)
