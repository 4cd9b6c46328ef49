package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
)

// crew are programs as users have them: each with an interceptor, policies from a control plane,
// and calls all the time.
type crew struct {
	t       *testing.T
	stores  []*policy.Store
	calls   atomic.Int64
	failed  atomic.Int64
	back    atomic.Int64 // revisions that were lower than the one before
	rest    time.Duration
	working sync.WaitGroup
	stop    context.CancelFunc
}

// calling starts so many instances of the shop, which take their policies from the replicas of a
// control plane and make calls to backend with rest between them.
func calling(t *testing.T, size int, replicas []string, backend string, rest time.Duration) *crew {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &crew{t: t, rest: rest, stop: stop}
	for i := range size {
		control := manual.NewBuilderWithScheme("replicas")
		var at []resolver.Address
		for j := range replicas { // each client has another one first
			at = append(at, resolver.Address{Addr: replicas[(i+j)%len(replicas)]})
		}
		control.InitialState(resolver.State{Addresses: at})
		st := new(policy.Store)
		it, err := interceptor.New(interceptor.WithPolicies(st))
		require.NoError(t, err)
		w, err := controlplane.Watch("replicas:///", controlplane.Node{Service: "shop", Instance: fmt.Sprint("shop-", i)}, st,
			controlplane.WithReports(it.MethodCounts), controlplane.WithLogger(slog.New(slog.DiscardHandler)),
			controlplane.WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(control)))
		require.NoError(t, err)
		conn, err := grpc.NewClient(backend, append(it.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		require.NoError(t, err)
		c.stores = append(c.stores, st)
		c.working.Go(func() { c.work(ctx, testv1.NewTestServiceClient(conn)) })
		c.working.Go(func() { c.look(ctx, st) })
		t.Cleanup(func() {
			_ = w.Close()
			_ = conn.Close()
		})
	}
	t.Cleanup(c.end)
	return c
}

func (c *crew) end() {
	c.stop()
	c.working.Wait()
}

// work makes calls until ctx is done.
func (c *crew) work(ctx context.Context, to testv1.TestServiceClient) {
	for {
		pause := time.NewTimer(time.Duration(rand.Float64() * 2 * float64(c.rest)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		within, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, err := to.Pay(within, new(testv1.PayRequest))
		cancel()
		if ctx.Err() != nil {
			return
		}
		c.calls.Add(1)
		if err != nil {
			c.failed.Add(1)
		}
	}
}

// look sees to it that no store goes back.
func (c *crew) look(ctx context.Context, st *policy.Store) {
	for last := uint64(0); ; {
		changed := st.Changed()
		if now := st.Status().Revision; now < last {
			c.back.Add(1)
		} else {
			last = now
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// all waits until all have what is asked for.
func (c *crew) all(ok func(policy.Status) bool) {
	c.t.Helper()
	for _, st := range c.stores {
		for {
			changed := st.Changed()
			if ok(st.Status()) {
				break
			}
			select {
			case <-changed:
			case <-c.t.Context().Done():
				require.Fail(c.t, "not all have it", "%+v", st.Status())
			}
		}
	}
}

// newest accepts a store that has that revision, from a source that is there.
func newest(revision uint64) func(policy.Status) bool {
	return func(s policy.Status) bool { return s.Revision == revision && s.State() == policy.StateCurrent }
}

// backend serves what the crew calls: handle says how each call goes.
func backend(t *testing.T, handle func() testsrv.Step) string {
	t.Helper()
	srv, err := testsrv.New(testsrv.TCP(""), testsrv.NoRecording())
	require.NoError(t, err)
	t.Cleanup(srv.Close)
	srv.Handle(testsrv.Pay, func(testsrv.Arrival) testsrv.Step { return handle() })
	return srv.Addr()
}
