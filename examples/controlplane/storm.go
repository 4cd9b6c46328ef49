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
	s.ill.Store(true)
	defer s.ill.Store(false)
	var worst traffic
	_, err := await("rego top shows the storm", func() (ok bool) {
		var err error
		worst, err = s.top(writes)
		return err == nil && worst.Amplification > 2.5
	})
	if err != nil {
		return fmt.Errorf("%w: %+v", err, worst)
	}
	if _, _, err := s.operate(true, "top", "--once", "--recent", "--service", "search"); err != nil {
		return err
	}
	if err := s.replace("s4.yaml", searchSet("s4", "timeout: 800ms", inline(calm))); err != nil {
		return err
	}
	if err := s.put("s4.yaml", "--service", "search", "--overwrite", "-m", "no retries of writes while the index is rebuilt"); err != nil {
		return err
	}
	if err := s.awaitCrew("s4"); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "  twenty seconds later, for it tells of the last ones:")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var now traffic
	for now.Amplification == 0 || now.Amplification > 1.05 {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("the storm goes on: %+v", now)
		}
		if now, err = s.top(writes); err != nil {
			return err
		}
	}
	if _, _, err := s.operate(true, "top", "--once", "--recent", "--service", "search"); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "  attempts per call of %s: %.2f in the storm, %.2f now\n", writes, worst.Amplification, now.Amplification)
	return nil
}

// leader returns which member of etcd leads.
func (s *stage) leader() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return s.etcd.Leader(ctx)
}
