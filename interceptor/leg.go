package interceptor

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// leg is what an attempt of a stream has besides: how far it has come.
type leg struct {
	openErr error
	tried   bool // it is open, or cannot be opened
	eof     bool // it ended well without a message

	// Guarded by the call's mu.
	cursor   int   // of the replay log: what it has sent
	draining bool  // a goroutine is sending
	broken   error // what SendMsg returned; then nothing more is sent

	headed  bool // its header has arrived
	head    metadata.MD
	over    bool // grpc has ended it
	overErr error

	impatience *time.Timer // of the attempt timeout; nil until it is needed
	due        time.Time   // when it fires; zero while the application does not wait
}

// make makes an attempt until its first message, or until it ends without one. What
// the application sent meanwhile is replayed.
func (s *stream) make(ctx context.Context, a *attempt) error {
	if !a.tried {
		s.openLeg(ctx, a)
	}
	if a.openErr != nil {
		return a.openErr
	}
	err := s.receiveFirst(a)
	if errors.Is(err, io.EOF) && a.endedUnanswered() {
		err = errUnanswered
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retireLocked(a)
	a.goesOn = err == nil && s.desc.ServerStreams
	a.settled = !a.goesOn && !errors.Is(err, errDropped)
	a.eof = errors.Is(err, io.EOF)
	if err == nil || a.eof {
		return nil
	}
	for a.draining && a.settled {
		s.changed.Wait()
	}
	return a.endedBy(err)
}

// endedUnanswered reports whether the clean end of a stream is none. grpc-go v1.85
// at times, once in some 100,000 connections that are cut, reports one of a stream
// that nothing was received of. A server that ends a stream has sent a content-type,
// in the header or, without one, in the trailer.
func (a *attempt) endedUnanswered() bool {
	return a.outputs.peer.Addr != nil && len(a.stream.Trailer()) == 0 && len(a.headerNow()) == 0
}

var errUnanswered = status.Error(codes.Unavailable, "rego: the stream ended without an answer from the server")

// endedBy returns how an attempt failed: what the attempt timeout has cancelled as
// an attempt of a unary call does.
func (a *attempt) endedBy(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errDropped):
		return status.FromContextError(context.Canceled).Err()
	case a.timedOut && status.Code(err) == codes.Canceled:
		return status.FromContextError(context.DeadlineExceeded).Err()
	}
	return err
}

// openLeg opens the stream of an attempt, which may wait for a connection.
func (s *stream) openLeg(ctx context.Context, a *attempt) {
	if s.plan.policy.AttemptTimeout > 0 {
		s.mu.Lock()
		s.expectLocked(a)
		s.mu.Unlock()
	}
	cs, err := s.streamer(ctx, s.desc, s.conn, s.method, slices.Clip(a.opts)...)
	s.mu.Lock()
	defer s.mu.Unlock()
	a.tried = true
	a.stream, a.openErr = cs, a.endedBy(err)
	if err != nil {
		a.calm()
	} else {
		s.live = append(s.live, a)
		s.opened = true
		if s.waiting == 0 {
			a.calm()
		}
		s.drainBesideLocked(a)
	}
	s.changed.Broadcast()
}

// receiveFirst waits for the first message. That takes a message to receive into,
// which is known once the application calls RecvMsg.
func (s *stream) receiveFirst(a *attempt) error {
	if s.watchesHeader(a) {
		head, _ := a.stream.Header()
		if head == nil { // it has ended, and there is no message to be lost
			err := a.stream.RecvMsg(new(emptypb.Empty))
			if err == nil {
				err = status.Error(codes.Internal, "rego: a message without a header")
			}
			return err
		}
		s.setHead(a, head)
	}
	reply, err := s.awaitReceiver(a)
	if err == nil {
		err = a.stream.RecvMsg(reply)
	}
	return err
}

// watchesHeader reports whether somebody wants to know before the application
// receives how the attempt gets on: an attempt that ends without a header has a
// status at once, and can be replaced while the application still sends. If not, it
// returns when the application receives.
func (s *stream) watchesHeader(a *attempt) bool {
	if s.desc.ClientStreams || s.hedged {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.reply == nil && !s.headerAsked && !a.over && a.broken == nil {
		s.changed.Wait()
	}
	return s.reply == nil && !a.over
}

func (s *stream) setHead(a *attempt, head metadata.MD) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.headed, a.head = true, head
	s.changed.Broadcast()
}

// awaitReceiver waits until the application wants a message, and returns what the
// attempt is to receive into: the lead into what the application gave, others into
// one of their own.
func (s *stream) awaitReceiver(a *attempt) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.reply == nil && !a.over && !a.dropped {
		s.changed.Wait()
	}
	switch {
	case a.over && a.overErr != nil:
		return nil, a.overErr
	case a.dropped:
		return nil, errDropped
	case s.lastHedge && s.besideLocked(a):
		s.commitLocked(a, CommitMessageType)
		a.reply = s.reply
	case a == s.lead, s.lastHedge:
		a.reply = s.reply
	default:
		a.reply = s.replies.make()
	}
	return a.reply, nil
}

// errDropped is how an attempt ends that its call has cancelled before it was known
// what to receive into. Its stream ends by itself. It is no status, since those are
// equal to others with the same text.
var errDropped = errors.New("rego: the attempt was dropped")

// besideLocked reports whether another attempt is under way.
func (s *stream) besideLocked(a *attempt) bool {
	return slices.ContainsFunc(s.running, func(r *attempt) bool { return r != nil && r != a })
}

// retireLocked takes an attempt out of those that wait for their first message.
func (s *stream) retireLocked(a *attempt) {
	s.live = slices.DeleteFunc(s.live, func(l *attempt) bool { return l == a })
	a.calm()
}

// onDone is what grpc tells when the stream of an attempt has ended, and what it
// writes is written. An attempt that the stream is committed to and that has had
// its first message ends the call.
func (s *stream) onDone(a *attempt, err error) {
	s.mu.Lock()
	a.over, a.overErr = true, err
	ends := s.recvFrom.Load() == a && !s.receiving
	s.ending = s.ending || ends
	s.startEngineLocked()
	s.changed.Broadcast()
	s.mu.Unlock()
	if ends {
		s.end(err)
	}
}

// headerNow returns the header of an attempt that has ended.
func (a *attempt) headerNow() metadata.MD {
	head, _ := a.stream.Header()
	return head
}

// address returns what the attempt was sent to.
func (a *attempt) address() net.Addr {
	if a.stream == nil || a.settled {
		return a.got.peer.Addr
	}
	if p, ok := peer.FromContext(a.stream.Context()); ok {
		return p.Addr
	}
	return nil
}
