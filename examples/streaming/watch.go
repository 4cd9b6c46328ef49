package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// The rows of a server stream, and after how many of them its connection breaks,
// where it breaks late.
const (
	lastRow  = 6
	brokenAt = 3
)

// breaksEarly loses the connection before the application has anything. Nothing can
// be delivered twice, so the request is sent again.
func breaksEarly(ctx context.Context, s *stage) error {
	c, err := s.watch(ctx, "A server stream breaks before its first message",
		func(a testsrv.Arrival, _ <-chan struct{}) testsrv.Step {
			if a.Attempt == 1 {
				return testsrv.KillConn()
			}
			return sendRows(a, lastRow)
		})
	if err != nil {
		return err
	}
	return c.err
}

// breaksLate loses the connection when the application has rows. Another attempt
// would send them again, so there is none.
func breaksLate(ctx context.Context, s *stage) error {
	c, err := s.watch(ctx, "A server stream breaks after messages were delivered", breakOnce)
	if err != nil {
		return err
	}
	if c.err == nil {
		return errors.New("the stream was to fail")
	}
	return nil
}

// resumes is the same for an application that says how to ask for what is missing.
func resumes(ctx context.Context, s *stage) error {
	c, err := s.watch(ctx, "The same, and the application knows how to resume", breakOnce,
		interceptor.WithResume(afterLast))
	if err != nil {
		return err
	}
	return c.err
}

// afterLast asks for the rows after the last one that the application got.
func afterLast(last *testv1.WatchResponse, _ *testv1.WatchRequest) (*testv1.WatchRequest, bool) {
	var row int
	_, err := fmt.Sscanf(text(last), "row %d", &row)
	return fromRow(row + 1), err == nil
}

// hedges opens the stream on a server that does not answer. The same request is sent
// beside it, and whichever attempt has a message first is kept.
func hedges(ctx context.Context, s *stage) error {
	hedged := policy.Policy{
		Name:        "hedged",
		Idempotency: classify.Idempotent,
		Timeout:     10 * time.Second,
		Retry:       policy.Retry{MaxAttempts: 2},
		Hedge:       policy.Hedge{Delay: 20 * time.Millisecond},
	}
	c, err := s.watch(ctx, "A server stream hangs, and is hedged after 20 ms",
		func(a testsrv.Arrival, _ <-chan struct{}) testsrv.Step {
			if a.Previous == 0 { // whichever of the two arrives first
				return testsrv.Hang()
			}
			return sendRows(a, lastRow)
		}, interceptor.WithPolicy(hedged))
	if err != nil {
		return err
	}
	return c.err
}

// watch reads rows until the stream ends. The channel that serve is given is closed
// when the application has as many as it is to have before the connection breaks:
// what a server sends just before that may be lost.
func (s *stage) watch(
	ctx context.Context, title string,
	serve func(a testsrv.Arrival, delivered <-chan struct{}) testsrv.Step,
	opts ...grpc.CallOption,
) (*call, error) {
	delivered := make(chan struct{})
	return s.perform(ctx, title, testsrv.Watch,
		func(a testsrv.Arrival) testsrv.Step { return serve(a, delivered) },
		func(client testv1.TestServiceClient, c *call) {
			stream, err := client.Watch(ctx, fromRow(1), append(opts, interceptor.WithTimeline(&c.timeline))...)
			if err != nil {
				c.err = err
				return
			}
			for c.take(stream.Recv()) {
				if len(c.got) == brokenAt {
					close(delivered)
				}
			}
		})
}

// breakOnce cuts the first connection in the middle of the rows.
func breakOnce(a testsrv.Arrival, delivered <-chan struct{}) testsrv.Step {
	if a.Attempt == 1 {
		return testsrv.Do(sendRows(a, brokenAt), testsrv.Wait(delivered), testsrv.KillConn())
	}
	return sendRows(a, lastRow)
}

// sendRows sends the rows from the one that is asked for.
func sendRows(a testsrv.Arrival, to int) testsrv.Step {
	var from int
	if _, err := fmt.Sscanf(text(a.Request().(message)), "from row %d", &from); err != nil {
		return testsrv.Fail(codes.InvalidArgument, err.Error())
	}
	var ops []testsrv.Step
	for n := from; n <= to; n++ {
		ops = append(ops, testsrv.SendMsg(&testv1.WatchResponse{Payload: fmt.Appendf(nil, "row %d", n)}))
	}
	return testsrv.Do(ops...)
}

func fromRow(n int) *testv1.WatchRequest {
	return &testv1.WatchRequest{Payload: fmt.Appendf(nil, "from row %d", n)}
}
