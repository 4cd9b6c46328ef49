package interceptor

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/internal/codec"
	"github.com/rego-go/rego/internal/expiry"
)

// streamAttempt is what only an attempt of a stream has: how far it has come.
type streamAttempt struct {
	codec   codec.Attempt
	openErr error
	opened  bool // it is open, or cannot be opened
	eof     bool // it ended well without a message

	// Guarded by the call's mu.
	cursor   int   // of the replay log: what it has sent
	draining bool  // a goroutine is sending
	broken   error // what SendMsg returned; then nothing more is sent
	ends     error // how that ends the attempt, unless it is io.EOF

	awaitingHeader bool // a goroutine waits for its header
	headerAwaited  bool // that has ended: there is one, or there will be none
	headerArrived  bool // it has arrived
	silent         bool // it does not come, though no more messages are taken
	head           metadata.MD

	told        atomic.Bool // with an interceptor below: grpc has ended a stream of the attempt
	toldErr     error       // how
	receives    atomic.Bool // somebody receives from it, who will find out whether that was its end
	unconfirmed bool        // grpc has told it meanwhile

	over    bool // grpc has ended it
	endSeen bool // rego has seen the end, and grpc does not tell it again
	probing bool // it takes no more messages, and a goroutine receives to learn the reason
	overErr error
	early   mem.BufferSlice // which was an answer, before all was sent

	watch           *timeoutWatch // over the attempt timeout; nil without one
	stopCallerWatch func() bool   // ends the watch for a caller that leaves; nil without one
	lateEnd         *time.Timer   // gives up waiting for what should come at once
}

// make makes an attempt until its first message, or until it ends without one. What
// the application sent meanwhile is replayed.
func (s *stream) make(ctx context.Context, a *attempt) error {
	if !a.opened {
		s.openAttempt(ctx, a)
	}
	if a.watch != nil {
		defer a.watch.stop()
	}
	if a.openErr != nil {
		return a.openErr
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.firstMessageLocked(a)
	if errors.Is(err, io.EOF) && s.isUnansweredLocked(a) {
		err = errUnanswered
	}
	if a.continues = err == nil && s.desc.ServerStreams; a.continues {
		a.alive = true
		if a.timedOut { // too late: what comes after this message is being cut off
			a.continues, err = false, status.FromContextError(context.DeadlineExceeded).Err()
		}
	}
	a.eof = errors.Is(err, io.EOF)
	if !a.continues {
		s.retireLocked(a)
		for a.draining && a.over {
			s.changed.Wait()
		}
	}
	if err == nil || a.eof {
		return nil
	}
	if errors.Is(err, errDropped) {
		return status.FromContextError(context.Canceled).Err()
	}
	return err
}

// firstMessageLocked waits until the application wants a message and the attempt has one,
// or the attempt has ended.
func (s *stream) firstMessageLocked(a *attempt) error {
	for {
		switch {
		case s.panicked != nil:
			return errDropped
		case a.ends != nil && !errors.Is(a.ends, io.EOF):
			return a.ends
		case a.probing: // grpc may have told that it is over, and what was received is yet to come
		case a.early != nil && s.reply != nil:
			return s.takeEarlyLocked(a)
		case s.hedged && s.endsInTime && !a.awaitingHeader && !a.over: // who is hedged wants to know whether it is alive
			s.awaitHeaderAndProbeLocked(a)
			continue
		case s.mayReceiveLocked(a) && !a.dropped:
			err := s.receiveFirstLocked(a)
			if a.ends != nil && !errors.Is(a.ends, io.EOF) {
				return a.ends
			}
			return err
		case a.over && a.overErr != nil:
			return a.overErr
		case a.over && !s.isEmptyEndLocked(a):
			return io.EOF
		case a.over && s.ctx.Err() != nil:
			return status.FromContextError(s.ctx.Err()).Err()
		case a.dropped:
			return errDropped
		}
		s.changed.Wait()
	}
}

// mayReceiveLocked reports whether there is something to receive into. If it is for one
// attempt only, that is the one whose header comes first.
func (s *stream) mayReceiveLocked(a *attempt) bool {
	return s.reply != nil && !a.probing && a.early == nil && (!s.lastHedge || a.headerAwaited || !s.besideLocked(a)) &&
		!(s.endsInTime && a.awaitingHeader && !a.headerAwaited) // grpc would write its binary log from both
}

// receiveFirstLocked receives the first message: the lead into what the application gave,
// others into one of their own.
func (s *stream) receiveFirstLocked(a *attempt) error {
	switch {
	case s.lastHedge && s.besideLocked(a):
		s.commitLocked(a, CommitMessageType)
		fallthrough
	case a == s.lead, s.lastHedge:
		a.reply = s.reply
	default:
		a.reply, a.ownReply = s.replies.Make(), true
	}
	var err error
	s.unlocked(func() {
		s.tellCommit()
		err = s.receive(a, a.reply)
	})
	if err != nil || !s.desc.ServerStreams {
		s.finishLocked(a, err)
	}
	return err
}

// errDropped is how an attempt ends that its call has cancelled before it was known
// what to receive into. Its stream ends by itself. It is no status, since those are
// equal to others with the same text.
var errDropped = errors.New("rego: the attempt was dropped")

// openAttempt opens the stream of an attempt, which may wait for a connection.
func (s *stream) openAttempt(ctx context.Context, a *attempt) {
	opts := slices.Clip(a.opts)
	if !s.endsInTime {
		opts = slices.Clone(a.opts) // an interceptor below may change them
	}
	if after := s.attemptTimeout(a); after > 0 {
		e := expiry.NewContext(ctx)
		ctx = e
		s.mu.Lock()
		a.watch = s.watchTimeout(a, after, e)
		s.mu.Unlock()
	}
	cs, err := s.streamer(s.amongBackends(ctx, a), s.desc, s.conn, s.method, opts...)
	s.mu.Lock()
	defer s.mu.Unlock()
	a.opened, a.stream, a.openErr, a.open = true, cs, err, err == nil
	if err == nil {
		if a.over && !s.endsInTime && s.isOpenLocked(a) { // that was another one, which an interceptor below could not open
			a.over, a.overErr = false, nil
		}
		s.live = append(s.live, a)
		s.newest = a
		if s.state == streamOpening {
			s.becomeLocked(streamRacing)
		}
		if s.waiting == 0 && a.watch != nil {
			a.watch.pause()
		}
		if !s.endsInTime {
			a.stopCallerWatch = context.AfterFunc(s.ctx, func() { s.callerLeft(a) })
		}
		if s.desc.ClientStreams && s.course.isLast(a.Number) && !s.alone { // nothing need be kept
			s.commitLocked(a, CommitOneAttempt)
		}
		s.drainBesideLocked(a)
		if a.watch != nil && !s.alone || s.hedged && !s.endsInTime {
			s.awaitHeaderBesideLocked(a)
		}
	}
	s.changed.Broadcast()
}

// besideLocked reports whether another attempt is under way.
func (s *stream) besideLocked(a *attempt) bool {
	return slices.ContainsFunc(s.running, func(r *attempt) bool { return r != nil && r != a })
}

// retireLocked takes an attempt out of those that are sent to.
func (s *stream) retireLocked(a *attempt) {
	s.live = slices.DeleteFunc(s.live, func(l *attempt) bool { return l == a })
	if a.stopCallerWatch != nil {
		a.stopCallerWatch()
		a.stopCallerWatch = nil
	}
	if a.lateEnd != nil {
		a.lateEnd.Stop()
	}
	s.changed.Broadcast()
}

// address returns what the attempt was sent to.
func (a *attempt) address() net.Addr {
	if a.stream == nil || a.finished || a.got.peer.Addr != nil {
		return a.got.peer.Addr
	}
	if p, ok := peer.FromContext(a.stream.Context()); ok {
		return p.Addr
	}
	return nil
}

// setStreamOptions makes the options of an attempt: the private ones, and then those that
// every attempt has. The codec stands after these, so that it is the one that counts, and
// OnFinish last, after all that is written.
func (s *stream) setStreamOptions(a *attempt, room []grpc.CallOption) {
	a.opts = a.outputs.appendTo(room[:0])[:privateOutputs-1] // OnFinish is another one
	a.opts = append(a.opts, s.shared...)
	if s.codec != nil {
		a.opts = append(a.opts, a.codec.Option(s.codec))
	}
	if a.outputs.apart && s.wantsOutput {
		s.offerOutputs(a)
	}
	a.opts = append(a.opts, grpc.OnFinishCallOption{OnFinish: func(err error) { s.onDone(a, err) }})
}
