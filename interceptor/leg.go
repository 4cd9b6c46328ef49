package interceptor

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// leg is what an attempt of a stream has besides: how far it has come.
type leg struct {
	codec   attemptCodec
	openErr error
	tried   bool // it is open, or cannot be opened
	eof     bool // it ended well without a message

	// Guarded by the call's mu.
	cursor   int   // of the replay log: what it has sent
	draining bool  // a goroutine is sending
	broken   error // what SendMsg returned; then nothing more is sent
	ends     error // how that ends the attempt, unless it is io.EOF

	looking  bool // somebody waits for its header
	looked   bool // and has seen that there is one, or none
	headed   bool // it has arrived
	head     metadata.MD
	over     bool // grpc has ended it
	overErr  error
	toldOnce bool            // rego has seen its end, and grpc does not tell it again
	mute     bool            // its header does not come, though it takes no more messages
	probing  bool            // it takes no more messages, and rego looks for the reason
	early    mem.BufferSlice // which was an answer, before all was sent

	watch   *overdue    // over the attempt timeout; nil without one
	forsake func() bool // stops looking after an attempt that the caller leaves; nil if nobody does
	lateEnd *time.Timer // takes it for over then, without a word from grpc
}

// make makes an attempt until its first message, or until it ends without one. What
// the application sent meanwhile is replayed.
func (s *stream) make(ctx context.Context, a *attempt) error {
	if !a.tried {
		s.openLeg(ctx, a)
	}
	if a.watch != nil {
		defer a.watch.stop()
	}
	if a.openErr != nil {
		return a.openErr
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.firstMessageLocked(a)
	if errors.Is(err, io.EOF) && s.isUnansweredLocked(a) {
		err = errUnanswered
	}
	a.goesOn = err == nil && s.desc.ServerStreams
	a.eof = errors.Is(err, io.EOF)
	if !a.goesOn {
		s.retireLocked(a)
		for a.draining && a.over {
			s.changed.Wait()
		}
	}
	if err == nil || a.eof {
		return nil
	}
	if errors.Is(err, errDropped) {
		return status.FromContextError(context.Canceled).Err()
	}
	return err
}

// firstMessageLocked waits until the application wants a message and the attempt has one,
// or the attempt has ended.
func (s *stream) firstMessageLocked(a *attempt) error {
	for {
		switch {
		case s.torn != nil:
			return errDropped
		case a.ends != nil && !errors.Is(a.ends, io.EOF):
			return a.ends
		case a.probing: // grpc may have told that it is over, and what was received is yet to come
		case a.early != nil && s.reply != nil:
			return s.takeEarlyLocked(a)
		case s.hedged && s.endsInTime && !a.looking && !a.over: // who is hedged wants to know whether it is alive
			s.lookCloselyLocked(a)
			continue
		case s.mayReceiveLocked(a) && !a.dropped:
			err := s.receiveFirstLocked(a)
			if a.ends != nil && !errors.Is(a.ends, io.EOF) {
				return a.ends
			}
			return err
		case a.over && a.overErr != nil:
			return a.overErr
		case a.over && !s.isEmptyEndLocked(a):
			return io.EOF
		case a.over && s.ctx.Err() != nil:
			return status.FromContextError(s.ctx.Err()).Err()
		case a.dropped:
			return errDropped
		}
		s.changed.Wait()
	}
}

// mayReceiveLocked reports whether there is something to receive into. If it is for one
// attempt only, that is the one whose header comes first.
func (s *stream) mayReceiveLocked(a *attempt) bool {
	return s.reply != nil && !a.probing && a.early == nil && (!s.lastHedge || a.looked || !s.besideLocked(a)) &&
		!(s.endsInTime && a.looking && !a.looked) // grpc would write its binary log from both
}

// receiveFirstLocked receives the first message: the lead into what the application gave,
// others into one of their own.
func (s *stream) receiveFirstLocked(a *attempt) error {
	switch {
	case s.lastHedge && s.besideLocked(a):
		s.commitLocked(a, CommitMessageType)
		fallthrough
	case a == s.lead, s.lastHedge:
		a.reply = s.reply
	default:
		a.reply, a.ownReply = s.replies.make(), true
	}
	var err error
	s.unlocked(func() {
		s.tellCommit()
		err = a.stream.RecvMsg(a.reply)
	})
	if err != nil || !s.desc.ServerStreams {
		s.settleLocked(a)
	}
	return err
}

// settleLocked waits, after an attempt has returned its last message or an error, until
// grpc has written all that it writes of it. It may just be doing that on another
// goroutine: on its own, after the context has ended, or on one that sends.
func (s *stream) settleLocked(a *attempt) {
	switch {
	case a.over:
	case s.endsInTime && s.desc.ServerStreams, s.isTold(a) && s.hasEndedLocked(a):
		s.awaitEndLocked(a)
	} // else a message too many, which grpc refuses without an end, or an interceptor below ends by itself
	a.settled = true
}

// awaitEndLocked waits until grpc has said that an attempt is over, which is a matter of an
// instant. An interceptor below may have taken the option by which it does.
func (s *stream) awaitEndLocked(a *attempt) {
	if s.endsInTime {
		for !a.over {
			s.changed.Wait()
		}
		return
	}
	late := false
	t := time.AfterFunc(untold, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		late = true
		s.changed.Broadcast()
	})
	defer t.Stop()
	for !a.over && !late {
		s.changed.Wait()
	}
	if !a.over {
		s.plan.method.untold.Store(true)
	}
}

// hasEndedLocked reports whether grpc has ended the stream of an attempt, or is about to:
// its context has ended, if grpc's word of it does not reach rego.
func (s *stream) hasEndedLocked(a *attempt) bool {
	if a.over {
		return true
	}
	return !s.isOpenLocked(a)
}

// isUnansweredLocked reports whether the clean end of a stream is none. grpc-go v1.85
// at times, once in some 100,000 connections that are cut, reports one of a stream
// that nothing was received of. A server that ends a stream has sent a content-type,
// in the header or, without one, in the trailer. Other transports than grpc's have none.
func (s *stream) isUnansweredLocked(a *attempt) bool {
	if !a.over && s.isTold(a) || a.overErr != nil {
		return false // an interceptor below says so
	}
	if w, done := a.outputs.read(); !s.endsInTime && !a.codec.met.Load() && (!done || w.peer.Addr == nil) {
		return false
	}
	unanswered := false
	s.unlocked(func() {
		head, _ := a.stream.Header()
		unanswered = len(head) == 0 && len(a.stream.Trailer()) == 0
	})
	return unanswered
}

var errUnanswered = status.Error(codes.Unavailable, "rego: the stream ended without an answer from the server")

// errDropped is how an attempt ends that its call has cancelled before it was known
// what to receive into. Its stream ends by itself. It is no status, since those are
// equal to others with the same text.
var errDropped = errors.New("rego: the attempt was dropped")

// openLeg opens the stream of an attempt, which may wait for a connection.
func (s *stream) openLeg(ctx context.Context, a *attempt) {
	opts := slices.Clip(a.opts)
	if !s.endsInTime {
		opts = slices.Clone(a.opts) // an interceptor below may change them
	}
	if after := s.attemptTimeout(a); after > 0 {
		e := withExpiry(ctx)
		ctx = e
		s.mu.Lock()
		a.watch = s.watchOver(a, after, e)
		s.mu.Unlock()
	}
	cs, err := s.streamer(ctx, s.desc, s.conn, s.method, opts...)
	s.mu.Lock()
	defer s.mu.Unlock()
	a.tried, a.stream, a.openErr, a.open = true, cs, err, err == nil
	if err == nil {
		if a.over && s.isOpenLocked(a) { // that was another one, which an interceptor below could not open
			a.over, a.overErr = false, nil
		}
		s.live = append(s.live, a)
		s.newest = a
		if s.state == streamOpening {
			s.becomeLocked(streamRacing)
		}
		if s.waiting == 0 && a.watch != nil {
			a.watch.rest()
		}
		if !s.endsInTime {
			a.forsake = context.AfterFunc(s.ctx, func() { s.onGone(a) })
		}
		if s.desc.ClientStreams && s.course.isLast(a.Number) && !s.alone { // nothing need be kept
			s.commitLocked(a, CommitOneAttempt)
		}
		s.drainBesideLocked(a)
		if a.watch != nil && !s.alone || s.hedged && !s.endsInTime {
			s.lookBesideLocked(a)
		}
	}
	s.changed.Broadcast()
}

// isOpenLocked reports whether grpc has not ended the stream of an attempt.
func (s *stream) isOpenLocked(a *attempt) bool {
	var err error
	s.unlocked(func() { err = a.stream.Context().Err() })
	return err == nil
}

// lookBesideLocked has a goroutine wait for the attempt's header, unless one does. An
// attempt that ends without one has a status at once, and can be replaced while the
// application still sends.
func (s *stream) lookBesideLocked(a *attempt) {
	if a.looking && !s.canProbeLocked(a) {
		return
	}
	a.looking = true
	go func() {
		returned := false
		defer s.catchBeside(&returned)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lookCloselyLocked(a)
		returned = true
	}()
}

func (s *stream) lookCloselyLocked(a *attempt) {
	if !a.looked {
		s.lookLocked(a)
	}
	if s.canProbeLocked(a) {
		s.probeLocked(a)
	}
}

func (s *stream) canProbeLocked(a *attempt) bool {
	return s.endsInTime && s.desc.ClientStreams && a.headed && errors.Is(a.broken, io.EOF) &&
		!a.over && !a.probing && a.early == nil && s.reply == nil && s.kept == nil
}

// lookLocked waits for the attempt's header, or its end. Header never tells how a stream
// has ended: OnFinish does.
func (s *stream) lookLocked(a *attempt) {
	a.looking = true
	var head metadata.MD
	s.unlocked(func() { head, _ = a.stream.Header() })
	a.looked = true
	if head != nil {
		a.headed, a.head = true, head
		if a.watch != nil {
			a.watch.retire()
		}
		s.isAliveLocked()
		if a.hasHeader = true; s.course.headerCommits(&a.attemptState) {
			s.commitLocked(a, CommitHeader)
		}
	}
	s.changed.Broadcast()
}

// probeLocked finds out why an attempt takes no more messages though its header has come:
// it has failed, or answered before all was sent. Nobody knows yet what an answer is to be
// received into, so it is taken as it is. That works with grpc alone: an interceptor below,
// or another transport, may want to know the type.
func (s *stream) probeLocked(a *attempt) {
	a.probing = true
	var answer answerBytes
	var err error
	s.unlocked(func() { err = a.stream.RecvMsg(&answer) })
	if a.probing = false; err == nil {
		a.early = answer.data
		a.forsake = context.AfterFunc(s.ctx, func() { // grpc has told already that it is over
			s.mu.Lock()
			defer s.mu.Unlock()
			s.changed.Broadcast()
		})
	} else {
		a.toldOnce = true
		if !a.over { // one message too many, which grpc refuses without an end
			a.ends = err
			s.startEngineLocked()
		}
	}
	s.changed.Broadcast()
}

// takeEarlyLocked receives what probeLocked has found.
func (s *stream) takeEarlyLocked(a *attempt) error {
	a.reply = s.reply
	if a != s.lead && !s.lastHedge {
		a.reply, a.ownReply = s.replies.make(), true
	}
	err := s.readEarlyLocked(a, a.reply)
	if err == nil && !s.desc.ServerStreams {
		s.settleLocked(a)
	}
	return err
}

// readEarlyLocked reads it into a message.
func (s *stream) readEarlyLocked(a *attempt, m any) error {
	data := a.early
	a.early = nil
	var err error
	s.unlocked(func() {
		defer data.Free()
		err = s.codec.Unmarshal(data, m)
	})
	if err != nil {
		return status.Errorf(codes.Internal, "grpc: failed to unmarshal the received message: %v", err)
	}
	return nil
}

// isAliveLocked: a server stream whose header has arrived is not slow because it has
// nothing to tell.
func (s *stream) isAliveLocked() {
	if s.desc.ServerStreams {
		s.course.isAlive()
	}
}

// besideLocked reports whether another attempt is under way.
func (s *stream) besideLocked(a *attempt) bool {
	return slices.ContainsFunc(s.running, func(r *attempt) bool { return r != nil && r != a })
}

// retireLocked takes an attempt out of those that are sent to.
func (s *stream) retireLocked(a *attempt) {
	s.live = slices.DeleteFunc(s.live, func(l *attempt) bool { return l == a })
	if a.forsake != nil {
		a.forsake()
		a.forsake = nil
	}
	if a.lateEnd != nil {
		a.lateEnd.Stop()
	}
}

// onDone is what grpc tells when the stream of an attempt has ended, and what it
// writes is written. An attempt that the stream is committed to and that has had
// its first message ends the call.
func (s *stream) onDone(a *attempt, err error) {
	a.outputs.onFinish(err)
	s.ended(a, err)
}

// onGone is told that the caller has left. grpc then ends the stream in an instant, and says
// so, unless an interceptor below has kept the options of the attempt to itself: then
// nobody else tells.
func (s *stream) onGone(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !a.codec.met.Load() && !a.over && a.forsake != nil {
		err := status.FromContextError(s.ctx.Err()).Err()
		a.lateEnd = time.AfterFunc(untold, func() { s.ended(a, err) })
	}
}

// untold is how long an attempt may be over without a word from grpc.
const untold = time.Second

// ended takes in that the stream of an attempt has ended.
func (s *stream) ended(a *attempt, err error) {
	s.mu.Lock()
	if a.over {
		s.mu.Unlock()
		return
	}
	a.over, a.overErr = true, err
	ends := s.recvFrom.Load() == a && !s.receiving
	if !ends {
		s.startEngineLocked()
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	if ends {
		s.endWith(a, err)
	}
}

// address returns what the attempt was sent to.
func (a *attempt) address() net.Addr {
	if a.stream == nil || a.settled || a.got.peer.Addr != nil {
		return a.got.peer.Addr
	}
	if p, ok := peer.FromContext(a.stream.Context()); ok {
		return p.Addr
	}
	return nil
}

// setStreamOptions makes the options of an attempt: the private ones, and then those that
// every attempt has. The codec stands after these, so that it is the one that counts, and
// OnFinish last, after all that is written.
func (s *stream) setStreamOptions(a *attempt, room []grpc.CallOption) {
	a.opts = a.outputs.appendTo(room[:0])[:privateOutputs-1] // OnFinish is another one
	a.opts = append(a.opts, s.shared...)
	if a.codec.codec = s.codec; s.codec != nil {
		a.codec.option.CodecV2 = &a.codec
		a.opts = append(a.opts, &a.codec.option)
	}
	if a.outputs.apart && s.wantsOutput {
		s.offerOutputs(a)
	}
	a.opts = append(a.opts, grpc.OnFinishCallOption{OnFinish: func(err error) { s.onDone(a, err) }})
}
