package interceptor

import (
	"errors"
	"io"
	"time"

	"github.com/rego-go/rego/classify"
)

// resumption lets a server stream go on in another attempt after messages were handed
// to the application (see [WithResume]). It is used by RecvMsg alone, but for what
// mu guards.
type resumption struct {
	resume    func(last, request any) (next any, ok bool) // nil without it
	request   any                                         // that the last attempt has sent
	last      any                                         // message that the application got
	receiving bool                                        // RecvMsg will find out how its stream has ended. Guarded by mu
}

// recvResumable receives from the attempt that is kept, and if its stream breaks
// goes on with another one.
func (s *stream) recvResumable(a *attempt, m any) error {
	ending := s.setReceiving(true)
	err := s.receive(a, m)
	if err == nil {
		s.setReceiving(false)
		s.last = m
		return nil
	}
	if ending || errors.Is(err, io.EOF) {
		return s.received(a, err)
	}
	returned := false
	defer s.abandonUnless(&returned)
	s.concludeAttempt(a, err)
	if !s.openResumed(a, m) {
		s.end(func() (EndReason, time.Time) {
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
	return s.firstResultLocked(m)
}

// setReceiving reports also whether it is too late, since the call has ended or is
// about to.
func (s *stream) setReceiving(r bool) (ending bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receiving = r
	return s.state >= streamEnding
}

// openResumed asks for the request that continues the stream, and makes the stream one
// that has sent it and waits for its first message. The part before has got on, so attempts
// and waits are counted anew.
func (s *stream) openResumed(broken *attempt, m any) bool {
	if broken.Outcome.Class != classify.Retryable {
		return false
	}
	next, ok := s.resume(s.last, s.request)
	if !ok || !s.startsOver(next) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resumed = true
	s.course.resume()
	s.backends.Renew(broken.Number)
	s.reply = m
	return true
}

// startsOver makes the stream one that has sent a request and is not committed.
func (s *stream) startsOver(request any) bool {
	op, keeps := s.log.Encode(request)
	if !keeps {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.log.Restart(op) {
		op.Free()
		return false
	}
	s.request = request
	s.kept, s.answered, s.receiving = nil, false, false
	s.sendTo.Store(nil)
	s.recvFrom.Store(nil)
	s.becomeLocked(streamRacing)
	return true
}

// decideAgain makes attempts after the one that has broken.
func (s *stream) decideAgain() (EndReason, time.Time) {
	if reason, now := s.again(); reason != EndUnfinished {
		return reason, now
	}
	return s.decide()
}
