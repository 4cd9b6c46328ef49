package interceptor

import (
	"errors"
	"io"

	"google.golang.org/protobuf/proto"
)

// SendMsg returns when an attempt has sent the message, or the stream is over.
func (s *stream) SendMsg(m any) error {
	if a := s.sendTo.Load(); a != nil {
		return s.sendDirect(a, m)
	}
	err := s.sendLogged(m)
	if errors.Is(err, io.EOF) && !s.desc.ClientStreams {
		return nil // as grpc has it
	}
	return err
}

// sendDirect sends to the attempt that is kept.
func (s *stream) sendDirect(a *attempt, m any) error {
	err := a.stream.SendMsg(m)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if s.recvFrom.Load() == a { // else the engine ends the call
		s.end(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.broken = err
	s.startEngineLocked()
	s.changed.Broadcast()
	s.waitLocked(func() bool { return s.ended })
	return s.err
}

// sendLogged keeps the message for attempts to come, and waits until one has sent
// it. What does not fit the log is for the attempt that has come furthest, and for
// no other.
func (s *stream) sendLogged(m any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waitsLocked()
	defer s.waitedLocked()
	place := -1 // in the log
	full := false
	for {
		a := s.sendTo.Load()
		switch {
		case s.torn != nil:
			s.torn.again()
		case a != nil && place < 0:
			s.mu.Unlock()
			defer s.mu.Lock()
			return s.sendDirect(a, m)
		case a != nil && a.broken == nil:
			return nil
		case a != nil && errors.Is(a.broken, io.EOF), s.ended && (s.decided.broken == nil || errors.Is(s.decided.broken, io.EOF)):
			return io.EOF
		case s.ended:
			return s.err
		case place < 0 && !full && s.kept == nil:
			if full = !s.keepLocked(m); !full {
				place = len(s.log.ops) - 1
			}
		case place >= 0 && s.sentLocked(place):
			return nil
		case full && s.kept == nil && s.furthestLocked() != nil:
			s.commitLocked(s.furthestLocked(), CommitBufferFull)
		case !s.pushLocked():
			s.changed.Wait()
		}
	}
}

// keepLocked puts a message into the log, if it fits.
func (s *stream) keepLocked(m any) bool {
	if s.said.cloneMessages {
		p, ok := m.(proto.Message)
		if !ok {
			return false
		}
		m = proto.Clone(p)
	}
	if s.resume != nil && s.request == nil {
		s.request = m
	}
	return s.log.add(m)
}

// sentLocked reports whether an attempt has sent what is at a place of the log. One
// whose stream broke after its header takes all: why it broke is known only when
// the application receives.
func (s *stream) sentLocked(place int) bool {
	for _, a := range s.live {
		if a.cursor > place || errors.Is(a.broken, io.EOF) && a.headed {
			return true
		}
	}
	return false
}

// furthestLocked returns the attempt that has sent most of the log, nil if none can
// be told.
func (s *stream) furthestLocked() (furthest *attempt) {
	for _, a := range s.live {
		switch {
		case a.dropped, a.broken != nil && !a.headed: // it will be over in an instant
		case furthest == nil, furthest.broken != nil && a.broken == nil,
			a.cursor > furthest.cursor && a.broken == nil:
			furthest = a
		}
	}
	return furthest
}

// pushLocked has attempts send what they have not sent. Without hedging this
// goroutine does it, and pushLocked reports whether there was something.
func (s *stream) pushLocked() bool {
	for _, a := range s.live {
		switch {
		case s.hedged:
			s.drainBesideLocked(a)
		case !a.draining && s.wantsOpLocked(a):
			s.drainLocked(a)
			return true
		}
	}
	return false
}

// CloseSend never fails.
func (s *stream) CloseSend() error {
	if a := s.sendTo.Load(); a != nil {
		return a.stream.CloseSend()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log.closed || s.ended {
		return nil
	}
	s.log.closeSend() // an attempt that is kept, and not handed over, is still draining it
	s.pushLocked()
	return nil
}

// handOverLocked has the application send to the attempt that is kept, once that
// has sent all there was in the log.
func (s *stream) handOverLocked(a *attempt) {
	if a == s.kept && !s.wantsOpLocked(a) {
		s.sendTo.Store(a)
	}
}

// drainBesideLocked has a goroutine send what the attempt has not sent, unless one
// does already. It ends when it has sent all, or the attempt has ended.
func (s *stream) drainBesideLocked(a *attempt) {
	if a.draining || !s.wantsOpLocked(a) {
		return
	}
	a.draining = true
	go func() {
		returned := false
		defer s.catchDrain(&returned)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drainLocked(a)
		returned = true
	}()
}

// drainLocked sends what the attempt has not sent. One goroutine at a time does.
func (s *stream) drainLocked(a *attempt) {
	a.draining = true
	defer func() {
		a.draining = false
		s.handOverLocked(a)
		s.changed.Broadcast()
	}()
	for s.wantsOpLocked(a) {
		op := s.log.ops[a.cursor]
		if err := s.sendUnlocked(a, op); err != nil {
			a.broken = err
			s.startEngineLocked()
			return
		}
		a.cursor++
		if a == s.kept {
			s.log.forget(a.cursor)
		}
		s.changed.Broadcast()
	}
}

func (s *stream) wantsOpLocked(a *attempt) bool {
	return a.cursor < len(s.log.ops) && a.broken == nil && !a.dropped
}

func (s *stream) sendUnlocked(a *attempt, op sendOp) error {
	s.mu.Unlock()
	defer s.mu.Lock()
	if op.close {
		return a.stream.CloseSend()
	}
	return a.stream.SendMsg(op.msg)
}

// catchDrain does so for a goroutine that sends.
func (s *stream) catchDrain(returned *bool) {
	if *returned {
		return
	}
	t := s.newTear(recover())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.torn = t
	for _, a := range s.live {
		if a.cancel != nil {
			a.cancel()
		}
	}
	s.changed.Broadcast()
}
