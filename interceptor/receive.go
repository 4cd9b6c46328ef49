package interceptor

import (
	"cmp"
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/rego-go/rego/budget"
)

// RecvMsg waits for the engine if it is the first, and else for the stream of the
// attempt that is kept.
func (s *stream) RecvMsg(m any) error {
	if a := s.recvFrom.Load(); a != nil {
		return s.recvDirect(a, m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.torn != nil:
		s.torn.again()
	case s.answered:
		return cmp.Or(s.err, io.EOF)
	}
	s.wantLocked(m)
	if s.idle {
		s.beEngineLocked(s.decide)
	} else {
		s.waitLocked(func() bool { return s.answered })
	}
	if s.resume != nil {
		s.last = m
	}
	return s.firstResultLocked()
}

// firstResultLocked returns what came of the first RecvMsg. If that has its message,
// the stream may have ended since: then the next one tells.
func (s *stream) firstResultLocked() error {
	switch {
	case s.recvFrom.Load() != nil:
		return nil
	case s.err == nil && s.decided.eof:
		return io.EOF
	}
	return s.err
}

// wantLocked says what is to be received into.
func (s *stream) wantLocked(m any) {
	s.reply = m
	if s.hedged {
		var ok bool
		if s.replies, ok = s.plan.method.repliesLike(m); !ok && !s.lastHedge {
			s.lastHedge = true
			s.deny(Attempt{Kind: budget.Hedge}, time.Now(), DeniedReplyType)
		}
	}
	s.changed.Broadcast()
}

func (s *stream) recvDirect(a *attempt, m any) error {
	if s.resume != nil {
		return s.recvResumable(a, m)
	}
	err := a.stream.RecvMsg(m)
	if err == nil && s.desc.ServerStreams {
		return nil
	}
	return s.received(err)
}

// received ends the call with what RecvMsg returned of its stream.
func (s *stream) received(err error) error {
	s.end(err)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.err, err)
}

// Header commits the stream to an attempt whose header has arrived.
func (s *stream) Header() (metadata.MD, error) {
	if a := s.recvFrom.Load(); a != nil {
		return a.stream.Header()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.headerAsked = true
	s.startEngineLocked()
	s.lookLocked()
	s.waitLocked(func() bool {
		for _, a := range s.live {
			if a.headed && !a.dropped {
				s.commitLocked(a, CommitHeader)
			}
		}
		return s.kept != nil && s.kept.headed || s.answered
	})
	if a := s.recvFrom.Load(); a != nil {
		return a.stream.Header()
	}
	if a := s.kept; a != nil && a.headed {
		return a.head.Copy(), nil
	}
	return nil, nil
}

// lookLocked waits for the header of an attempt whose engine does not, since it is
// receiving already.
func (s *stream) lookLocked() {
	if s.reply == nil || s.hedged || s.desc.ClientStreams || len(s.live) == 0 || s.live[0].headed {
		return
	}
	a := s.live[0]
	s.mu.Unlock()
	head, _ := a.stream.Header()
	s.mu.Lock()
	a.headed, a.head = head != nil, head
}

// Trailer is that of the attempt that has decided the call.
func (s *stream) Trailer() metadata.MD {
	a := s.decidedBy()
	if a == nil || a.stream == nil {
		return nil
	}
	return a.stream.Trailer()
}

// Context is that of the attempt that has decided the call, and before that the
// call's.
func (s *stream) Context() context.Context {
	a := s.decidedBy()
	if a == nil || a.stream == nil {
		return s.ctx
	}
	return a.stream.Context()
}

// decidedBy returns the attempt that is kept or, if the call has ended without one,
// that has decided it; nil before that.
func (s *stream) decidedBy() *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil && s.ended {
		return s.decided
	}
	return s.kept
}
