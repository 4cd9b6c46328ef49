package interceptor

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/classify"
)

// stream is a streaming call: a log of what the application sent, and attempts that
// read it, each at its own pace. They are made and decided as those of a unary
// call are, the first message in the place of the reply, by the stream's engine:
// a goroutine of its own or, if nothing is to be done before, the application's
// own in its first RecvMsg. When that has its message the stream is committed to the
// attempt that it is from. The engine ends and the log is given up, and what the
// application does from then on goes straight to that attempt's stream.
type stream struct {
	call
	desc     *grpc.StreamDesc
	streamer grpc.Streamer

	sendTo   atomic.Pointer[attempt] // what SendMsg and CloseSend go to, once all in the log is sent
	recvFrom atomic.Pointer[attempt] // what RecvMsg goes to, once it has had its first message

	// Guarded by mu, as is the log.
	log         replayLog
	live        []*attempt // that are open and have not had their first message
	opened      bool       // one has been
	idle        bool       // there is no engine yet
	headerAsked bool       // Header was called
	waiting     int        // goroutines of the application that wait
	answered    bool       // the first RecvMsg has its result
	ending      bool       // grpc has told of the end of the stream
	ended       bool       // so has the call
	err         error      // of the call, once it has ended

	first struct { // of the original
		leg
		outputs
		options [4]grpc.CallOption
	}
	oneLive [1]*attempt
	once    sync.Once
	resumption
}

func newStream(d *door, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer) *stream {
	s := &stream{desc: desc, streamer: streamer}
	s.door, s.method, s.conn = d, method, cc
	s.maker, s.streaming = s, true
	s.original.owner, s.original.leg, s.original.outputs = s, &s.first.leg, &s.first.outputs
	s.original.setOptions(s.first.options[:])
	s.changed.L = &s.mu
	s.live = s.oneLive[:0]
	s.said.replayLimit = d.interceptor.callReplayLimit
	s.said.cloneMessages = d.interceptor.cloneMessages
	return s
}

// start opens the stream of the first attempt on the caller's goroutine. If that
// fails, it returns when another one is open, or none can be.
func (s *stream) start(ctx context.Context) (grpc.ClientStream, error) {
	returned := false
	defer s.abandonUnless(&returned)
	s.log.limit, s.log.shared = s.said.replayLimit, &s.interceptor.replay
	s.fireFunc = s.fire
	s.begin(ctx)
	s.looksAtOK = s.looksAtOK && !s.desc.ServerStreams
	if s.desc.ServerStreams && !s.desc.ClientStreams {
		s.resume = s.said.resume
	}
	a := s.lead
	if s.hedged {
		s.leash(a)
	}
	s.openLeg(s.beginAttempt(a), a)
	returned = true
	if a.openErr == nil && s.isOnlyChance() {
		s.passThrough(a)
		return s, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = true
	if a.openErr == nil && !a.over && !s.desc.ClientStreams && !s.hedged {
		return s, nil // all that the engine could do is to wait for RecvMsg
	}
	s.startEngineLocked()
	if a.openErr == nil {
		return s, nil
	}
	s.waitLocked(func() bool { return s.opened || s.ended })
	if !s.opened {
		return nil, s.err
	}
	return s, nil
}

// isOnlyChance reports whether there is nothing to do for the stream but to look on.
func (s *stream) isOnlyChance() bool {
	alone := s.plan.maxAttempts == 1 || s.plan.retriesOff && !s.hedged
	return alone && s.attemptTimeout(s.lead) == 0
}

func (s *stream) passThrough(a *attempt) {
	a.goesOn = true
	s.decided = a
	s.mu.Lock()
	s.retireLocked(a)
	s.commitLocked(a, CommitOneAttempt)
	s.mu.Unlock()
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
	s.waitsLocked()
	defer s.waitedLocked()
	func() {
		s.mu.Unlock()
		defer s.mu.Lock()
		returned := false
		defer s.abandonUnless(&returned)
		s.answer(decide())
		returned = true
	}()
	if s.torn != nil { // a goroutine that was sending
		s.torn.again()
	}
}

// answer tells the application's first RecvMsg what has been decided.
func (s *stream) answer(reason EndReason, now time.Time) {
	d := s.decided
	if reason == EndSucceeded && !d.eof && d != s.lead && !s.lastHedge {
		s.plan.method.kindOf(s.reply).move(s.reply, d.reply)
	}
	if reason == EndSucceeded {
		s.mu.Lock()
		s.commitLocked(d, CommitAnswer)
		s.mu.Unlock()
	}
	if !d.goesOn {
		s.close(reason, now)
		s.giveOutputs()
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
	s.ending = a.over
	gone, err := a.over, a.overErr
	s.changed.Broadcast()
	s.mu.Unlock()
	if gone {
		s.end(err)
	}
}

// end ends a call that has been answered, with how its stream ended. It may be
// called more than once.
func (s *stream) end(err error) {
	s.endWith(func() (EndReason, time.Time) {
		a := s.decided
		s.concludeAttempt(a, err)
		if a.Outcome.Kind == classify.Success {
			return EndSucceeded, a.End
		}
		_, reason := s.next(a)
		return reason, a.End
	})
}

func (s *stream) endWith(how func() (EndReason, time.Time)) {
	first := false
	s.once.Do(func() {
		first = true
		s.close(how())
	})
	if first {
		s.giveOutputs()
	}
}

// concludeAttempt takes in how the stream of the attempt that was kept has ended.
func (s *stream) concludeAttempt(a *attempt, err error) {
	a.goesOn, a.settled = false, true
	a.got = &a.outputs.written
	a.End = time.Now()
	if err != nil && !errors.Is(err, io.EOF) {
		s.askChannel()
		s.examine(a, err)
		s.judge(a)
	} else {
		a.seen.Delivery = classify.DeliveryAnswered
		a.Outcome = classify.Outcome{Kind: classify.Success}
	}
	a.Result = a.result()
	a.lease.Release(a.leaseResult())
	s.record(a)
}

// close ends the call.
func (s *stream) close(reason EndReason, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = s.finish(reason, now)
	s.log.clear()
	s.answered, s.ended = true, true
	s.endContext()
	s.changed.Broadcast()
}

func (s *stream) giveOutputs() {
	s.output(s.err)
}

// commitLocked keeps an attempt whatever becomes of it. All others are cancelled.
func (s *stream) commitLocked(a *attempt, why CommitReason) {
	if s.kept != nil {
		return
	}
	s.kept = a
	s.course.commit(a.Number, why)
	if s.watched {
		s.telling.Lock()
		s.timeline.Committed, s.timeline.CommittedAt = why, time.Now()
		s.observe(s.ctx, Event{Kind: CallCommitted, Time: s.timeline.CommittedAt, Timeline: s.timeline})
		s.telling.Unlock()
	}
	if s.joined && !s.over {
		s.cancelledLocked(time.Now())
		s.stopLocked()
	}
	if s.attemptTimeout(a) == 0 {
		a.calm()
	}
	s.log.forget(a.cursor)
	s.handOverLocked(a)
	s.drainBesideLocked(a)
	s.changed.Broadcast()
}

// catchEngine keeps what tears the engine down for the application's goroutines.
func (s *stream) catchEngine(returned *bool) {
	if *returned {
		return
	}
	t := s.newTear(recover())
	s.mu.Lock()
	s.torn = t
	s.mu.Unlock()
	s.giveUp()
}

// abandonUnless is for what tears down a goroutine of the application that does
// what the engine does elsewhere.
func (s *stream) abandonUnless(returned *bool) {
	if !*returned {
		s.giveUp()
	}
}

// giveUp returns all that the call holds, unless it has ended.
func (s *stream) giveUp() {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended {
		return
	}
	s.abort()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.clear()
	s.endContext()
	s.answered, s.ended, s.err = true, true, errAbandoned
	s.changed.Broadcast()
}
