package interceptor

import (
	"errors"
	"io"
	"time"

	"github.com/rego-go/rego/classify"
)

// end ends the call, once, with all that belongs to that, and returns when it is done: by
// this goroutine or by another one.
func (s *stream) end(how func() (EndReason, time.Time)) {
	s.mu.Lock()
	if s.state >= streamEnding {
		for s.state != streamEnded {
			s.changed.Wait()
		}
		s.mu.Unlock()
		return
	}
	s.becomeLocked(streamEnding)
	s.mu.Unlock()
	err := errAbandoned
	returned, gone := false, true
	defer func() {
		if !returned {
			s.abort()
		}
		s.endContext()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err, s.answered, s.gone = err, true, gone
		s.log.Clear()
		s.becomeLocked(streamEnded)
	}()
	reason, now := how()
	s.tellCommit()
	err = s.finish(reason, now)
	gone = s.left(reason)
	s.mu.Lock()
	s.outputting = true
	s.mu.Unlock()
	s.output(reason, err)
	returned = true
}

// endWith ends the call with how the stream of the attempt that is kept has ended.
func (s *stream) endWith(a *attempt, err error) {
	s.end(func() (EndReason, time.Time) {
		s.concludeAttempt(a, err)
		if a.Outcome.Class == classify.Success {
			return EndSucceeded, a.End
		}
		_, reason := s.next(a)
		return reason, a.End
	})
}

// concludeAttempt takes in how the stream of the attempt that was kept has ended.
func (s *stream) concludeAttempt(a *attempt, err error) {
	s.mu.Lock()
	s.finishLocked(a, err)
	s.retireLocked(a)
	s.mu.Unlock()
	a.continues = false
	a.read(err)
	a.End = time.Now()
	if err != nil && !errors.Is(err, io.EOF) {
		s.askChannel()
		s.examine(a, err)
		s.judge(a)
	} else {
		a.seen.Delivery = classify.DeliveryAnswered
		a.Outcome = classify.Outcome{Class: classify.Success}
	}
	a.Result = a.result()
	a.lease.Release(a.leaseResult())
	s.record(a)
}

// endContext releases what the call's contexts hold, that of the application included.
func (s *stream) endContext() {
	s.call.endContext()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view != nil {
		s.view.cancel()
	}
}

// catchEngine keeps what tears the engine down for the application's goroutines.
func (s *stream) catchEngine(returned *bool) {
	if *returned {
		return
	}
	t := s.capturePanic(recover())
	s.mu.Lock()
	s.panicked = t
	s.mu.Unlock()
	s.giveUp()
}

// catchBeside does so for a goroutine that sends, or looks for a header.
func (s *stream) catchBeside(returned *bool) {
	if *returned {
		return
	}
	t := s.capturePanic(recover())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.panicked = t
	for _, a := range s.live {
		if a.cancel != nil {
			a.cancel()
		}
	}
	s.changed.Broadcast()
}

// abandonUnless is for what tears down a goroutine of the application that does
// what the engine does elsewhere.
func (s *stream) abandonUnless(returned *bool) {
	if !*returned {
		s.giveUp()
	}
}

// giveUp returns all that the call holds, unless it has ended.
func (s *stream) giveUp() {
	s.mu.Lock()
	ended := s.state >= streamEnding
	if !ended {
		s.becomeLocked(streamEnding)
	}
	s.mu.Unlock()
	if ended {
		return
	}
	s.abort()
	s.endContext()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.Clear()
	s.answered, s.err = true, errAbandoned
	s.becomeLocked(streamEnded)
}
