// Package mixed is a load of everything that a client shows of itself: calls that are retried,
// hedged, denied and refused, streams, and a backend that is ill from time to time.
package mixed

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// An illness of the second backend: it lasts so long, once in every period.
const (
	illPeriod = 4 * time.Minute
	illFor    = time.Minute
)

// Targets are the names of the backends, which are on this machine.
var Targets = [2]string{"passthrough:///shop.example:443", "passthrough:///search.example:443"}

// Load is two backends and calls to them.
type Load struct {
	Interceptor *interceptor.Interceptor

	servers [2]*testsrv.Server
	conns   [2]*grpc.ClientConn
	ill     func() bool
}

// New starts the backends, and makes an interceptor with options of the caller's besides those
// of the load. The second backend is ill once in a while, the first time after 30 s.
func New(opts ...interceptor.Option) (*Load, error) {
	start := time.Now()
	l := &Load{ill: func() bool {
		return (time.Since(start)+illPeriod-30*time.Second)%illPeriod < illFor
	}}
	store, err := storeOfPolicies()
	if err != nil {
		return nil, err
	}
	l.Interceptor, err = interceptor.New(append(opts, interceptor.WithPolicies(store), interceptor.WithLogger(slog.New(slog.DiscardHandler)))...)
	if err != nil {
		return nil, err
	}
	for i := range l.servers {
		if l.servers[i], err = testsrv.New(testsrv.TCP(""), testsrv.NoRecording()); err != nil {
			return nil, err
		}
		l.conns[i], err = grpc.NewClient(Targets[i], append(l.Interceptor.DialOptions(),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(l.servers[i].DialContext))...)
		if err != nil {
			return nil, err
		}
	}
	l.script()
	return l, nil
}

// storeOfPolicies has a set in force, and has refused a later one.
func storeOfPolicies() (*policy.Store, error) {
	set := policy.Set{Version: "2026-11-20", Revision: 41, Rules: []policy.Rule{
		{Methods: []string{testsrv.Get}, Policy: policy.Policy{Name: "read", Timeout: time.Second, Retry: policy.Retry{MaxAttempts: 4}}},
		{Methods: []string{testsrv.Put}, Policy: policy.Policy{Name: "hedged", Timeout: time.Second, Hedge: policy.Hedge{MaxExtraLoad: 0.05}}},
		{Methods: []string{"/rego.test.v1.TestService/Gte"}, Policy: policy.Policy{Name: "misspelt"}},
	}}
	store, err := policy.NewStore(policy.Set{})
	if err != nil {
		return nil, err
	}
	file := store.Source("policies.yaml")
	if err := file.Update(set); err != nil {
		return nil, err
	}
	set.Version, set.Revision = "2026-11-26", 42
	set.Rules = []policy.Rule{{Methods: []string{testsrv.Get}, Policy: policy.Policy{Retry: policy.Retry{MaxAttempts: 1000}}}}
	if err := file.Update(set); err == nil {
		return nil, errors.New("a set with 1,000 attempts was taken")
	}
	return store, nil
}

// script says what the backends do.
func (l *Load) script() {
	l.servers[0].Handle(testsrv.Get, func(testsrv.Arrival) testsrv.Step {
		if rand.Float64() < 0.03 {
			return testsrv.Fail(codes.Unavailable, "restarting")
		}
		return testsrv.Do(testsrv.Delay(latency(0.02)), testsrv.Echo())
	})
	l.servers[0].Handle(testsrv.Put, func(testsrv.Arrival) testsrv.Step {
		return testsrv.Do(testsrv.Delay(latency(0.04)), testsrv.Echo())
	})
	l.servers[0].Handle(testsrv.Pay, func(testsrv.Arrival) testsrv.Step {
		switch p := rand.Float64(); {
		case p < 0.04:
			return testsrv.Fail(codes.Internal, "broken")
		case p < 0.07:
			return testsrv.Fail(codes.FailedPrecondition, "no money")
		}
		return testsrv.Do(testsrv.Delay(latency(0.01)), testsrv.Echo())
	})
	l.servers[0].Handle(testsrv.Watch, func(testsrv.Arrival) testsrv.Step {
		switch p := rand.Float64(); {
		case p < 0.2:
			return testsrv.Fail(codes.Unavailable, "before the first message")
		case p < 0.3:
			return testsrv.Do(testsrv.Send(3), testsrv.Delay(20*time.Millisecond), testsrv.Fail(codes.Unavailable, "after the first message"))
		}
		return testsrv.Do(testsrv.Send(3), testsrv.Delay(50*time.Millisecond), testsrv.Send(3), testsrv.OK())
	})
	l.servers[1].Handle(testsrv.Get, func(testsrv.Arrival) testsrv.Step {
		if l.ill() && rand.Float64() < 0.8 {
			return testsrv.Do(testsrv.Delay(latency(0)), testsrv.Fail(codes.Unavailable, "overloaded"))
		}
		return testsrv.Do(testsrv.Delay(latency(0.02)), testsrv.Echo())
	})
}

// latency is some milliseconds, and of a share of the requests much more.
func latency(slow float64) time.Duration {
	ms := 2 + 2*rand.ExpFloat64()
	if rand.Float64() < slow {
		ms += 60 + 40*rand.ExpFloat64()
	}
	return time.Duration(ms * float64(time.Millisecond))
}

// Run makes calls until ctx is done, each kind at its rate per second, and returns how many.
func (l *Load) Run(ctx context.Context) int64 {
	var made atomic.Int64
	var kinds, calls sync.WaitGroup
	for _, kind := range []struct {
		rate float64
		call func(ctx context.Context)
	}{
		{60, func(ctx context.Context) {
			_ = l.conns[0].Invoke(ctx, testsrv.Get, &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse))
		}},
		{60, func(ctx context.Context) {
			_ = l.conns[0].Invoke(ctx, testsrv.Put, &testv1.PutRequest{Id: "1"}, new(testv1.PutResponse))
		}},
		{10, func(ctx context.Context) {
			_ = l.conns[0].Invoke(ctx, testsrv.Pay, &testv1.PayRequest{Id: "1"}, new(testv1.PayResponse))
		}},
		{3, l.watch},
		{40, func(ctx context.Context) {
			_ = l.conns[1].Invoke(ctx, testsrv.Get, &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse))
		}},
	} {
		kinds.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Duration(rand.ExpFloat64() / kind.rate * float64(time.Second))):
					made.Add(1)
					calls.Go(func() { kind.call(ctx) })
				}
			}
		})
	}
	kinds.Wait()
	calls.Wait()
	return made.Load()
}

// watch reads a stream to its end.
func (l *Load) watch(ctx context.Context) {
	stream, err := testv1.NewTestServiceClient(l.conns[0]).Watch(ctx, &testv1.WatchRequest{Id: "1"})
	for err == nil {
		if _, err = stream.Recv(); errors.Is(err, io.EOF) {
			return
		}
	}
}

// Close ends the connections and the backends.
func (l *Load) Close() {
	for i := range l.conns {
		_ = l.conns[i].Close()
		l.servers[i].Close()
	}
}
