package interceptor

import "time"

// The attempt timeout runs while the application waits: for an attempt to be
// opened, in SendMsg, in RecvMsg or in Header. So one that has nothing to answer
// yet is not blamed for what the application takes its time with.

// waitLocked waits until something is true, and passes on what tore the stream
// down meanwhile.
func (s *stream) waitLocked(until func() bool) {
	s.waitsLocked()
	defer s.waitedLocked()
	for {
		switch {
		case s.torn != nil:
			s.torn.again()
		case until():
			return
		}
		s.changed.Wait()
	}
}

// expectLocked starts the attempt timeout, if there is one.
func (s *stream) expectLocked(a *attempt) {
	d := s.attemptTimeout(a)
	if d == 0 {
		return
	}
	a.due = time.Now().Add(d)
	if a.impatience == nil {
		a.impatience = time.AfterFunc(d, func() { s.timeOut(a) })
		return
	}
	a.impatience.Reset(d)
}

// waitsLocked notes that the application waits.
func (s *stream) waitsLocked() {
	if s.waiting++; s.waiting == 1 {
		for _, a := range s.live {
			s.expectLocked(a)
		}
	}
}

func (s *stream) waitedLocked() {
	if s.waiting--; s.waiting == 0 {
		for _, a := range s.live {
			a.calm()
		}
	}
}

// calm stops the attempt timeout.
func (a *attempt) calm() {
	if a.impatience != nil {
		a.impatience.Stop()
		a.due = time.Time{}
	}
}

func (s *stream) timeOut(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); !a.due.IsZero() && !now.Before(a.due) {
		a.timedOut = true
		a.cancel()
	}
}
