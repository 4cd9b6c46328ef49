package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// rules of the client.
var rules = []policy.Rule{
	{Methods: []string{testsrv.Get}, Policy: policy.Policy{Name: "reads", Hedge: policy.Hedge{MaxExtraLoad: 0.05}}},
	{Methods: []string{testsrv.Put}, Policy: policy.Policy{Name: "writes", Idempotency: classify.Idempotent}},
}

const perMethod = 100 // calls per second

// load calls a server that does badly until ctx is done, and returns how many calls it made.
func load(ctx context.Context, it *interceptor.Interceptor) (calls int64, err error) {
	srv, err := testsrv.New(testsrv.TCP("127.0.0.1:0"), testsrv.NoRecording())
	if err != nil {
		return 0, err
	}
	defer srv.Close()
	script(srv)
	conn, err := srv.Dial(it.DialOptions()...)
	if err != nil {
		return 0, err
	}
	c := testv1.NewTestServiceClient(conn)
	var made atomic.Int64
	var running sync.WaitGroup
	ticker := time.NewTicker(time.Second / perMethod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			running.Wait()
			return made.Load(), conn.Close()
		case <-ticker.C:
		}
		for _, call := range []func(context.Context, testv1.TestServiceClient){get, put, pay, watch} {
			running.Go(func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				defer cancel()
				call(ctx, c)
				made.Add(1)
			})
		}
	}
}

// script is how the server does badly.
func script(srv *testsrv.Server) {
	one := func(in int) bool { return rand.IntN(in) == 0 }
	fails := testsrv.Fail(codes.Unavailable, "overloaded")
	srv.Handle(testsrv.Get, func(testsrv.Arrival) testsrv.Step {
		took := 2*time.Millisecond + rand.N(3*time.Millisecond)
		if one(50) {
			took = 200 * time.Millisecond
		}
		return testsrv.Do(testsrv.Delay(took), testsrv.Echo())
	})
	srv.Handle(testsrv.Put, func(testsrv.Arrival) testsrv.Step {
		if one(10) {
			return fails
		}
		return testsrv.Echo()
	})
	srv.Handle(testsrv.Pay, func(testsrv.Arrival) testsrv.Step {
		if one(20) {
			return fails
		}
		return testsrv.Echo()
	})
	srv.Handle(testsrv.Watch, func(testsrv.Arrival) testsrv.Step {
		if one(5) {
			return testsrv.Do(testsrv.Send(1), fails)
		}
		return testsrv.Do(testsrv.Send(3), testsrv.OK())
	})
}

// What fails is counted by the interceptor.

func get(ctx context.Context, c testv1.TestServiceClient) {
	_, _ = c.Get(ctx, &testv1.GetRequest{Id: "1"})
}

func put(ctx context.Context, c testv1.TestServiceClient) {
	_, _ = c.Put(ctx, &testv1.PutRequest{Id: "1"})
}

func pay(ctx context.Context, c testv1.TestServiceClient) {
	_, _ = c.Pay(ctx, &testv1.PayRequest{Id: "1"})
}

func watch(ctx context.Context, c testv1.TestServiceClient) {
	s, err := c.Watch(ctx, &testv1.WatchRequest{Id: "1"})
	for err == nil {
		_, err = s.Recv()
	}
}
