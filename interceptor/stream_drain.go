package interceptor

import (
	"cmp"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/rego-go/rego/internal/replay"
)

// pushLocked has attempts send what they have not sent. Without hedging this
// goroutine does it, and pushLocked reports whether there was something. What is at
// place is a message that the application is sending now.
func (s *stream) pushLocked(place int, m any) (pushed bool, refused error) {
	for _, a := range s.live {
		switch {
		case s.hedged:
			s.drainBesideLocked(a)
		case !a.draining && s.wantsOpLocked(a, place):
			return true, s.drainLocked(a, place, m)
		}
	}
	return false, nil
}

// wantsOpLocked reports whether there is something for an attempt to send: by whoever sends
// what is at place, if that is pending.
func (s *stream) wantsOpLocked(a *attempt, place int) bool {
	return a.cursor < s.log.Len() && a.broken == nil && !a.dropped && (!s.log.IsPending(a.cursor) || a.cursor == place)
}

// drainBesideLocked has a goroutine send what the attempt has not sent, unless one
// does already. It ends when it has sent all, or the attempt has ended.
func (s *stream) drainBesideLocked(a *attempt) {
	if a.draining || !s.wantsOpLocked(a, -1) {
		return
	}
	a.draining = true
	go func() {
		returned := false
		defer s.catchBeside(&returned)
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = s.drainLocked(a, -1, nil)
		returned = true
	}()
}

// drainLocked sends what the attempt has not sent. One goroutine at a time does. If it is
// the application's, which is sending m, place is where that is in the log. What an
// interceptor below says to that message is for the application, and the stream goes on, as
// bare; there is no other attempt then.
func (s *stream) drainLocked(a *attempt, place int, m any) (refused error) {
	a.draining = true
	defer func() {
		a.draining = false
		s.handOverLocked(a)
		s.changed.Broadcast()
	}()
	for s.wantsOpLocked(a, place) {
		var msg any
		if a.cursor == place {
			msg = m
		}
		op := s.log.Take(a.cursor)
		keeps, err := s.sendUnlocked(a, &op, msg)
		switch {
		case err == nil:
		case op.IsClose(): // by an interceptor below; grpc's never fails
			refused = err
		case msg != nil && !errors.Is(err, io.EOF) && !s.hasEndedLocked(a):
			refused = err
			s.commitLocked(a, CommitSendRefused)
		default:
			s.brokeLocked(a, err)
			return nil
		}
		a.cursor++
		s.log.Sent(a.cursor - 1)
		s.sent = max(s.sent, a.cursor)
		if !keeps {
			s.commitLocked(a, CommitBufferFull)
		}
		if a == s.kept {
			s.log.Forget(a.cursor)
		}
		if s.waiting > 0 && a.watch != nil {
			a.watch.arm() // it moves
		}
		if !s.alone && s.kept == nil && !a.awaitingHeader && s.desc.ClientStreams {
			s.awaitHeaderBesideLocked(a)
		}
		s.changed.Broadcast()
	}
	return refused
}

// handOverLocked has the application send to the attempt that is kept, once that
// has sent all there was in the log.
func (s *stream) handOverLocked(a *attempt) {
	if a == s.kept && !s.neverClosed && (a.cursor >= s.log.Len() || a.broken != nil || a.dropped) {
		s.sendTo.Store(a)
	}
}

// sendUnlocked sends what the attempt comes to in the log, and reports whether that is kept
// there. Without msg it is sent again, or by somebody else than the application.
func (s *stream) sendUnlocked(a *attempt, op *replay.Op, msg any) (keeps bool, err error) {
	var data mem.BufferSlice
	keeps = true
	s.unlocked(func() {
		defer op.Free()
		switch {
		case op.IsClose():
			err = a.stream.CloseSend()
		case op.IsPending():
			data, keeps, err = a.codec.Send(a.stream, msg)
		default:
			err = op.SendTo(a.stream, &a.codec, msg)
		}
	})
	if op.IsPending() && err == nil && keeps {
		keeps = s.log.Fill(a.cursor, msg, data)
	}
	return keeps, err
}

// brokeLocked sees to it that the call hears how an attempt has ended that takes no more
// messages, as err says. What an interceptor below has refused ends it, though grpc's stream
// goes on; has that ended, it is grpc that says how.
func (s *stream) brokeLocked(a *attempt, err error) {
	ends := err
	if !errors.Is(err, io.EOF) && s.isTold(a) && s.hasEndedLocked(a) {
		s.awaitEndLocked(a)
		ends = cmp.Or(a.overErr, err)
	}
	a.broken, a.ends = err, ends
	switch {
	case !errors.Is(a.broken, io.EOF):
		s.startEngineLocked()
		if a.cancel != nil && !a.over {
			a.cancel() // somebody may be receiving
		}
	case s.desc.ClientStreams:
		s.unlocked(func() { a.stream.Context() }) // from here on grpc does not send it again by itself (docs/conformance.md)
		s.awaitHeaderBesideLocked(a)
		if !s.endsInTime && !a.headerAwaited { // grpc's header is there at once, if it is not an interceptor below that says so
			a.lateEnd = time.AfterFunc(endTimeout, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				a.silent = true
				s.changed.Broadcast()
			})
		}
	}
}

// brokenLocked returns an attempt whose stream takes no more messages, and that nobody
// knows the status of before the application receives: its header has come, or an
// interceptor below keeps from rego how it has ended. If no other attempt goes on the
// application is told, as bare. So it may have stopped sending when the status comes, and
// the attempt is the one that counts: another one would send what is not all.
func (s *stream) brokenLocked() (broken *attempt) {
	for _, a := range s.live {
		switch {
		case a.dropped:
		case a.silent && !a.headerAwaited:
			broken = a
		case !errors.Is(a.broken, io.EOF), a.over && !s.isEmptyEndLocked(a), !a.headerAwaited, a.probing, s.canProbeLocked(a),
			!a.headerArrived && s.isTold(a) && !a.over: // it is to be replaced, or the end to be told, in a moment
			return nil
		default:
			broken = a
		}
	}
	return broken
}

// isEmptyEndLocked reports whether an attempt ended well, and what that means is known only
// once the application receives: from what it answered, or that it did not.
func (s *stream) isEmptyEndLocked(a *attempt) bool {
	return a.early != nil || a.overErr == nil && !s.desc.ServerStreams
}
