package interceptor

import (
	"cmp"
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/rego-go/rego/budget"
)

// RecvMsg waits for the engine if it is the first, and else for the stream of the
// attempt that is kept.
func (s *stream) RecvMsg(m any) error {
	if a := s.recvFrom.Load(); a != nil {
		return s.recvDirect(a, m)
	}
	s.prepareHedges(m)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.answered {
		s.reply = m
		s.changed.Broadcast()
		if s.idle {
			s.beEngineLocked(s.decide)
		} else {
			s.waitLocked(func() bool { return s.answered })
		}
		if s.resume != nil {
			s.last = m
		}
		return s.firstResultLocked(m)
	}
	if s.panicked != nil {
		s.panicked.rethrow()
	}
	return s.receiveLateLocked(m)
}

// receiveLateLocked receives from a call that has ended, as bare: what had arrived before is
// still there, and else the stream tells again how it has ended. A call that has not ended
// with its stream tells that itself.
func (s *stream) receiveLateLocked(m any) error {
	d := s.decided
	if d == nil || d.stream == nil || s.gone || errors.Is(s.err, errUnanswered) {
		return cmp.Or(s.err, io.EOF)
	}
	if d.endSeen {
		d.endSeen = false
		return cmp.Or(s.err, io.EOF)
	}
	if d.early != nil {
		return s.readEarlyLocked(d, m)
	}
	var err error
	s.unlocked(func() { err = d.stream.RecvMsg(m) })
	return s.explainLocked(err)
}

// explainLocked returns an error of the stream that has decided the call as that of the
// call.
func (s *stream) explainLocked(err error) error {
	e, ok := s.err.(*Error) //nolint:errorlint // it is what finish has made
	switch {
	case err == nil, errors.Is(err, io.EOF), !ok:
		return err
	case e.Error() == err.Error():
		return e
	}
	return &Error{Reason: e.Reason, Attempts: e.Attempts, err: err}
}

// firstResultLocked returns what came of the first RecvMsg. If that has its message,
// the stream may have ended since: then the next one tells.
func (s *stream) firstResultLocked(m any) error {
	switch {
	case s.recvFrom.Load() != nil:
		return nil
	case s.err == nil && s.decided.eof:
		return io.EOF
	case s.err != nil && s.decided != nil && !s.decided.finished: // it was not received from
		return s.receiveLateLocked(m)
	}
	return s.err
}

// prepareHedges finds out what hedges can receive into, now that it is known what the
// application does.
func (s *stream) prepareHedges(m any) {
	if !s.hedged {
		return
	}
	like, ok := s.plan.method.replies.Of(m).Like(m)
	s.mu.Lock()
	denied := !ok && !s.lastHedge && !s.answered
	s.replies, s.lastHedge = like, s.lastHedge || !ok
	s.mu.Unlock()
	if denied {
		s.deny(Attempt{Kind: budget.Hedge}, time.Now(), DeniedReplyType)
	}
}

func (s *stream) recvDirect(a *attempt, m any) error {
	if s.resume != nil {
		return s.recvResumable(a, m)
	}
	err := s.receive(a, m)
	if err == nil && s.desc.ServerStreams {
		return nil
	}
	if err != nil && !errors.Is(err, io.EOF) && s.isRunning(a) {
		return err // an interceptor below says it
	}
	return s.received(a, err)
}

// isRunning reports whether grpc's stream of an attempt has not ended.
func (s *stream) isRunning(a *attempt) bool {
	s.mu.Lock()
	over := a.over
	s.mu.Unlock()
	return !s.endsInTime && !over && a.stream.Context().Err() == nil && a.isGRPCs()
}

// isGRPCs reports whether the stream of an attempt is one of grpc's own, and not another
// transport's.
func (a *attempt) isGRPCs() bool {
	_, ok := peer.FromContext(a.stream.Context())
	return ok || a.codec.Met()
}

// received ends the call with what RecvMsg returned of its stream.
func (s *stream) received(a *attempt, err error) error {
	s.endWith(a, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.explainLocked(err)
}

// Header commits the stream to an attempt whose header has arrived. Of a stream that has
// ended it is that of the attempt that has decided.
func (s *stream) Header() (metadata.MD, error) {
	defer s.tellCommit()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waitBeginsLocked()
	defer s.waitEndsLocked()
	asksInOnFinish := s.outputting
	for {
		d := s.decidedLocked()
		switch {
		case s.panicked != nil:
			s.panicked.rethrow()
		case d != nil && d.stream == nil: // it could not be opened
			return nil, nil
		case d != nil && d.headerArrived && d.head != nil && s.state < streamEnding:
			return d.head.Copy(), nil
		case d != nil && (s.state == streamEnded || asksInOnFinish || s.recvFrom.Load() == d):
			return s.headerOfLocked(d, asksInOnFinish)
		case s.resume != nil && s.state < streamEnding && s.headedLocked() != nil: // what is delivered commits it, and nothing else
			return s.headedLocked().head.Copy(), nil
		case s.state < streamEnding && s.commitHeadedLocked(), s.awaitHeaderHereLocked():
		default:
			switch a := s.silentLocked(); {
			case a == nil:
			case s.isTold(a) && s.hasEndedLocked(a):
				if a.over { // by now
					continue
				}
			default:
				return s.headerOfLocked(a, asksInOnFinish)
			}
			s.startEngineIfLocked()
			s.changed.Wait()
		}
	}
}

// headerOfLocked asks the stream of an attempt. If that ends it, the call has ended when it returns,
// unless it is the end of the call that asks.
func (s *stream) headerOfLocked(a *attempt, isEnding bool) (head metadata.MD, err error) {
	s.unlocked(func() {
		head, err = a.stream.Header()
		if !isEnding {
			s.confirmEndHere(a)
		}
	})
	return head, err
}

// startEngineIfLocked starts the engine if an attempt has ended that it does not know of.
func (s *stream) startEngineIfLocked() {
	if len(s.live) == 0 || s.live[0].over {
		s.startEngineLocked()
	}
}

// headedLocked returns an attempt whose header is there, if there is one.
func (s *stream) headedLocked() *attempt {
	for _, a := range s.live {
		if a.headerArrived && !a.dropped && !a.timedOut {
			return a
		}
	}
	return nil
}

// commitHeadedLocked commits the stream to such an attempt, unless it is committed.
func (s *stream) commitHeadedLocked() bool {
	a := s.headedLocked()
	if a == nil || s.kept != nil {
		return false
	}
	s.commitLocked(a, CommitHeader)
	return true
}

// awaitHeaderHereLocked waits for the header of an attempt that nobody looks at, on this
// goroutine, and reports whether there was one. While streams are hedged others look.
func (s *stream) awaitHeaderHereLocked() bool {
	for _, a := range s.live {
		if !a.awaitingHeader && !a.dropped && !s.hedged {
			s.awaitHeaderLocked(a)
			return true
		}
	}
	return false
}

// silentLocked returns an attempt that has no header, and that grpc has not said to be over.
// Either it is about to, or an interceptor below says so of a stream that goes on, or keeps
// the end to itself.
func (s *stream) silentLocked() *attempt {
	for _, a := range s.live {
		if a.headerAwaited && !a.headerArrived && !a.over {
			return a
		}
	}
	return nil
}

// isTold reports whether grpc tells how an attempt ends: perhaps a moment after it has
// shown that it has. Interceptors below may keep that from rego, and other transports have
// no word for it.
func (s *stream) isTold(a *attempt) bool {
	return s.endsInTime || a.codec.Met() && !s.plan.method.hidesEnds.Load()
}

// Trailer is that of the attempt that has decided the call.
func (s *stream) Trailer() metadata.MD {
	s.mu.Lock()
	a := s.decidedLocked()
	s.mu.Unlock()
	if a == nil || a.stream == nil {
		return nil
	}
	return a.stream.Trailer()
}

// decidedLocked returns the attempt that is kept or, if the call has ended without one,
// that has decided it; nil before that.
func (s *stream) decidedLocked() *attempt {
	if s.kept == nil && s.state >= streamEnding {
		return s.decided
	}
	return s.kept
}

// Context is that of the attempt that is kept. Before there is one, or if the stream may be
// resumed with another, it is a context that shows the values of the attempt which is under
// way, and ends with the call.
func (s *stream) Context() context.Context {
	s.mu.Lock()
	if a := s.kept; a != nil && a.stream != nil && s.view == nil && s.resume == nil {
		s.mu.Unlock()
		return a.stream.Context()
	}
	defer s.mu.Unlock()
	if s.view == nil {
		v := &streamContext{stream: s}
		v.Context, v.cancel = context.WithCancel(s.ctx)
		if s.view = v; s.state >= streamEnding {
			v.cancel()
		}
	}
	return s.view
}

// streamContext is what an application has of a stream that is not committed.
type streamContext struct {
	context.Context // the call's
	cancel          context.CancelFunc
	stream          *stream
}

// Value returns a value of the attempt under way: grpc keeps there what it needs for
// messages that are prepared, and the peer.
func (v *streamContext) Value(key any) any {
	if a := v.stream.front(); a != nil {
		value := a.stream.Context().Value(key)
		if _, hides := value.(context.Context); value != nil && !hides {
			return value
		}
	}
	return v.Context.Value(key)
}

// Err returns how the attempt that has decided the call was ended, if it was the end of its
// context: the service config may bound that.
func (v *streamContext) Err() error {
	err := v.Context.Err()
	if err == nil {
		return nil
	}
	if a := v.stream.front(); a != nil {
		return cmp.Or(a.stream.Context().Err(), err)
	}
	return err
}

// front returns the attempt that is kept, or else one that is under way or was last, or nil.
func (s *stream) front() *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.decidedLocked(); a != nil && a.stream != nil {
		return a
	}
	for _, a := range s.live {
		return a
	}
	return s.newest
}
