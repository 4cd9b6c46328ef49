package interceptor

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What grpc says of the end of an attempt's stream, or an interceptor below instead of it.

// onDone is what grpc tells when the stream of an attempt has ended, and what it
// writes is written. An attempt that the stream is committed to and that has had
// its first message ends the call.
func (s *stream) onDone(a *attempt, err error) {
	a.outputs.onFinish(err)
	if s.endsInTime {
		s.ended(a, err)
		return
	}
	s.mu.Lock()
	a.toldErr = err
	a.told.Store(true) // before it looks who receives: one of the two sees the other
	isOpen, receives := a.stream != nil, a.receives.Load()
	a.unconfirmed = receives
	s.mu.Unlock()
	switch {
	case !isOpen:
		s.ended(a, err)
	case !receives: // else it will turn out by what is received
		s.confirmEnd(a)
	}
}

// confirmEnd finds out whether what grpc has told is the end of an attempt. An interceptor below may
// open several streams for one: to try, to shadow, or with a new token. Only the one that the attempt
// has in the end counts, and its context ends with it.
func (s *stream) confirmEnd(a *attempt) {
	context.AfterFunc(a.stream.Context(), func() {
		s.mu.Lock()
		err, receives := a.toldErr, a.receives.Load()
		a.unconfirmed = receives
		s.mu.Unlock()
		if !receives {
			s.ended(a, err)
		}
	})
}

// confirmEndHere does so on this goroutine, for who is about to tell the application.
func (s *stream) confirmEndHere(a *attempt) {
	if !a.told.Load() {
		return
	}
	s.mu.Lock()
	err, receives := a.toldErr, a.receives.Load() || s.receiving
	s.mu.Unlock()
	if receives || a.stream.Context().Err() == nil {
		return
	}
	s.ended(a, err)
	if s.recvFrom.Load() == a { // perhaps confirmEnd is just ending it
		s.endWith(a, err)
	}
}

// receive receives from the stream of an attempt. What grpc tells meanwhile is the end of the
// attempt if it is what comes of this, or if the context of the stream has ended.
func (s *stream) receive(a *attempt, m any) error {
	if s.endsInTime {
		return a.stream.RecvMsg(m)
	}
	a.receives.Store(true)
	defer s.hasReceived(a)
	err := a.stream.RecvMsg(m)
	if !a.told.Load() {
		return err
	}
	isMessage := err == nil && s.desc.ServerStreams
	isOver := !isMessage && a.stream.Context().Err() != nil
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case isMessage:
		a.over, a.overErr = false, nil
	case !a.over && (isOver || isSameEnd(err, a.toldErr)):
		a.over, a.overErr, a.unconfirmed = true, a.toldErr, false
		s.changed.Broadcast()
	}
	return err
}

// hasReceived is called when RecvMsg has returned.
func (s *stream) hasReceived(a *attempt) {
	a.receives.Store(false)
	if !a.told.Load() {
		return
	}
	s.mu.Lock()
	unconfirmed := a.unconfirmed
	a.unconfirmed = false
	s.mu.Unlock()
	if unconfirmed {
		s.confirmEnd(a)
	}
}

// isSameEnd reports whether what RecvMsg has returned is what grpc has told of an end.
func isSameEnd(received, told error) bool {
	if errors.Is(received, io.EOF) {
		received = nil
	}
	if errors.Is(received, told) {
		return true
	}
	got, want := statusOf(received), statusOf(told)
	return got.Code() == want.Code() && got.Message() == want.Message()
}

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
		if s.isEmptyEndLocked(a) { // which waits for RecvMsg, and grpc does not tell again when the caller leaves
			s.wakeLocked(a)
		}
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	if ends {
		s.endWith(a, err)
	}
}

// wakeLocked has who waits for an attempt look again when the caller leaves.
func (s *stream) wakeLocked(a *attempt) {
	if a.stopCallerWatch != nil {
		a.stopCallerWatch()
	}
	a.stopCallerWatch = context.AfterFunc(s.ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
}

// callerLeft is told that the caller has left. grpc then ends the stream in an instant, and says
// so, unless an interceptor below has kept that to itself: then nobody else tells.
func (s *stream) callerLeft(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !a.over && a.stopCallerWatch != nil {
		err := status.FromContextError(s.ctx.Err()).Err()
		a.lateEnd = time.AfterFunc(endTimeout, func() { s.ended(a, err) })
	}
}

// endTimeout is how long an attempt may be over without a word from grpc.
const endTimeout = time.Second

// finishLocked waits, after an attempt has returned its last message or an error, until
// grpc has written all that it writes of it. It may just be doing that on another
// goroutine: on its own, after the context has ended, or on one that sends.
func (s *stream) finishLocked(a *attempt, err error) {
	if !a.over && (s.endsInTime && !isSecondAnswer(err) || s.isTold(a) && s.hasEndedLocked(a)) {
		s.awaitEndLocked(a)
	}
	a.finished = true
}

// isSecondAnswer reports whether grpc has refused a second message where there may be one.
// It does so without ending the stream.
func isSecondAnswer(err error) bool {
	st := statusOf(err)
	return st.Code() == codes.Internal && strings.HasPrefix(st.Message(), "cardinality violation: expected <EOF>")
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
	t := time.AfterFunc(endTimeout, func() {
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
		s.plan.method.hidesEnds.Store(true)
	}
}

// hasEndedLocked reports whether grpc has ended the stream of an attempt, or is about to:
// its context has ended, if grpc's word of it does not reach rego.
func (s *stream) hasEndedLocked(a *attempt) bool {
	return a.over || !s.isOpenLocked(a)
}

// isOpenLocked reports whether grpc has not ended the stream of an attempt.
func (s *stream) isOpenLocked(a *attempt) bool {
	var err error
	s.unlocked(func() { err = a.stream.Context().Err() })
	return err == nil
}

// isUnansweredLocked reports whether the clean end of a stream is none. grpc-go v1.85
// at times, once in some 100,000 connections that are cut, reports one of a stream
// that nothing was received of. A server that ends a stream has sent a content-type,
// in the header or, without one, in the trailer. Other transports than grpc's have none.
func (s *stream) isUnansweredLocked(a *attempt) bool {
	if !a.over && s.isTold(a) || a.overErr != nil {
		return false // an interceptor below says so
	}
	if w, done := a.outputs.read(); !s.endsInTime && !a.codec.Met() && (!done || w.peer.Addr == nil) {
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
