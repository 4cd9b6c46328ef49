package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// session is one stream to the server.
type session struct {
	*Watcher
	stream regov1.PolicyDiscoveryService_StreamPoliciesClient
	hush   *time.Timer   // ends the stream on which nothing comes
	every  time.Duration // between heartbeats; zero if none has come
	served bool          // the server has sent a set

	reports reports

	hearing sync.Mutex
	heard   bool // the server has said something
}

// session has the server send sets until the stream ends, and returns why it did and
// whether the server said anything. unsaid is why the stream before ended, if that has not
// been reported: it is, if this one does not come about in time.
func (w *Watcher) session(ctx context.Context, conn *grpc.ClientConn, unsaid error) (heard bool, err error) {
	s := &session{Watcher: w, reports: newReports(w.reporter)}
	defer s.reports.wait() // once the stream is cancelled
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.hush = time.AfterFunc(answerTimeout, func() { cancel(fmt.Errorf("no answer within %v", answerTimeout)) })
	defer func() { s.hush.Stop() }()
	if unsaid != nil {
		lapse := time.AfterFunc(patience, func() { s.lapse(unsaid) })
		defer lapse.Stop()
	}
	s.stream, err = regov1.NewPolicyDiscoveryServiceClient(conn).StreamPolicies(ctx, grpc.ForceCodecV2(newCodec()))
	if err == nil {
		hello := w.answer("")
		hello.Node = w.node
		if err = s.stream.Send(hello); errors.Is(err, io.EOF) {
			err = nil // the stream has ended already: what was sent before, and why, is to be read
		}
	}
	if err != nil {
		return false, cmp.Or(context.Cause(ctx), err)
	}

	// The reader ends when the stream does, which is at the latest when this function
	// has returned.
	sets, pulses := make(chan *received, 1), make(chan *received, 1)
	ended := make(chan error, 1)
	go func() { ended <- read(s.stream, sets, pulses) }()
	next := sets // nil for a while after a set
	var rested <-chan time.Time
	for err == nil {
		select {
		case r := <-next:
			err = s.reply(s.set(r), ended)
			next, rested = nil, time.After(pause)
		case <-rested:
			next = sets
		case r := <-pulses:
			err = s.reply(s.pulse(r, cancel), ended)
		case <-s.reports.tick.C:
			s.reports.ticked()
		case <-s.reports.looks():
			s.reports.send(s.stream)
		case err = <-ended:
		}
	}
	select {
	case r := <-sets: // the last word counts
		s.set(r)
	default:
	}
	return s.heard, cmp.Or(context.Cause(ctx), err)
}

// set takes a set, and returns the answer.
func (s *session) set(r *received) *regov1.StreamPoliciesRequest {
	s.arrived()
	s.served = true
	answer := s.take(r)
	s.reports.asked(r)
	return answer
}

// errNoPolicies is why a source counts as lost that can be reached.
var errNoPolicies = errors.New("the control plane has no policies yet")

// pulse takes a heartbeat, and returns the answer. The stream ends if no other response
// follows within some intervals. A heartbeat says that the last set of this stream is the
// newest. If there was none, the server cannot vouch for what is in force.
func (s *session) pulse(r *received, cancel context.CancelCauseFunc) *regov1.StreamPoliciesRequest {
	s.arrived()
	if !s.served {
		s.lost(errNoPolicies)
	}
	s.reports.asked(r)
	every := min(max(r.GetHeartbeat().GetInterval().AsDuration(), time.Second), 5*time.Minute)
	if every != s.every {
		s.hush.Stop()
		s.every = every
		s.hush = time.AfterFunc(beats*every, func() {
			cancel(fmt.Errorf("nothing for %v from a server that has heartbeats", beats*every))
		})
	}
	return s.answer(r.GetNonce())
}

// arrived notes that the stream has taken the place of the one before.
func (s *session) arrived() {
	s.hearing.Lock()
	defer s.hearing.Unlock()
	s.heard = true
}

// lapse reports that the stream before was lost, if this one has not taken its place.
func (s *session) lapse(unsaid error) {
	s.hearing.Lock()
	late := !s.heard
	if late {
		s.source.Lost(unsaid) // before anything that arrives is taken
	}
	s.hearing.Unlock()
	if late {
		s.sayLost(unsaid)
	}
}

// reply sends an answer. It fails as the stream does.
func (s *session) reply(answer *regov1.StreamPoliciesRequest, ended <-chan error) error {
	s.hush.Reset(answerTimeout) // the server may not read
	s.reports.wait()
	if s.stream.Send(answer) != nil {
		return <-ended
	}
	if s.every > 0 {
		s.hush.Reset(beats * s.every)
	} else {
		s.hush.Stop()
	}
	return nil
}

// read keeps the newest set and the newest heartbeat at hand, and returns how the stream
// ended.
func read(s regov1.PolicyDiscoveryService_StreamPoliciesClient, sets, pulses chan *received) error {
	var reading allowance
	for {
		r := new(received)
		if err := s.RecvMsg(r); err != nil {
			return err
		}
		to := sets
		if r.GetHeartbeat() != nil && r.GetSet() == nil {
			to = pulses
		}
		select {
		case <-to: // it was not taken in time
		default:
		}
		to <- r // there is room: nobody else puts something in
		rest := time.NewTimer(reading.wait(r.size, time.Now()))
		select {
		case <-rest.C:
		case <-s.Context().Done():
			rest.Stop()
		}
	}
}

// allowance is how much of a server is read: to decode what it sends takes time, which a server
// that sends all the time would take from the calls.
type allowance struct {
	spent float64 // bytes, beyond what was allowed since
	at    time.Time
}

const (
	readPerSecond = 4 << 20 // bytes
	readAtOnce    = 2 * policy.MaxSize
	readLeast     = 1 << 10 // that a message counts as
)

// wait returns how long to wait before the next message, after one of so many bytes.
func (a *allowance) wait(size int, now time.Time) time.Duration {
	a.spent = max(a.spent-now.Sub(a.at).Seconds()*readPerSecond, 0) + float64(max(size, readLeast))
	a.at = now
	return time.Duration(max(a.spent-readAtOnce, 0) / readPerSecond * float64(time.Second))
}
