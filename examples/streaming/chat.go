package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// lines are how many the application says in a chat.
const lines = 4

// talks sends on one goroutine and receives on another, and loses the connection
// before there is an answer. Neither goroutine has to know.
func talks(ctx context.Context, s *stage) error {
	c, err := s.perform(ctx, "A chat breaks before its first answer", testsrv.Chat,
		func(a testsrv.Arrival) testsrv.Step {
			if a.Attempt == 1 {
				return testsrv.Do(testsrv.Recv(2), testsrv.KillConn())
			}
			return testsrv.Echo()
		},
		func(client testv1.TestServiceClient, c *call) { c.chat(ctx, client) })
	if err != nil {
		return err
	}
	return c.err
}

// chat says the lines and takes the answers, each of which repeats a line.
func (c *call) chat(ctx context.Context, client testv1.TestServiceClient) {
	stream, err := client.Chat(ctx, interceptor.WithTimeline(&c.timeline))
	if err != nil {
		c.err = err
		return
	}
	var sending sync.WaitGroup
	sending.Go(func() {
		for n := range lines {
			if stream.Send(&testv1.ChatRequest{Payload: fmt.Appendf(nil, "line %d", n+1)}) != nil {
				return // Recv says why
			}
		}
		_ = stream.CloseSend() // never fails
	})
	for c.take(stream.Recv()) {
	}
	sending.Wait() // ends with the stream
}
