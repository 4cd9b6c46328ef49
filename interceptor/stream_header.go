package interceptor

import (
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/internal/codec"
)

// awaitHeaderBesideLocked has a goroutine wait for the attempt's header, unless one does. An
// attempt that ends without one has a status at once, and can be replaced while the
// application still sends.
func (s *stream) awaitHeaderBesideLocked(a *attempt) {
	if a.awaitingHeader && !s.canProbeLocked(a) {
		return
	}
	a.awaitingHeader = true
	go func() {
		returned := false
		defer s.catchBeside(&returned)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.awaitHeaderAndProbeLocked(a)
		returned = true
	}()
}

func (s *stream) awaitHeaderAndProbeLocked(a *attempt) {
	if !a.headerAwaited {
		s.awaitHeaderLocked(a)
	}
	if s.canProbeLocked(a) {
		s.probeLocked(a)
	}
}

// awaitHeaderLocked waits for the attempt's header, or its end. Header never tells how a stream
// has ended: OnFinish does.
func (s *stream) awaitHeaderLocked(a *attempt) {
	a.awaitingHeader = true
	var head metadata.MD
	s.unlocked(func() {
		if head, _ = a.stream.Header(); head == nil {
			s.confirmEndHere(a)
		}
	})
	a.headerAwaited = true
	if head == nil && s.isTold(a) && s.hasEndedLocked(a) {
		s.awaitEndLocked(a)
	}
	if head != nil {
		a.headerArrived, a.head = true, head
		a.alive = true
		if a.watch != nil {
			a.watch.retire()
		}
		s.isAliveLocked()
		if !a.timedOut && s.course.headerCommits(&attemptState{hasHeader: true}) {
			s.commitLocked(a, CommitHeader)
		}
	}
	s.changed.Broadcast()
}

// isAliveLocked: a server stream whose header has arrived is not slow because it has
// nothing to tell.
func (s *stream) isAliveLocked() {
	if s.desc.ServerStreams {
		s.course.isAlive()
	}
}

func (s *stream) canProbeLocked(a *attempt) bool {
	return s.endsInTime && s.desc.ClientStreams && a.headerArrived && errors.Is(a.broken, io.EOF) &&
		!a.over && !a.probing && a.early == nil && s.reply == nil && s.kept == nil
}

// probeLocked finds out why an attempt takes no more messages though its header has come:
// it has failed, or answered before all was sent. Nobody knows yet what an answer is to be
// received into, so it is taken as it is. That works with grpc alone: an interceptor below,
// or another transport, may want to know the type.
func (s *stream) probeLocked(a *attempt) {
	a.probing = true
	var answer codec.Raw
	var err error
	s.unlocked(func() { err = a.stream.RecvMsg(&answer) })
	if a.probing = false; err == nil {
		a.early = answer.Data
	} else {
		a.endSeen = true
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
		a.reply, a.ownReply = s.replies.Make(), true
	}
	err := s.readEarlyLocked(a, a.reply)
	if err == nil && !s.desc.ServerStreams {
		s.finishLocked(a, nil)
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
