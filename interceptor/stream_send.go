package interceptor

import (
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/internal/replay"
)

// SendMsg returns when an attempt has sent the message, or the stream is over.
func (s *stream) SendMsg(m any) error {
	if a := s.sendTo.Load(); a != nil {
		return s.sentDirect(a, a.stream.SendMsg(m))
	}
	defer s.tellCommit()
	err := s.sendLogged(m)
	if errors.Is(err, io.EOF) && !s.desc.ClientStreams {
		return nil // as grpc has it
	}
	return err
}

// sentDirect returns what the application is told of a message that was sent to the attempt
// that is kept. If grpc has refused it that ends the stream, and so the call.
func (s *stream) sentDirect(a *attempt, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	s.confirmEndHere(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hasEndedLocked(a) || s.isEmptyEndLocked(a) { // an interceptor below has refused it, or RecvMsg is to tell the end
		return err
	}
	switch {
	case a.over:
	case s.recvFrom.Load() == a: // an interceptor below keeps the end from rego
		s.unlocked(func() { s.endWith(a, err) })
	default:
		s.brokeLocked(a, err)
		s.changed.Broadcast()
	}
	s.waitLocked(func() bool { return s.state == streamEnded })
	if s.err == nil || s.err.Error() != err.Error() { // it had ended before
		return err
	}
	return s.err
}

// sendLogged keeps the message for attempts to come, and waits until one has sent
// it. What does not fit the log is for the attempt that has come furthest, and for
// no other.
func (s *stream) sendLogged(m any) error {
	op, keeps := s.log.Pending(m)
	if s.hedged {
		op, keeps = s.log.Encode(m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waitBeginsLocked()
	defer s.waitEndsLocked()
	place := -1       // in the log
	var refused error // what an interceptor below says to the message
	for {
		direct := s.sendTo.Load()
		switch {
		case s.panicked != nil:
			s.panicked.rethrow()
		case refused != nil:
			return refused
		case place < 0 && (direct != nil || s.state >= streamEnding || s.isCompleteLocked() && (s.closedLocked() != nil || !s.desc.ClientStreams)):
			return s.sendUnlogged(m, op)
		case place >= 0 && place < s.sent:
			return nil
		case s.state >= streamEnding:
			return s.sendErrorLocked()
		case s.kept != nil && s.kept.broken != nil && errors.Is(s.kept.broken, io.EOF):
			return io.EOF
		case place < 0 && s.kept == nil && !s.isClosedLocked() && keeps:
			var at int
			if at, keeps = s.keepLocked(m, op); keeps {
				place = at
				_, refused = s.pushLocked(place, m)
			}
		case place < 0 && s.kept == nil && !s.isClosedLocked() && s.furthestLocked() != nil:
			s.commitLocked(s.furthestLocked(), CommitBufferFull)
		case s.kept == nil && s.brokenLocked() != nil:
			s.commitLocked(s.brokenLocked(), CommitHeader)
		default:
			var pushed bool
			if pushed, refused = s.pushLocked(place, m); !pushed {
				s.changed.Wait()
			}
		}
	}
}

// sendUnlogged is for a message that no attempt but one can take: because that is kept,
// or has ended, or CloseSend was called before, which grpc refuses by itself.
func (s *stream) sendUnlogged(m any, op replay.Op) error {
	defer op.Free()
	a := s.sendTo.Load()
	if a == nil && s.state >= streamEnding {
		a = s.decided
	} else if a == nil {
		if a = s.closedLocked(); a != nil { // grpc ends it for that, and so the call
			s.commitLocked(a, CommitSendRefused)
		}
	}
	switch {
	case a != nil && a.stream != nil && !s.neverClosed:
		var err error
		s.unlocked(func() {
			if op.IsEncoded() { // which is to be done once
				err = op.SendTo(a.stream, &a.codec, m)
			} else {
				err = a.stream.SendMsg(m)
			}
			err = s.sentDirect(a, err)
		})
		return err
	case s.isCompleteLocked():
		return status.Error(codes.Internal, "SendMsg called after CloseSend")
	}
	return io.EOF
}

// isCompleteLocked reports whether no attempt can take another message: of a server stream
// the first is the last.
func (s *stream) isCompleteLocked() bool {
	return s.isClosedLocked() || !s.desc.ClientStreams && s.log.Len() > 0
}

// isClosedLocked reports whether the application has called CloseSend.
func (s *stream) isClosedLocked() bool { return s.log.IsClosed() || s.neverClosed }

// closedLocked returns an attempt that has sent all, and CloseSend.
func (s *stream) closedLocked() *attempt {
	for _, a := range s.live {
		if a.cursor == s.log.Len() {
			return a
		}
	}
	return nil
}

// sendErrorLocked is what SendMsg returns of a stream that has ended meanwhile: the end
// itself if that is what SendMsg was told.
func (s *stream) sendErrorLocked() error {
	for s.state != streamEnded {
		s.changed.Wait()
	}
	d := s.decided
	switch {
	case d == nil || d.streamAttempt == nil || d.broken == nil || errors.Is(d.broken, io.EOF):
		return io.EOF
	case s.err != nil && s.err.Error() == d.broken.Error():
		return s.err
	}
	return d.broken // by an interceptor below, and grpc has ended otherwise
}

// keepLocked puts a message into the log, if it fits.
func (s *stream) keepLocked(m any, op replay.Op) (place int, fits bool) {
	place, fits = s.log.Append(op)
	if fits && s.resume != nil && s.request == nil {
		s.request = m
	}
	return place, fits
}

// furthestLocked returns the attempt that has sent most of the log, nil if none can
// be told.
func (s *stream) furthestLocked() (furthest *attempt) {
	for _, a := range s.live {
		switch {
		case a.dropped, a.broken != nil && !a.headerArrived: // it will be over in an instant
		case furthest == nil, furthest.broken != nil && a.broken == nil,
			a.cursor > furthest.cursor && a.broken == nil:
			furthest = a
		}
	}
	return furthest
}

// CloseSend returns what an interceptor below says to it, if that is told at once.
func (s *stream) CloseSend() error {
	if a := s.sendTo.Load(); a != nil {
		return a.stream.CloseSend()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.sendTo.Load()
	switch {
	case a != nil:
		var err error
		s.unlocked(func() { err = a.stream.CloseSend() })
		return err
	case s.state == streamEnded && s.decided != nil && s.decided.stream != nil:
		var err error
		s.unlocked(func() { err = s.decided.stream.CloseSend() })
		return err
	case s.state >= streamEnding, !s.isClosedLocked() && s.ctx.Err() != nil: // what is cancelled is not complete
		s.neverClosed = true
		return nil
	case s.isClosedLocked():
		return nil
	}
	s.log.Close()
	_, refused := s.pushLocked(-1, nil)
	return refused
}
