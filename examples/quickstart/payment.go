package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// payment loses the answer to a payment: the server has charged the customer when
// the connection breaks. The client cannot know that, so it must not pay again,
// unless the server can tell a repeated payment from a new one.
func payment(ctx context.Context, s *stage) error {
	s.title("A payment whose connection breaks")
	lost, err := s.pay(ctx, "payment")
	if err != nil {
		return err
	}
	e, ok := errors.AsType[*interceptor.Error](lost.err)
	if !ok {
		return fmt.Errorf("the payment was to fail, got %w", lost.err)
	}
	s.say(&lost.timeline)
	s.say(lost)
	s.say("The caller gets:", e)
	s.say("which tells why it was not sent again:", e.Reason)

	s.title("The same with an idempotency key, which the server remembers")
	kept, err := s.pay(ctx, "payment with key", interceptor.WithIdempotencyKey("order-2"))
	if err != nil {
		return err
	}
	s.say(&kept.timeline)
	s.say(kept)
	return kept.err
}

// paid is what became of a payment, seen from both sides.
type paid struct {
	timeline interceptor.Timeline
	err      error

	arrived int // attempts, at the server
	charges int
}

func (p *paid) String() string {
	return fmt.Sprintf("The server got the request %s and charged %s.", times(p.arrived), times(p.charges))
}

// pay makes one payment to a server that cuts the connection on the first attempt.
func (s *stage) pay(ctx context.Context, name string, opts ...grpc.CallOption) (*paid, error) {
	server, err := testsrv.New(testsrv.TCP(""))
	if err != nil {
		return nil, err
	}
	defer server.Close()
	var b bank
	server.Handle(testsrv.Pay, b.pay)
	c, err := s.dial(server.Addr(), s.phase(name))
	if err != nil {
		return nil, err
	}
	defer c.Close()

	var p paid
	req := &testv1.PayRequest{Id: "order-2", AmountMinor: 1250}
	_, p.err = c.Pay(ctx, req, append(opts, interceptor.WithTimeline(&p.timeline))...)
	p.arrived, p.charges = server.Count(testsrv.Pay), b.count()
	return &p, nil
}

// bank charges for every request that arrives, but only once for the same
// idempotency key.
type bank struct {
	mu       sync.Mutex
	charges  int
	receipts map[string]string // by key
}

func (b *bank) pay(a testsrv.Arrival) testsrv.Step {
	receipt := b.charge(a.Metadata.Get(interceptor.IdempotencyKeyHeader))
	if a.Attempt == 1 {
		return testsrv.KillConn()
	}
	return testsrv.Reply(&testv1.PayResponse{Receipt: receipt})
}

func (b *bank) charge(keys []string) (receipt string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range keys {
		if r, ok := b.receipts[k]; ok {
			return r
		}
	}
	b.charges++
	receipt = fmt.Sprintf("receipt-%d", b.charges)
	for _, k := range keys {
		if b.receipts == nil {
			b.receipts = make(map[string]string)
		}
		b.receipts[k] = receipt
	}
	return receipt
}

func (b *bank) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.charges
}
