package main

import (
	"context"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// pushback calls a server that says when to come back, in the trailer
// grpc-retry-pushback-ms: the retry waits exactly that long.
func pushback(ctx context.Context, s *stage) error {
	s.title("UNAVAILABLE, and the server says to come back in 200 ms")

	server, err := testsrv.New(testsrv.TCP(""))
	if err != nil {
		return err
	}
	defer server.Close()
	server.Script(testsrv.Get,
		testsrv.Do(testsrv.Pushback("200"), testsrv.Fail(codes.Unavailable, "warming up")),
		testsrv.Echo(),
	)
	c, err := s.dial(server.Addr(), s.phase("pushback"))
	if err != nil {
		return err
	}
	defer c.Close()

	var tl interceptor.Timeline
	_, err = c.Get(ctx, &testv1.GetRequest{Id: "user-1"}, interceptor.WithTimeline(&tl))
	s.say(&tl)
	return err
}
