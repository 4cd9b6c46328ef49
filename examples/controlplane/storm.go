package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/internal/testsrv"
)

// writes is the method that becomes a retry storm.
const writes = "/rego.test.v1.TestService/Put"

// ward has the writes of the backend fail while it is ill.
func (s *stage) ward() {
	s.ill = new(atomic.Bool)
	well, ill := testsrv.Echo(), testsrv.Fail(codes.Unavailable, "the index is being rebuilt")
	s.backend.Handle(testsrv.Put, func(testsrv.Arrival) testsrv.Step {
		if s.ill.Load() {
			return ill
		}
		return well
	})
}

// storm has writes fail, which the policy retries without end. An operator finds it, and switches
// retries off for that method.
func (s *stage) storm() error {
	if err := s.unharmed(); err != nil {
		return err
	}
	s.ill.Store(true)
	worst, _, err := s.awaitTop("shows the storm", func(t traffic) bool { return t.Amplification > 2.5 })
	if err != nil {
		return err
	}
	if err := s.showTop(); err != nil {
		return err
	}
	if err := s.replace("s4.yaml", searchSet("s4", "timeout: 4s", inline(calm))); err != nil {
		return err
	}
	if err := s.put("s4.yaml", "--service", "search", "--overwrite", "-m", "no retries of writes while the index is rebuilt"); err != nil {
		return err
	}
	if err := s.awaitCrew("s4"); err != nil {
		return err
	}
	now, took, err := s.awaitTop("shows that it is over", func(t traffic) bool { return t.Amplification > 0 && t.Amplification < 1.05 })
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "  %v later, since it tells of the last 10 to 20 seconds:\n", took.Round(time.Second))
	if err := s.showTop(); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "  attempts per call of %s: %.2f in the storm, %.2f now\n", writes, worst.Amplification, now.Amplification)
	return s.recover()
}

// showTop runs the command that the operator finds the storm with. It prints the worst method first.
func (s *stage) showTop() error {
	_, code, err := s.operate(true, "top", "--once", "--recent", "--service", "search")
	if err == nil && code != 0 {
		err = fmt.Errorf("rego top: exit code %d", code)
	}
	return err
}

// awaitTop waits until rego top says something of the writes, which it has at the top.
func (s *stage) awaitTop(what string, is func(traffic) bool) (now traffic, took time.Duration, err error) {
	began := time.Now()
	for range time.Tick(500 * time.Millisecond) { // each look is a process
		list, err := s.top()
		if err != nil {
			return now, 0, err
		}
		if len(list) > 0 && list[0].Method == writes {
			if now = list[0]; is(now) {
				break
			}
		}
		if time.Since(began) > patience {
			return now, 0, fmt.Errorf("rego top %s: not within %v: %+v", what, patience, list)
		}
	}
	return now, time.Since(began), nil
}

// recover has writes work again, and counts those that failed.
func (s *stage) recover() error {
	s.ill.Store(false)
	began := s.crew.crew()
	// The first write that ends after that may have begun before, in each instance.
	_, err := await("writes work again", func() bool {
		for i, now := range s.crew.crew().Instances {
			if now.Writes.Calls < began.Instances[i].Writes.Calls+3 {
				return false
			}
		}
		return true
	})
	s.stormed = s.crew.crew().writes().Failed
	return err
}

// leader returns which member of etcd leads.
func (s *stage) leader() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return s.etcd.Leader(ctx)
}
