package main

import (
	"context"
	"time"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// refused calls a server that is restarting. An attempt whose connection was
// refused has not been sent, so it may be repeated whatever the method does, and
// even a payment recovers.
func refused(ctx context.Context, s *stage) error {
	s.title("A refused connection that recovers")

	server, err := testsrv.New(testsrv.TCP(""))
	if err != nil {
		return err
	}
	defer server.Close()
	c, err := s.dial(server.Addr(), s.phase("refused connection"), interceptor.WithPolicy(policy.Policy{
		Name:    "patient",
		Timeout: 5 * time.Second,
		Retry: policy.Retry{
			MaxAttempts: 5,
			Backoff:     policy.Backoff{Initial: 100 * time.Millisecond, Jitter: policy.JitterEqual},
		},
	}))
	if err != nil {
		return err
	}
	defer c.Close()

	if err := server.Refuse(true); err != nil {
		return err
	}
	restarted := make(chan error, 1)
	time.AfterFunc(150*time.Millisecond, func() { restarted <- server.Refuse(false) })

	var tl interceptor.Timeline
	_, err = c.Pay(ctx, &testv1.PayRequest{Id: "order-1", AmountMinor: 1250}, interceptor.WithTimeline(&tl))
	if err := <-restarted; err != nil {
		return err
	}
	s.say(&tl)
	return err
}
