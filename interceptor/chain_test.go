package interceptor_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// hop is a service that asks the next one, over TCP.
type hop struct {
	testv1.UnimplementedTestServiceServer
	next testv1.TestServiceClient // nil at the end of the chain

	asked atomic.Int32
}

func (h *hop) Get(ctx context.Context, req *testv1.GetRequest) (*testv1.GetResponse, error) {
	h.asked.Add(1)
	if h.next == nil {
		return nil, status.Error(codes.Unavailable, "overloaded")
	}
	return h.next.Get(ctx, req)
}

// serve returns a client of the service.
func (h *hop) serve(t *testing.T, it *interceptor.Interceptor) testv1.TestServiceClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := grpc.NewServer()
	testv1.RegisterTestServiceServer(srv, h)
	go func() { _ = srv.Serve(l) }() // ends with Stop
	t.Cleanup(srv.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), append(it.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return testv1.NewTestServiceClient(conn)
}

// requestsAtTheEnd returns how many requests the last of three services gets for one call, and how
// the calls of the chain ended.
func requestsAtTheEnd(t *testing.T, p policy.Policy) (requests int, reasons map[interceptor.EndReason]int) {
	t.Helper()
	ends := &endings{seen: make(map[interceptor.EndReason]int)}
	it := newInterceptor(t, named(p), interceptor.WithObserver(ends),
		interceptor.WithTargetBudget(func(string) budget.Budget { return nil }))
	var next testv1.TestServiceClient
	var last *hop
	for range 3 {
		h := &hop{next: next}
		if last == nil {
			last = h
		}
		next = h.serve(t, it)
	}
	_, err := next.Get(t.Context(), &testv1.GetRequest{Id: "1"})
	require.Equal(t, codes.Unavailable, status.Code(err))
	return int(last.asked.Load()), ends.seen
}

// endings counts why calls ended.
type endings struct {
	mu   sync.Mutex
	seen map[interceptor.EndReason]int
}

func (*endings) Start(ctx context.Context, _ *interceptor.Event) context.Context { return ctx }

func (e *endings) Observe(_ context.Context, ev *interceptor.Event) {
	if ev.Kind == interceptor.CallEnd {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.seen[ev.Timeline.Reason]++
	}
}

// TestStopChain: three attempts at each of three services are 27 requests at the last.
func TestStopChain(t *testing.T) {
	t.Parallel()
	p := exact(idempotent, func(p *policy.Policy) { p.Retry.Backoff.Initial = policy.NoWait })
	n, _ := requestsAtTheEnd(t, p)
	assert.Equal(t, 27, n)
	p.Retry.StopChain = true
	n, reasons := requestsAtTheEnd(t, p)
	assert.LessOrEqual(t, n, 9)
	assert.Equal(t, 7, n, "3 for each call that serves an original, 1 for each that serves a retry")
	assert.Positive(t, reasons[interceptor.EndChainStopped])
}

// TestStopChainOfHedges: nor is a call hedged that serves a retry.
func TestStopChainOfHedges(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact(idempotent, func(p *policy.Policy) {
			p.Hedge.Delay, p.Retry.StopChain, p.Retry.MaxAttempts = 10*ms, true, 2
		})))
		for serving, attempts := range map[string]int{"": 2, "0": 2, "1": 1, "3": 1} {
			ctx := t.Context()
			if serving != "" {
				ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("grpc-previous-rpc-attempts", serving))
			}
			srv.Script(testsrv.Get, testsrv.Do(testsrv.Delay(50*ms), testsrv.OK()))
			tl, err := c.call(ctx, testsrv.Get)
			require.NoError(t, err)
			assert.Len(t, tl.Attempts, attempts, "serving %q: %v", serving, tl)
			if attempts == 1 {
				require.Len(t, tl.Denials, 1)
				assert.Equal(t, interceptor.DeniedChainStopped, tl.Denials[0].Reason)
			}
			virtual.Sleep(time.Second)
		}
	})
}

// TestStopChainOfStreams: a stream of such a call is opened once.
func TestStopChainOfStreams(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{watchKind, uploadKind, chatKind} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, named(exact(idempotent, func(p *policy.Policy) { p.Retry.StopChain = true })))
			srv.Script(k.method, testsrv.Fail(codes.Unavailable, "down"))
			ctx, cancel := context.WithCancel(metadata.NewIncomingContext(t.Context(), metadata.Pairs("grpc-previous-rpc-attempts", "1")))
			defer cancel()
			a := c.openWith(ctx, cancel, k, nil, append(k.sendsAll(), receives)...)
			require.NotNil(t, a.cs)
			assert.Equal(t, interceptor.EndChainStopped, a.tl.Reason, "%v", &a.tl)
			assert.Equal(t, 1, srv.Count(k.method))
		})
	}
}
