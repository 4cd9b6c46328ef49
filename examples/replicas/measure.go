package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/examples/internal/openloop"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// A result is what a run shows.
type result struct {
	latencies []time.Duration // sorted, from when calls were to start
	failed    float64         // share of the calls
	attempts  float64         // per call
	same      float64         // share of the second attempts that went where the first had gone
	example   string          // the timeline of a call with two attempts
}

// quantile returns the latency that 1-q of the calls exceed.
func (r result) quantile(q float64) time.Duration {
	return r.latencies[min(int(q*float64(len(r.latencies))), len(r.latencies)-1)]
}

// slow returns the share of calls that took more than 200 ms.
func (r result) slow() float64 {
	n, _ := slices.BinarySearch(r.latencies, 200*ms+1)
	return float64(len(r.latencies)-n) / float64(len(r.latencies))
}

// A stage is where a scenario is played: how long, how calls wait for their time, and on
// what kind of servers.
type stage struct {
	length time.Duration
	wait   func(until time.Time)
	server []testsrv.Option
}

// measure offers the load to three replicas, of which the first is bad.
func (s stage) measure(sc scenario, b balancing) (result, error) {
	var replicas []*testsrv.Server
	dial := map[string]func(context.Context, string) (net.Conn, error){}
	var found resolver.State
	for i := range 3 {
		srv, err := testsrv.New(append(s.server, testsrv.NoRecording(), testsrv.Hostname(fmt.Sprintf("replica-%d", i+1)))...)
		if err != nil {
			return result{}, err
		}
		defer srv.Close()
		srv.Script(testsrv.Get, healthy)
		replicas = append(replicas, srv)
		dial[srv.Addr()] = srv.DialContext
		found.Endpoints = append(found.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: srv.Addr()}}})
	}
	replicas[0].Script(testsrv.Get, sc.bad)

	// The budget would be another reason why calls fail.
	rego, err := interceptor.New(interceptor.WithPolicy(sc.policy), interceptor.WithTargetBudget(func(string) budget.Budget { return nil }))
	if err != nil {
		return result{}, err
	}
	names := manual.NewBuilderWithScheme("replicas")
	names.InitialState(found)
	conn, err := grpc.NewClient("replicas:///all", append(rego.DialOptions(),
		grpc.WithResolvers(names),
		grpc.WithDefaultServiceConfig(b.serviceConfig),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dial[addr](ctx, addr) }))...)
	if err != nil {
		return result{}, err
	}
	defer conn.Close()
	client := testv1.NewTestServiceClient(conn)
	if err := connect(client, replicas, b); err != nil {
		return result{}, err
	}
	return s.offer(client), nil
}

// connect makes calls until all replicas have answered one: what it takes to connect is not
// what is measured.
func connect(client testv1.TestServiceClient, replicas []*testsrv.Server, b balancing) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if b.name == "pick_first" {
		replicas = replicas[:1]
	}
	for slices.ContainsFunc(replicas, func(r *testsrv.Server) bool { return r.Count(testsrv.Put) == 0 }) {
		if _, err := client.Put(ctx, &testv1.PutRequest{}, grpc.WaitForReady(true)); err != nil {
			return err
		}
	}
	return nil
}

// offer makes all calls, each at its time.
func (s stage) offer(client testv1.TestServiceClient) (r result) {
	at := openloop.Poisson(rand.New(rand.NewPCG(500, 1)), callsPerSecond, s.length)
	r.latencies = make([]time.Duration, len(at))
	timelines, failed := make([]interceptor.Timeline, len(at)), make([]error, len(at))
	openloop.Offer(at, s.wait, func(i int, due time.Time) {
		_, failed[i] = client.Get(context.Background(), &testv1.GetRequest{}, interceptor.WithTimeline(&timelines[i]))
		r.latencies[i] = time.Since(due)
	})
	slices.Sort(r.latencies)
	seconds := 0.0
	for i := range timelines {
		tl := &timelines[i]
		r.attempts += float64(len(tl.Attempts)) / float64(len(at))
		if failed[i] != nil {
			r.failed += 1 / float64(len(at))
		}
		if len(tl.Attempts) < 2 {
			continue
		}
		seconds++
		if first, second := tl.Attempts[0].Peer, tl.Attempts[1].Peer; first != nil && second != nil && first.String() == second.String() {
			r.same++
		}
		if r.example == "" {
			r.example = tl.String()
		}
	}
	if seconds > 0 {
		r.same /= seconds
	}
	return r
}
