package main

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	"github.com/rego-go/rego/policy/file"
)

// client is a program that calls a backend all the time, by policies of a control plane.
type client struct {
	name, service              string
	certs, as                  string // a folder, and the name of its certificate there
	limits                     string // a file: no control plane can ask for more
	control, backend, snapshot string
	pays                       bool // by a policy in code
}

func (c client) run(w io.Writer) error {
	store, err := policy.NewStore(policy.Set{Version: "built in"}, policy.Snapshot(c.snapshot))
	if err != nil {
		return err
	}
	limits, err := file.ReadLimits(c.limits)
	if err != nil {
		return err
	}
	metrics, registry, err := newMetrics()
	if err != nil {
		return err
	}
	options := []interceptor.Option{interceptor.WithPolicies(store), interceptor.WithLimits(limits), interceptor.WithRecorder(metrics)}
	if c.pays {
		own, err := paying()
		if err != nil {
			return err
		}
		options = append(options, own...)
	}
	it, err := interceptor.New(options...)
	if err != nil {
		return err
	}
	shows, err := show(it, metrics, registry)
	if err != nil {
		return err
	}
	creds, err := credentialsOf(c.certs, c.as)
	if err != nil {
		return err
	}
	watcher, err := watch(c.control, creds, controlplane.Node{Service: c.service, Instance: c.name}, store, it)
	if err != nil {
		return err
	}
	defer watcher.Close()
	conn, err := grpc.NewClient(c.backend, append(it.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return err
	}
	defer conn.Close()

	l := &load{call: c.calls(testv1.NewTestServiceClient(conn)), sums: report{Shows: shows}}
	callers := 2
	if c.pays {
		callers = 1 // the page has the attempts of a call under way before the call itself
	}
	for range callers {
		go l.callForever()
	}
	for range time.Tick(100 * time.Millisecond) {
		if err := json.NewEncoder(w).Encode(l.report(store)); err != nil {
			return nil // nobody reads any more
		}
	}
	return nil
}

// watch has a store follow the replicas of a control plane, whose addresses have commas between
// them, and reports what the calls do.
func watch(control string, creds credentials.TransportCredentials, node controlplane.Node, store *policy.Store, it *interceptor.Interceptor) (*controlplane.Watcher, error) {
	options := []grpc.DialOption{grpc.WithTransportCredentials(creds)}
	if replicas := strings.Split(control, ","); len(replicas) > 1 {
		control = "replicas:///"
		r := manual.NewBuilderWithScheme("replicas")
		var at resolver.State
		for _, addr := range replicas {
			at.Addresses = append(at.Addresses, resolver.Address{Addr: addr})
		}
		r.InitialState(at)
		options = append(options, grpc.WithResolvers(r), grpc.WithAuthority("127.0.0.1")) // as their certificate says
	}
	return controlplane.Watch(control, node, store,
		controlplane.WithLogger(slog.New(slog.DiscardHandler)),
		controlplane.WithReports(it.MethodCounts),
		controlplane.WithDialOptions(options...))
}

// paying is the policy of payments as their owner has it in code, where it is stronger than
// what a control plane says: three attempts, and a budget that pays for all of them.
func paying() ([]interceptor.Option, error) {
	enough, err := budget.NewTokenBucket(budget.TokenBucketConfig{PerSecond: 10_000, Burst: 10_000})
	if err != nil {
		return nil, err
	}
	return []interceptor.Option{interceptor.WithBudget("payments", enough), interceptor.WithRules(policy.Rule{
		Methods: []string{testv1.TestService_Pay_FullMethodName},
		Policy: policy.Policy{
			Name:        "payments",
			Idempotency: classify.Idempotent, // the backend knows a payment by its id
			Retry:       policy.Retry{MaxAttempts: 3, Backoff: policy.Backoff{Initial: 5 * time.Millisecond}},
			Budget:      "payments",
		},
	})}, nil
}

// calls returns the call that a client makes all the time.
func (c client) calls(stub testv1.TestServiceClient) func(context.Context, ...grpc.CallOption) error {
	if c.pays {
		return func(ctx context.Context, opts ...grpc.CallOption) error {
			_, err := stub.Pay(ctx, &testv1.PayRequest{Id: "order"}, opts...)
			return err
		}
	}
	return func(ctx context.Context, opts ...grpc.CallOption) error {
		_, err := stub.Get(ctx, &testv1.GetRequest{Id: "basket"}, opts...)
		return err
	}
}

// report is what a client prints of itself, a line each 100 ms.
type report struct {
	Shows    string // where its debug page and its metrics are
	Policies string // version that calls used since the last report
	State    string
	Source   string

	// Since the client has started.
	Calls, Failed int
	Slowest       time.Duration
	Failure       string // of the last call that failed
}

// callTimeout is the deadline of each call: what takes longer has failed.
const callTimeout = 10 * time.Second

// load is what the calls of a client come to.
type load struct {
	call func(context.Context, ...grpc.CallOption) error

	mu   sync.Mutex
	sums report
}

func (l *load) callForever() {
	for range time.Tick(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		var tl interceptor.Timeline
		start := time.Now()
		err := l.call(ctx, interceptor.WithTimeline(&tl))
		l.add(&tl, time.Since(start), err)
		cancel()
	}
}

func (l *load) add(tl *interceptor.Timeline, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.sums
	s.Policies = cmp.Or(tl.PolicyVersion, s.Policies)
	s.Calls++
	s.Slowest = max(s.Slowest, took)
	if err != nil {
		s.Failed++
		s.Failure = err.Error()
	}
}

func (l *load) report(st *policy.Store) report {
	l.mu.Lock()
	r := l.sums
	l.mu.Unlock()
	status := st.Status()
	r.State, r.Source = status.State().String(), status.Source
	return r
}
