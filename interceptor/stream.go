package interceptor

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/internal/codec"
	"github.com/rego-go/rego/internal/percpu"
	"github.com/rego-go/rego/internal/replay"
)

// stream is a streaming call: a log of what the application sent, and attempts that
// read it, each at its own pace. They are made and decided as those of a unary
// call are, the first message in the place of the reply, by the stream's engine:
// a goroutine that is started when there is something to decide or, mostly, the
// application's own in its first RecvMsg. When that has its message the stream is committed
// to the attempt that it is from. The engine ends and the log is given up, and what the
// application does from then on goes straight to that attempt's stream.
//
// The state goes from opening to racing, committed, ending and ended; committed may be
// left out, and a stream that is resumed goes back to racing. docs/design.md has the table.
// Nothing of grpc, of an interceptor or of an observer is called with mu held. The end is
// complete, outputs, OnFinish, contexts and observers, before the application is told of
// it.
type stream struct {
	call
	desc     *grpc.StreamDesc
	streamer grpc.Streamer
	codec    *codec.Codec
	alone    bool // there is one attempt, whatever comes

	sendTo   atomic.Pointer[attempt] // what SendMsg and CloseSend go to, once all in the log is sent
	recvFrom atomic.Pointer[attempt] // what RecvMsg goes to, once it has had its first message
	untold   atomic.Bool             // observers do not know yet that the stream is committed

	// Guarded by mu, as is the log.
	state  streamState
	log    replay.Log
	sent   int        // of the log, by any attempt: one that has taken a message may have ended since
	live   []*attempt // that are open, until they end or another one is kept
	newest *attempt   // of those that have been open

	outputting  bool  // OnFinish is called, which may ask for the header
	gone        bool  // the call has ended between two attempts
	neverClosed bool  // CloseSend came too late for any of them
	idle        bool  // there is no engine
	waiting     int   // goroutines of the application that wait
	answered    bool  // the first RecvMsg has its result
	err         error // of the call, once it has ended
	view        *streamContext

	own locks

	first struct { // of the original
		streamAttempt
		outputs
		shared  [2]grpc.CallOption
		options [privateOutputs + 3]grpc.CallOption
	}
	oneLive [1]*attempt
	resumption
}

// streamState is how far a stream has come.
type streamState uint8

// The states of a stream.
const (
	streamOpening   streamState = iota // no attempt is open yet
	streamRacing                       // the application has nothing in hand: attempts can be replaced
	streamCommitted                    // one attempt is kept
	streamEnding                       // somebody is ending the call
	streamEnded                        // all of that is done
)

// becomeLocked is where the state changes.
func (s *stream) becomeLocked(to streamState) {
	s.state = to
	s.changed.Broadcast()
}

// unlocked calls something that is not rego's, with mu held before and after it.
func (s *stream) unlocked(f func()) {
	s.mu.Unlock()
	defer s.mu.Lock()
	f()
}

func newStream(d *door, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer) *stream {
	s := &stream{desc: desc, streamer: streamer}
	s.door, s.method, s.conn = d, method, cc
	s.maker, s.streaming = s, true
	s.seat = percpu.Mine(percpu.MaxCells)
	s.bidirectional = desc.ClientStreams && desc.ServerStreams
	s.endsInTime = isGRPCsOwn(streamer)
	s.original.streamAttempt, s.original.outputs, s.original.opts = &s.first.streamAttempt, &s.first.outputs, s.first.shared[:0]
	s.first.outputs.inside.conn = cc
	s.first.apart = !s.endsInTime
	s.locks = &s.own
	s.changed.L = &s.mu
	s.live = s.oneLive[:0]
	s.settings.replayLimit = d.interceptor.callReplayLimit
	return s
}

// start opens the stream of the first attempt on the caller's goroutine. If that
// fails, it returns when another one is open, or none can be.
func (s *stream) start(ctx context.Context) (grpc.ClientStream, error) {
	returned := false
	defer s.abandonUnless(&returned)
	if s.hedged {
		s.fireFunc = s.fire
	}
	s.begin(ctx)
	s.looksAtOK = s.looksAtOK && !s.desc.ServerStreams
	if s.desc.ServerStreams && !s.desc.ClientStreams {
		s.resume = s.settings.resume
		s.course.resumes = s.resume != nil
	}
	a := s.lead
	s.alone = s.isOnlyChance()
	if !s.alone {
		s.codec = codec.Of(s.shared)
		s.merges = s.codec != nil && !s.codec.IsProto()
		if s.hedged || s.desc.ClientStreams && !s.endsInTime { // who looks for its header may have to be called off
			s.makeCancellable(a)
		}
	}
	s.log.Begin(replay.Config{
		Codec: s.codec, Shown: !s.endsInTime,
		Limit: s.settings.replayLimit, Memory: s.interceptor.replay, Method: &s.plan.method.replay,
	})
	s.setStreamOptions(a, s.first.options[:])
	s.openAttempt(s.beginAttempt(a), a)
	returned = true
	if a.openErr == nil && a.timed {
		s.learnClock()
	}
	if a.openErr == nil && s.alone {
		s.passThrough(a)
		return s, nil
	}
	s.mu.Lock()
	s.idle = true
	if a.openErr != nil || s.hedged || a.over {
		s.startEngineLocked()
	}
	if a.openErr == nil {
		s.mu.Unlock()
		return s, nil
	}
	defer s.mu.Unlock()
	s.waitLocked(func() bool { return s.newest != nil || s.state == streamEnded })
	if s.newest == nil {
		return nil, s.err
	}
	return s, nil
}

func (s *stream) passThrough(a *attempt) {
	a.continues = true
	s.decided = a
	s.mu.Lock()
	s.commitLocked(a, CommitOneAttempt)
	s.mu.Unlock()
	s.tellCommit()
	s.receiveFrom(a)
}

// startEngineLocked starts the engine on a goroutine of its own, unless there is one.
func (s *stream) startEngineLocked() {
	if s.idle {
		s.idle = false
		go s.engine()
	}
}

// engine makes attempts until the application can have its first message, or the
// call has ended without one.
func (s *stream) engine() {
	returned := false
	defer s.catchEngine(&returned)
	s.answer(s.decide())
	returned = true
}

// beEngineLocked does what an engine does on the application's goroutine, which
// waits for it.
func (s *stream) beEngineLocked(decide func() (EndReason, time.Time)) {
	s.idle = false
	s.waitBeginsLocked()
	defer s.waitEndsLocked()
	s.unlocked(func() {
		returned := false
		defer s.abandonUnless(&returned)
		s.answer(decide())
		returned = true
	})
	if s.panicked != nil { // a goroutine that was sending
		s.panicked.rethrow()
	}
}

// answer tells the application's first RecvMsg what has been decided.
func (s *stream) answer(reason EndReason, now time.Time) {
	d := s.decided
	if reason == EndSucceeded {
		if !d.eof && d.ownReply {
			s.plan.method.replies.Of(s.reply).Move(s.reply, d.reply)
		}
		s.mu.Lock()
		s.commitLocked(d, CommitAnswer)
		s.mu.Unlock()
		s.tellCommit()
	}
	if !d.continues {
		s.end(func() (EndReason, time.Time) { return reason, now })
		return
	}
	s.receiveFrom(d)
}

// receiveFrom has what the application receives come from an attempt directly.
func (s *stream) receiveFrom(a *attempt) {
	s.mu.Lock()
	s.recvFrom.Store(a)
	s.answered = true
	s.reply, a.reply = nil, nil // they are the application's
	gone, err := a.over, a.overErr
	s.changed.Broadcast()
	s.mu.Unlock()
	if gone {
		s.endWith(a, err)
	}
}

// commitLocked keeps an attempt whatever becomes of it. All others are cancelled.
// Observers are told by tellCommit.
func (s *stream) commitLocked(a *attempt, why CommitReason) {
	if s.kept != nil || s.state >= streamEnding {
		return
	}
	s.kept = a
	s.course.commit(a.Number, why)
	if s.watching != nil {
		s.watching.committedAt = time.Now()
		s.untold.Store(true)
	}
	if s.joined && !s.over {
		s.cancelledLocked(time.Now())
		s.stopLocked()
	}
	a.alive = true
	if a.watch != nil {
		a.watch.retire()
	}
	s.log.Forget(a.cursor)
	s.handOverLocked(a)
	s.drainBesideLocked(a)
	s.becomeLocked(streamCommitted)
}

// tellCommit tells observers that the stream is committed, if they do not know.
func (s *stream) tellCommit() {
	if !s.untold.Load() {
		return
	}
	s.telling.Lock()
	defer s.telling.Unlock()
	if !s.untold.Swap(false) {
		return
	}
	s.mu.Lock()
	s.timeline.Committed, s.timeline.CommittedAt = s.keptFor, s.watching.committedAt
	s.mu.Unlock()
	s.observe(s.ctx, Event{Kind: CallCommitted, Time: s.timeline.CommittedAt, Timeline: s.timeline})
}
