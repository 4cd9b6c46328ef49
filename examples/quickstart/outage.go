package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// The load of the outage.
const (
	outageLasts    = 3 * time.Second
	callsPerSecond = 300
)

// outage puts a steady load on a server that fails everything, first with retries
// that nothing limits, then with the budget that every client has by default: calls
// that succeed pay for retries, so here there are only those of a new budget.
func outage(ctx context.Context, s *stage) error {
	s.title(fmt.Sprintf("An outage of %v under %d calls/s, without a budget", outageLasts, callsPerSecond))
	if err := s.sufferOutage(ctx, "outage, no budget", nil, interceptor.EndAttemptsExhausted); err != nil {
		return err
	}
	s.title("The same outage with the default budget")
	return s.sufferOutage(ctx, "outage, budget", budget.Default(), interceptor.EndBudgetDenied)
}

// sufferOutage limits retries by b and prints the last call that ended for the
// reason given. A nil b limits nothing.
func (s *stage) sufferOutage(ctx context.Context, name string, b budget.Budget, show interceptor.EndReason) error {
	server, err := testsrv.New(testsrv.TCP(""), testsrv.NoRecording())
	if err != nil {
		return err
	}
	defer server.Close()
	server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "out of order"))
	c, err := s.dial(server.Addr(), s.phase(name),
		interceptor.WithTargetBudget(func(string) budget.Budget { return b }))
	if err != nil {
		return err
	}
	defer c.Close()

	timelines := load(ctx, outageLasts, func(opt interceptor.CallOption) error {
		_, err := c.Get(ctx, &testv1.GetRequest{Id: "user-2"}, opt)
		return err
	})
	for _, tl := range slices.Backward(timelines) {
		if tl.Reason == show {
			s.say(&tl)
			break
		}
	}
	s.say("The server got", server.Count(testsrv.Get), "requests for", len(timelines), "calls.")
	return ctx.Err()
}

// load starts calls at a steady rate, whatever becomes of those before, as users
// do, and returns the timelines of all of them.
func load(ctx context.Context, length time.Duration, call func(interceptor.CallOption) error) []interceptor.Timeline {
	timelines := make([]interceptor.Timeline, callsPerSecond*int(length/time.Second))
	begin := time.Now()
	var calls sync.WaitGroup
	for i := range timelines {
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(begin.Add(time.Duration(i) * time.Second / callsPerSecond))):
		}
		calls.Go(func() {
			_ = call(interceptor.WithTimeline(&timelines[i])) // the timeline says how it ended
		})
	}
	calls.Wait()
	return timelines
}
