package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// An upload is so many chunks of a size, one every pause.
const (
	chunks    = 6
	chunkSize = 1 << 10
	pause     = 10 * time.Millisecond
)

// replays loses the connection while the application sends. The new attempt begins
// with what the first has sent, and the application goes on with the next chunk.
func replays(ctx context.Context, s *stage) error {
	c, err := s.upload(ctx, "An upload breaks after three of six chunks",
		func(a testsrv.Arrival) testsrv.Step {
			if a.Attempt == 1 {
				return testsrv.Do(testsrv.Recv(3), testsrv.KillConn())
			}
			return testsrv.Echo()
		})
	if err != nil {
		return err
	}
	return c.err
}

// outgrows sends more than may be kept for another attempt. From the chunk on that
// does not fit the stream depends on the attempt that it has.
func outgrows(ctx context.Context, s *stage) error {
	c, err := s.upload(ctx, "An upload is larger than the replay limit, and nothing breaks",
		func(testsrv.Arrival) testsrv.Step { return testsrv.Echo() },
		interceptor.WithCallReplayLimit(4*chunkSize))
	if err != nil {
		return err
	}
	return c.err
}

// upload sends the chunks. The server's one answer is all that it got.
func (s *stage) upload(
	ctx context.Context, title string,
	serve func(testsrv.Arrival) testsrv.Step,
	opts ...grpc.CallOption,
) (*call, error) {
	return s.perform(ctx, title, testsrv.Upload, serve, func(client testv1.TestServiceClient, c *call) {
		stream, err := client.Upload(ctx, append(opts, interceptor.WithTimeline(&c.timeline))...)
		if err != nil {
			c.err = err
			return
		}
		for n := range chunks {
			time.Sleep(pause)
			if stream.Send(chunk(n+1)) != nil {
				break // CloseAndRecv says why
			}
		}
		answer, err := stream.CloseAndRecv()
		if err != nil {
			c.err = err
			return
		}
		for line := range strings.Lines(string(answer.GetPayload())) {
			c.got = append(c.got, strings.TrimSpace(line))
		}
	})
}

// chunk returns the n-th, a line that is filled with spaces.
func chunk(n int) *testv1.UploadRequest {
	return &testv1.UploadRequest{Payload: fmt.Appendf(nil, "%-*s\n", chunkSize-1, fmt.Sprint("chunk ", n))}
}
