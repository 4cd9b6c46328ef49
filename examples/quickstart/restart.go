package main

import (
	"context"
	"time"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// restart puts a steady load on a server that goes away for a second: connections are cut,
// and new ones are refused. An attempt that finds no connection has not been sent, so it waits
// for one, and even payments get over the restart. There is nothing to configure.
func restart(ctx context.Context, s *stage) error {
	s.title("A restart of one second under load")

	server, err := testsrv.New(testsrv.TCP(""), testsrv.NoRecording())
	if err != nil {
		return err
	}
	defer server.Close()
	c, err := s.dial(server.Addr(), s.phase("restart"))
	if err != nil {
		return err
	}
	defer c.Close()

	restarted := make(chan error, 1)
	time.AfterFunc(500*time.Millisecond, func() {
		if err := server.Refuse(true); err != nil {
			restarted <- err
			return
		}
		server.KillConns()
		time.AfterFunc(time.Second, func() { restarted <- server.Refuse(false) })
	})
	timelines := load(ctx, 2*time.Second, func(opt interceptor.CallOption) error {
		_, err := c.Get(ctx, &testv1.GetRequest{Id: "user-1"}, opt)
		return err
	})
	if err := <-restarted; err != nil {
		return err
	}
	failed, longest := 0, &timelines[0]
	for i := range timelines {
		if timelines[i].Reason != interceptor.EndSucceeded {
			failed++
		}
		if timelines[i].Elapsed() > longest.Elapsed() {
			longest = &timelines[i]
		}
	}
	s.say(longest)
	s.say(failed, "of", len(timelines), "calls failed.")
	return ctx.Err()
}
