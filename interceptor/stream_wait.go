package interceptor

// The attempt timeout of a stream runs while the application waits: for an attempt to be
// opened, in SendMsg, in RecvMsg or in Header. So one that has nothing to answer yet is not
// blamed for what the application takes its time with. It begins anew with each message
// that the attempt takes, and is over once there is a header: then the attempt is alive.

// waitLocked waits until something is true, and passes on what tore the stream
// down meanwhile.
func (s *stream) waitLocked(until func() bool) {
	s.waitBeginsLocked()
	defer s.waitEndsLocked()
	for {
		switch {
		case s.panicked != nil:
			s.panicked.rethrow()
		case until():
			return
		}
		s.changed.Wait()
	}
}

// waitBeginsLocked notes that the application waits.
func (s *stream) waitBeginsLocked() {
	if s.waiting++; s.waiting == 1 {
		for _, a := range s.live {
			if a.watch != nil {
				a.watch.arm()
			}
		}
	}
}

func (s *stream) waitEndsLocked() {
	if s.waiting--; s.waiting == 0 {
		for _, a := range s.live {
			if a.watch != nil {
				a.watch.pause()
			}
		}
	}
}
