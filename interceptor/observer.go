package interceptor

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// EventKind says what has happened.
type EventKind uint8

const (
	// CallStart: the call begins. It is given to Start.
	CallStart EventKind = iota
	// AttemptStart: an attempt begins. It is given to Start.
	AttemptStart
	// AttemptEnd: an attempt has ended and is classified.
	AttemptEnd
	// RetryWait: a retry will be sent after Event.Wait.
	RetryWait
	// AttemptDenied: a retry or a hedge that could have helped is not sent; the last of
	// Timeline.Denials says why. If a budget has denied a hedge, it is asked for again
	// without another event, and may be sent later.
	AttemptDenied
	// CallEnd: the call has ended and its timeline is complete.
	CallEnd
	// CallCommitted: a stream was committed to one attempt; Timeline.Committed says why.
	CallCommitted
	// ReconnectWait: an attempt could not be sent, because there is no connection. It waits
	// for one, at most Event.Wait.
	ReconnectWait
)

var eventKinds = [...]string{"call-start", "attempt-start", "attempt-end", "retry-wait", "attempt-denied", "call-end", "call-committed", "reconnect-wait"}

func (k EventKind) String() string { return name(eventKinds[:], int(k)) }

// Event is something that happened in a call. It is valid only during the call of the
// observer. Kinds will be added: an observer must ignore kinds that it does not know.
type Event struct {
	Kind EventKind
	Time time.Time
	// Timeline is the record of the call so far. It is complete at CallEnd. From then on it
	// may be kept.
	Timeline *Timeline
	// Attempt is the attempt that the event is about, for AttemptStart, AttemptEnd and
	// ReconnectWait.
	Attempt *Attempt
	// Wait and WaitReason are the wait before a retry, for RetryWait. For ReconnectWait,
	// Wait is the longest possible wait.
	Wait       time.Duration
	WaitReason WaitReason
	// Err is the error of the attempt or call, for AttemptEnd and CallEnd.
	Err error
}

// Observer is told what happens in calls. It is called on the goroutine on which it happens,
// for many calls at once, and a slow observer makes these calls slower. What it is told of
// one call never overlaps, also if attempts run side by side.
//
// If an observer panics, the interceptor stops using it and reports the panic once through
// the logger. The call goes on.
type Observer interface {
	// Start is called for CallStart and AttemptStart. The call or the attempt uses the
	// context that it returns, so that spans of what happens inside become children. The
	// context must be derived from ctx: otherwise the caller's cancellation is lost.
	Start(ctx context.Context, e *Event) context.Context
	// Observe is called for every other event, with the context of the call or attempt.
	Observe(ctx context.Context, e *Event)
}

// guarded is an observer or a recorder that can no longer hurt once it has panicked.
type guarded struct {
	observer Observer
	recorder Recorder
	log      *slog.Logger

	broken atomic.Bool
}

func (g *guarded) start(ctx context.Context, e *Event) (started context.Context) {
	if g.broken.Load() {
		return ctx
	}
	defer g.cutOff(func() { started = ctx })
	if started = g.observer.Start(ctx, e); started == nil {
		return ctx
	}
	return started
}

func (g *guarded) observe(ctx context.Context, e *Event) {
	if g.broken.Load() {
		return
	}
	defer g.cutOff(func() {})
	g.observer.Observe(ctx, e)
}

func (g *guarded) record(ctx context.Context, s Summary) {
	if g.broken.Load() {
		return
	}
	defer g.cutOff(func() {})
	g.recorder.Record(ctx, s)
}

// cutOff is to be deferred around the observer's code; after a panic it calls mend.
func (g *guarded) cutOff(mend func()) {
	p := recover()
	if p == nil {
		return
	}
	mend()
	if !g.broken.Swap(true) {
		defer func() { _ = recover() }() // what panicked may be the handler of this log
		g.log.Error("rego: an observer panicked and is cut off", "panic", p, "stack", string(debug.Stack()))
	}
}
