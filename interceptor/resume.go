package interceptor

import (
	"errors"
	"io"
	"time"

	"github.com/rego-go/rego/classify"
)

// resumption lets a server stream go on in another leg after messages were handed
// to the application (see [WithResume]). It is used by RecvMsg alone, but for what
// mu guards.
type resumption struct {
	resume    func(last, request any) (next any, ok bool) // nil without it
	request   any                                         // that the last leg has sent
	last      any                                         // message that the application got
	receiving bool                                        // RecvMsg will find out how its stream has ended. Guarded by mu
}

// recvResumable receives from the attempt that is kept, and if its stream breaks
// goes on with another one.
func (s *stream) recvResumable(a *attempt, m any) error {
	ending := s.setReceiving(true)
	err := a.stream.RecvMsg(m)
	if err == nil {
		s.setReceiving(false)
		s.last = m
		return nil
	}
	if ending || errors.Is(err, io.EOF) {
		return s.received(err)
	}
	returned := false
	defer s.abandonUnless(&returned)
	s.concludeAttempt(a, err)
	if !s.nextLeg(a, m) {
		s.endWith(func() (EndReason, time.Time) {
			_, reason := s.next(a)
			return reason, a.End
		})
		returned = true
		return s.err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beEngineLocked(s.decideAgain)
	returned = true
	s.last = m
	return s.firstResultLocked()
}

// setReceiving reports also whether it is too late, since the call has ended or is
// about to.
func (s *stream) setReceiving(r bool) (ending bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receiving = r
	return s.ending || s.ended
}

// nextLeg asks for the request that continues the stream, and makes the stream one
// that has sent it and waits for its first message.
func (s *stream) nextLeg(broken *attempt, m any) bool {
	if broken.Outcome.Kind != classify.Retryable {
		return false
	}
	next, ok := s.resume(s.last, s.request)
	if !ok {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	log := replayLog{limit: s.log.limit, shared: s.log.shared}
	if !log.add(next) {
		return false
	}
	log.closeSend()
	s.log, s.request = log, next
	s.kept, s.resumed, s.answered, s.receiving = nil, true, false, false
	s.course.resume()
	s.sendTo.Store(nil)
	s.recvFrom.Store(nil)
	s.wantLocked(m)
	return true
}

// decideAgain makes attempts after the one that has broken.
func (s *stream) decideAgain() (EndReason, time.Time) {
	if reason, now := s.again(); reason != EndUnfinished {
		return reason, now
	}
	return s.decide()
}
