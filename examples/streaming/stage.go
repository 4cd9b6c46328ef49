package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// stage is what the scenes share: where they print, and what became of their calls.
type stage struct {
	out   io.Writer
	calls []*call
}

func (s *stage) say(args ...any) { _, _ = fmt.Fprintln(s.out, args...) }

// call is what became of one call, seen from both sides.
type call struct {
	title    string
	timeline interceptor.Timeline

	got []string // by the application
	err error    // that the stream ended with; nil if it ended well

	served [][]string // what the server read of each attempt
}

// perform has the application make a call of the method to a server of its own, and
// prints what became of it. The error says that there was no call.
func (s *stage) perform(
	ctx context.Context, title, method string,
	serve func(testsrv.Arrival) testsrv.Step,
	app func(testv1.TestServiceClient, *call),
) (*call, error) {
	server, err := testsrv.New(testsrv.TCP(""))
	if err != nil {
		return nil, err
	}
	defer server.Close()
	server.Handle(method, serve)
	conn, err := dial(ctx, server.Addr())
	if err != nil {
		return nil, err
	}
	defer conn.Close()

	c := &call{title: title}
	app(testv1.NewTestServiceClient(conn), c)
	server.Close() // waits for attempts that were given up
	for _, a := range server.Arrivals(method) {
		var texts []string
		for _, m := range a.Received {
			texts = append(texts, text(m.(message)))
		}
		c.served = append(c.served, texts)
	}
	s.tell(c)
	return c, nil
}

// tell prints a line for the application, one for each attempt at the server, and
// the timeline.
func (s *stage) tell(c *call) {
	s.calls = append(s.calls, c)
	s.say("\n== " + c.title + "\n")
	got := strings.Join(c.got, ", ")
	if c.err != nil {
		got += ", then " + status.Code(c.err).String()
	}
	if e, ok := errors.AsType[*interceptor.Error](c.err); ok {
		got += ", not retried: " + e.Reason.String()
	}
	s.say("application got    ", got)
	for i, texts := range c.served {
		s.say(fmt.Sprintf("server, attempt %d  ", i+1), strings.Join(texts, ", "))
	}
	s.say()
	s.say(&c.timeline)
}

// take takes what was received, and reports whether more may follow.
func (c *call) take(m message, err error) bool {
	switch {
	case errors.Is(err, io.EOF):
		return false
	case err != nil:
		c.err = err
		return false
	}
	c.got = append(c.got, text(m))
	return true
}

// message is any of the service.
type message interface{ GetPayload() []byte }

func text(m message) string { return strings.TrimSpace(string(m.GetPayload())) }
