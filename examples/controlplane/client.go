package main

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/interceptor"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
)

// client is a program that calls a backend all the time, by policies of a control plane.
type client struct {
	name, control, backend, snapshot string
}

// report is what a client prints of itself, a line each 100 ms.
type report struct {
	Shows    string // where its debug page and its metrics are
	Policies string // version that calls used since the last report
	State    string
	Source   string
	Refused  string // why the last set was refused; empty if none was

	// Since the client has started.
	Calls, Failed int
	Slowest       time.Duration
	Failure       string // of the last call that failed
}

// callTimeout is the deadline of each call: what takes longer has failed.
const callTimeout = 2 * time.Second

func (c client) run(w io.Writer) error {
	store, err := policy.NewStore(policy.Set{Version: "built in"}, policy.Snapshot(c.snapshot))
	if err != nil {
		return err
	}
	// No control plane can ask for more than this.
	if err := store.Guard(policy.Limits{MaxAttempts: 5, MaxExtraLoad: 0.1, MaxTimeout: time.Minute}.Check); err != nil {
		return err
	}
	metrics, registry, err := newMetrics()
	if err != nil {
		return err
	}
	it, err := interceptor.New(interceptor.WithPolicies(store), interceptor.WithRecorder(metrics))
	if err != nil {
		return err
	}
	shows, err := show(it, metrics, registry)
	if err != nil {
		return err
	}
	watcher, err := controlplane.Watch(c.control, controlplane.Node{Service: "shop", Instance: c.name}, store,
		controlplane.WithLogger(slog.New(slog.DiscardHandler)),
		controlplane.WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		return err
	}
	defer watcher.Close()
	conn, err := grpc.NewClient(c.backend, append(it.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return err
	}
	defer conn.Close()

	l := &load{stub: testv1.NewTestServiceClient(conn), sums: report{Shows: shows}}
	for range 4 {
		go l.callForever()
	}
	for range time.Tick(100 * time.Millisecond) {
		if err := json.NewEncoder(w).Encode(l.report(store)); err != nil {
			return nil // nobody reads any more
		}
	}
	return nil
}

// load is what the calls of a client come to.
type load struct {
	stub testv1.TestServiceClient

	mu   sync.Mutex
	sums report
}

func (l *load) callForever() {
	for range time.Tick(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		var tl interceptor.Timeline
		start := time.Now()
		_, err := l.stub.Get(ctx, &testv1.GetRequest{Id: "basket"}, interceptor.WithTimeline(&tl))
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
	if status.Refusal != nil {
		r.Refused = status.Refusal.Err.Error()
	}
	return r
}
