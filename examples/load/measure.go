package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/examples/internal/openloop"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// A result is what a run shows.
type result struct {
	calls     int     // that start in the bad phase
	attempts  float64 // of each of those, on average
	succeeded float64 // the share of those

	goodput     float64 // successful calls per second, of the bad phase and its aftermath
	against     float64 // how much goodput is above that without retries, as a share of it
	turnedAway  int     // attempts, of all calls
	denied      int     // calls, of all, that the budget denied a retry
	otherErrors int     // calls, of all, whose error is not what the server gave
	late        time.Duration
}

// A call is what both sides saw of it.
type call struct {
	at   time.Duration // after the start of the run
	late time.Duration // what it started behind that
	err  error         // what the client got

	attempts atomic.Int64                  // that reached the server
	given    atomic.Pointer[status.Status] // what the server said last
}

// A load is all calls of a run. The id of a request is its place.
type load []*call

// newLoad makes Poisson arrivals, the same ones every time.
func newLoad(length time.Duration) (l load) {
	for _, at := range openloop.Poisson(rand.New(rand.NewPCG(700, 8)), callsPerSecond, length) {
		l = append(l, &call{at: at})
	}
	return l
}

// measure runs a scenario with a budget, on a server of its own.
func measure(s shape, sc scenario, with limit, opts ...testsrv.Option) (result, error) {
	l := newLoad(s.length)
	srv, err := testsrv.New(append(opts, testsrv.NoRecording(), testsrv.ServerOptions(grpc.UnaryInterceptor(l.serve)))...)
	if err != nil {
		return result{}, err
	}
	defer srv.Close()
	rego, err := interceptor.New(
		interceptor.WithPolicy(policy.Policy{Name: with.name, Timeout: deadline, Retry: with.retry}),
		interceptor.WithTargetBudget(with.budget),
	)
	if err != nil {
		return result{}, err
	}
	conn, err := srv.Dial(rego.DialOptions()...)
	if err != nil {
		return result{}, err
	}
	defer conn.Close()

	srv.SetWorkers(sc.normal)
	bad := time.AfterFunc(s.badFrom, func() { srv.SetWorkers(sc.bad) })
	defer bad.Stop()
	good := time.AfterFunc(s.badTo, func() { srv.SetWorkers(sc.normal) })
	defer good.Stop()
	l.offer(context.Background(), testv1.NewTestServiceClient(conn))

	r := l.result(s)
	r.turnedAway = srv.TurnedAway()
	return r, nil
}

// offer makes all calls, each at its time.
func (l load) offer(ctx context.Context, client testv1.TestServiceClient) {
	times := make([]time.Duration, len(l))
	for i, c := range l {
		times[i] = c.at
	}
	openloop.Offer(times, openloop.Sleep, func(i int, due time.Time) {
		l[i].late = time.Since(due)
		_, l[i].err = client.Put(ctx, &testv1.PutRequest{Id: strconv.Itoa(i)})
	})
}

// serve notes what the server sees: attempts, and what it says of each.
func (l load) serve(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	i, err := strconv.Atoi(req.(*testv1.PutRequest).GetId())
	if err != nil {
		return nil, err
	}
	l[i].attempts.Add(1)
	res, err := handler(ctx, req)
	l[i].given.Store(status.Convert(err))
	return res, err
}

func (l load) result(s shape) (r result) {
	var attempts, succeeded, good float64
	for _, c := range l {
		r.late = max(r.late, c.late)
		if c.otherError() {
			r.otherErrors++
		}
		if e, ok := errors.AsType[*interceptor.Error](c.err); ok && e.Reason == interceptor.EndBudgetDenied {
			r.denied++
		}
		if c.err == nil && c.at >= s.badFrom && c.at < s.badTo+aftermath {
			good++
		}
		if c.at < s.badFrom || c.at >= s.badTo {
			continue
		}
		r.calls++
		attempts += float64(c.attempts.Load())
		if c.err == nil {
			succeeded++
		}
	}
	r.attempts = attempts / float64(r.calls)
	r.succeeded = succeeded / float64(r.calls)
	r.goodput = good / (s.badTo + aftermath - s.badFrom).Seconds()
	return r
}

// otherError says that the call failed with another code or text than the
// server's last, or that the server gave none.
func (c *call) otherError() bool {
	given := c.given.Load()
	return c.err != nil && (given == nil || status.Code(c.err) != given.Code() || c.err.Error() != given.Err().Error())
}
