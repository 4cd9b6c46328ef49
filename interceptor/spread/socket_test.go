package spread_test

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	_ "google.golang.org/grpc/balancer/leastrequest"
	_ "google.golang.org/grpc/balancer/randomsubsetting"
	_ "google.golang.org/grpc/balancer/ringhash"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/spread"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// What only real servers show, over loopback TCP. Nothing here depends on how long things
// take.

// fast is a policy that retries at once.
func fast(change ...func(*policy.Policy)) policy.Policy {
	p := policy.Policy{Retry: policy.Retry{Backoff: policy.Backoff{Initial: policy.NoWait}}}
	for _, f := range change {
		f(&p)
	}
	return p
}

// cluster is some servers, and a resolver that knows them.
type cluster struct {
	*testing.T
	servers  []*testsrv.Server
	resolver *manual.Resolver
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{T: t, resolver: manual.NewBuilderWithScheme("cluster")}
	var state resolver.State
	for range 3 {
		srv := testsrv.Start(t, testsrv.TCP(""))
		c.servers = append(c.servers, srv)
		state.Endpoints = append(state.Endpoints, endpoint(srv.Addr()))
	}
	c.resolver.InitialState(state)
	return c
}

func endpoint(addrs ...string) (e resolver.Endpoint) {
	for _, a := range addrs {
		e.Addresses = append(e.Addresses, resolver.Address{Addr: a})
	}
	return e
}

// dial returns a connection through rego, to all of the servers.
func (c *cluster) dial(serviceConfig string, p policy.Policy, opts ...interceptor.Option) *grpc.ClientConn {
	c.Helper()
	it, err := interceptor.New(append([]interceptor.Option{
		interceptor.WithRules(policy.Rule{Methods: []string{"*"}, Policy: p}),
		interceptor.WithLogger(slog.New(slog.DiscardHandler)),
		interceptor.WithTargetBudget(func(string) budget.Budget { return nil }),
	}, opts...)...)
	require.NoError(c, err)
	conn, err := grpc.NewClient("cluster:///servers", append(it.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(c.resolver), grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1, MaxDelay: time.Millisecond}, MinConnectTimeout: time.Second}),
	)...)
	require.NoError(c, err)
	c.Cleanup(func() { _ = conn.Close() })
	return conn
}

// connect makes calls until all servers have had one of this connection.
func (c *cluster) connect(conn *grpc.ClientConn) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 30*time.Second)
	defer cancel()
	for _, s := range c.servers {
		for before := s.Count(testsrv.Put); s.Count(testsrv.Put) == before; {
			_, err := testv1.NewTestServiceClient(conn).Put(ctx, &testv1.PutRequest{}, grpc.WaitForReady(true))
			require.NoError(c, err)
		}
	}
}

func get(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) (*interceptor.Timeline, error) {
	var tl interceptor.Timeline
	_, err := testv1.NewTestServiceClient(conn).Get(ctx, &testv1.GetRequest{}, append(opts, interceptor.WithTimeline(&tl))...)
	return &tl, err
}

// checkBackends holds a timeline against itself: of the attempts that went to one backend all
// but one say that there was no other, and if exact only if all had been used. They may have
// been picked for in another order than they began in.
func checkBackends(t *testing.T, tl *interceptor.Timeline, exact bool) {
	t.Helper()
	attempts, again := map[string]int{}, map[string]int{}
	for _, a := range tl.Attempts {
		if a.Backend == "" {
			assert.Nil(t, a.Peer, "%v", tl) // it was cancelled before
			continue
		}
		attempts[a.Backend]++
		if a.NoOtherBackend {
			again[a.Backend]++
		}
		if a.Peer != nil {
			assert.Equal(t, a.Peer.String(), a.Backend, "%v", tl)
		}
	}
	for backend, n := range attempts {
		assert.Equal(t, n-1, again[backend], "%v", tl)
		assert.False(t, exact && n > 1 && len(attempts) < 3, "%v", tl)
	}
}

// policies are all that find another backend, and whether they do so for sure.
var policies = map[string]struct {
	config string
	exact  bool
}{
	"rego_round_robin":     {spread.ServiceConfig(spread.RoundRobin), true},
	"spread round_robin":   {spread.ServiceConfig("round_robin"), true}, // as long as calls come one after the other
	"spread least_request": {spread.ServiceConfig("least_request_experimental"), false},
	"spread ring_hash at random": {
		`{"loadBalancingConfig":[{"rego_spread":{"childPolicy":[{"ring_hash_experimental":{"requestHashHeader":"none-such"}}]}}]}`, false,
	},
	"below another, which writes its config anew": {
		`{"loadBalancingConfig":[{"random_subsetting_experimental":{"subsetSize":3,"childPolicy":[{"rego_spread":{"childPolicy":[{"round_robin":{}}]}}]}}]}`, true,
	},
	"spread rego_round_robin": {
		`{"loadBalancingConfig":[{"none_such":{}},{"rego_spread":{"childPolicy":[{"none_such":{}},{"rego_round_robin":{}}]}}]}`, true,
	},
}

// TestRetries: one of three servers fails, and no call does.
func TestRetries(t *testing.T) {
	t.Parallel()
	for name, p := range policies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			conn := c.dial(p.config, fast())
			c.connect(conn)
			c.servers[0].Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "ill"))
			failed := 0
			for range 200 {
				tl, err := get(t.Context(), conn)
				require.NoError(t, err, "%v", tl)
				checkBackends(t, tl, p.exact)
				failed += len(tl.Attempts) - 1
			}
			assert.Positive(t, failed)
			assert.Equal(t, failed, c.servers[0].Count(testsrv.Get))
		})
	}
}

// TestRetriesOfUnwatchedCalls: the same of calls that nobody watches. They run side by side, so
// that the retry of one would come to the server that fails, if it did not know of it.
func TestRetriesOfUnwatchedCalls(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	conn := c.dial(spread.ServiceConfig(spread.RoundRobin), fast(func(p *policy.Policy) { p.Retry.MaxAttempts = 2 }))
	c.connect(conn)
	_, err := get(t.Context(), conn) // the first call of a method is timed
	require.NoError(t, err)
	c.servers[0].Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "ill"))
	before := c.servers[0].Count(testsrv.Get)
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			for range 50 {
				_, err := testv1.NewTestServiceClient(conn).Get(t.Context(), &testv1.GetRequest{})
				assert.NoError(t, err)
			}
		})
	}
	calls.Wait()
	assert.Greater(t, c.servers[0].Count(testsrv.Get), before)
}

// TestAllFail: five attempts for three backends. With all used what comes is taken, and the
// timeline says so.
func TestAllFail(t *testing.T) {
	t.Parallel()
	for name, p := range policies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			conn := c.dial(p.config, fast(func(p *policy.Policy) { p.Retry.MaxAttempts = 5 }))
			c.connect(conn)
			for _, s := range c.servers {
				s.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "ill"))
			}
			for range 20 {
				tl, err := get(t.Context(), conn)
				require.Equal(t, codes.Unavailable, status.Code(err))
				require.Len(t, tl.Attempts, 5)
				checkBackends(t, tl, p.exact)
				i := slices.IndexFunc(tl.Attempts, func(a interceptor.Attempt) bool { return a.NoOtherBackend })
				require.GreaterOrEqual(t, i, 1, "%v", tl)
				assert.Contains(t, tl.String(), "to "+tl.Attempts[i].Backend+" again: no other backend")
			}
		})
	}
}

// TestHedges: one of three servers does not answer, and hedges never go there.
func TestHedges(t *testing.T) {
	t.Parallel()
	for name, p := range policies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			conn := c.dial(p.config, fast(func(p *policy.Policy) { p.Hedge.Delay = time.Millisecond }))
			c.connect(conn)
			c.servers[0].Script(testsrv.Get, testsrv.Hang())
			var calls sync.WaitGroup
			for range 8 {
				calls.Go(func() {
					for range 25 {
						tl, err := get(t.Context(), conn)
						checkBackends(t, tl, name == spread.RoundRobin)
						assert.NoError(t, err, "%v", tl)
					}
				})
			}
			calls.Wait()
		})
	}
}

// TestSticky: policies that always pick the same go on doing so.
func TestSticky(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]string{
		"pick_first": spread.ServiceConfig("pick_first"),
		"ring_hash":  `{"loadBalancingConfig":[{"rego_spread":{"childPolicy":[{"ring_hash_experimental":{"requestHashHeader":"user"}}]}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			conn := c.dial(config, fast())
			for _, s := range c.servers {
				s.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "ill"))
			}
			ctx := metadata.AppendToOutgoingContext(t.Context(), "user", "1")
			first := ""
			for range 20 {
				tl, err := get(ctx, conn, grpc.WaitForReady(true))
				require.Equal(t, codes.Unavailable, status.Code(err))
				require.Len(t, tl.Attempts, 3)
				for i, a := range tl.Attempts {
					if first == "" {
						first = a.Backend
					}
					assert.Equal(t, first, a.Backend)
					assert.Equal(t, i > 0, a.NoOtherBackend)
				}
			}
		})
	}
}

// TestRestarts: servers are killed and come back, one at a time, under load. Each call ends
// well: what was lost with one is sent to another, and they are what they were before.
func TestRestarts(t *testing.T) {
	t.Parallel()
	for name, p := range policies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			conn := c.dial(p.config, fast(func(p *policy.Policy) { p.Retry.MaxAttempts = 5 }))
			c.connect(conn)
			var stop atomic.Bool
			var calls sync.WaitGroup
			defer calls.Wait()
			defer stop.Store(true)
			for range 4 {
				calls.Go(func() {
					for !stop.Load() {
						tl, err := get(t.Context(), conn)
						checkBackends(t, tl, false)
						assert.NoError(t, err, "%v", tl)
					}
				})
			}
			for round := range 9 {
				s := c.servers[round%3]
				require.NoError(t, s.Refuse(true))
				s.KillConns()
				require.NoError(t, s.Refuse(false))
				before := s.Count(testsrv.Get)
				for end := time.Now().Add(30 * time.Second); s.Count(testsrv.Get) == before; {
					require.True(t, time.Now().Before(end), "it gets no calls any more")
					_, err := get(t.Context(), conn)
					require.NoError(t, err)
				}
			}
		})
	}
}

// TestDrain: a server leaves with a GOAWAY under load.
func TestDrain(t *testing.T) {
	t.Parallel()
	for _, config := range []string{spread.ServiceConfig(spread.RoundRobin), spread.ServiceConfig("round_robin")} {
		c := newCluster(t)
		conn := c.dial(config, fast())
		c.connect(conn)
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			c.servers[1].Drain()
		}()
		for done := false; !done; {
			select {
			case <-drained:
				done = true
			default:
			}
			tl, err := get(t.Context(), conn)
			require.NoError(t, err, "%v", tl)
		}
	}
}

// TestTwoAddresses: an endpoint with an address that is dead is known by both.
func TestTwoAddresses(t *testing.T) {
	t.Parallel()
	for name, p := range policies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			dead := testsrv.Start(t, testsrv.TCP(""))
			require.NoError(t, dead.Refuse(true))
			var state resolver.State
			known := map[string]string{}
			for i, s := range c.servers {
				another := dead.Addr() + "0"[:i/2] // an address is in one endpoint only; the third has it written otherwise
				if i == 1 {
					another = "127.0.0.1:1"
				}
				e := endpoint(another, s.Addr())
				state.Endpoints = append(state.Endpoints, e)
				known[s.Addr()] = another + "," + s.Addr()
				if s.Addr() < another {
					known[s.Addr()] = s.Addr() + "," + another
				}
			}
			c.resolver.InitialState(state)
			conn := c.dial(p.config, fast())
			c.connect(conn)
			c.servers[0].Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "ill"))
			for range 50 {
				tl, err := get(t.Context(), conn)
				require.NoError(t, err, "%v", tl)
				for _, a := range tl.Attempts {
					assert.Equal(t, known[a.Peer.String()], a.Backend)
				}
			}
		})
	}
}

// TestConfigOfTheResolver: the child policy changes under load, and no call notices. The
// first call has a record already.
func TestConfigOfTheResolver(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	conn := c.dial(spread.ServiceConfig(spread.RoundRobin), fast())
	tl, err := get(t.Context(), conn)
	require.NoError(t, err)
	assert.NotEmpty(t, tl.Attempts[0].Backend)

	var stop atomic.Bool
	var calls sync.WaitGroup
	defer calls.Wait()
	defer stop.Store(true)
	for range 4 {
		calls.Go(func() {
			for !stop.Load() {
				tl, err := get(t.Context(), conn)
				checkBackends(t, tl, false)
				assert.NoError(t, err, "%v", tl)
			}
		})
	}
	state := resolver.State{}
	for _, s := range c.servers {
		state.Endpoints = append(state.Endpoints, endpoint(s.Addr()))
	}
	for range 3 {
		for _, child := range []string{"round_robin", "least_request_experimental", "rego_round_robin", "least_request_experimental"} {
			state.ServiceConfig = c.resolver.CC().ParseServiceConfig(`{"loadBalancingConfig":[{"rego_spread":{"childPolicy":[{"` + child + `":{}}]}}]}`)
			require.NoError(t, state.ServiceConfig.Err)
			c.resolver.UpdateState(state)
			for range 20 {
				_, err := get(t.Context(), conn)
				require.NoError(t, err)
			}
		}
	}
}

// TestUnknownChild: the error comes when the connection is made.
func TestUnknownChild(t *testing.T) {
	t.Parallel()
	_, err := grpc.NewClient("dns:///nobody", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(spread.ServiceConfig("no_such_policy")))
	require.ErrorContains(t, err, `rego_spread: childPolicy: none is registered of "no_such_policy"`)
}

// TestStreams: an upload that fails, a hedged watch and one that is resumed go on elsewhere.
func TestStreams(t *testing.T) {
	t.Parallel()
	for name, p := range policies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			conn := c.dial(p.config, fast())
			hedged := c.dial(p.config, fast(func(p *policy.Policy) { p.Hedge.Delay = time.Millisecond }))
			c.connect(conn)
			c.connect(hedged)
			c.servers[0].Script(testsrv.Upload, testsrv.Do(testsrv.Recv(1), testsrv.Fail(codes.Unavailable, "ill")))
			c.servers[0].Script(testsrv.Watch, testsrv.Hang())
			for range 30 {
				var tl interceptor.Timeline
				up, err := testv1.NewTestServiceClient(conn).Upload(t.Context(), interceptor.WithTimeline(&tl), interceptor.WithIdempotencyKey(""))
				require.NoError(t, err)
				for i := range 3 {
					require.NoError(t, up.Send(&testv1.UploadRequest{Id: strconv.Itoa(i)}))
				}
				_, err = up.CloseAndRecv()
				require.NoError(t, err, "%v", &tl)
				checkBackends(t, &tl, p.exact)

				tl = watch(t, hedged, interceptor.WithIdempotencyKey(""))
				checkBackends(t, &tl, false)
			}
		})
	}
}

// TestResumedStream: each attempt goes to another backend than the one before, and what was used
// long ago is no reason to avoid it.
func TestResumedStream(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	conn := c.dial(spread.ServiceConfig(spread.RoundRobin), fast())
	c.connect(conn)
	for _, s := range c.servers {
		s.Script(testsrv.Watch, slices.Concat(
			slices.Repeat([]testsrv.Step{testsrv.Do(testsrv.Send(1), testsrv.Fail(codes.Unavailable, "broken"))}, 4), []testsrv.Step{testsrv.Send(1)})...)
	}
	tl := watch(t, conn, interceptor.WithIdempotencyKey(""), interceptor.WithResume(
		func(_ *testv1.WatchResponse, req *testv1.WatchRequest) (*testv1.WatchRequest, bool) { return req, true }))
	require.Greater(t, len(tl.Attempts), 4)
	for i, a := range tl.Attempts {
		assert.False(t, a.NoOtherBackend, "%v", &tl)
		if i > 0 {
			assert.NotEqual(t, tl.Attempts[i-1].Backend, a.Backend, "%v", &tl)
		}
	}
}

func watch(t *testing.T, conn *grpc.ClientConn, opts ...grpc.CallOption) (tl interceptor.Timeline) {
	t.Helper()
	w, err := testv1.NewTestServiceClient(conn).Watch(t.Context(), &testv1.WatchRequest{}, append(opts, interceptor.WithTimeline(&tl))...)
	require.NoError(t, err)
	for err == nil {
		_, err = w.Recv()
	}
	require.ErrorIs(t, err, io.EOF, "%v", &tl)
	return tl
}

// TestOneAttempt: calls that cannot have a second attempt keep no record.
func TestOneAttempt(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	conn := c.dial(spread.ServiceConfig(spread.RoundRobin), policy.Policy{Retry: policy.Retry{Off: true}})
	tl, err := get(t.Context(), conn)
	require.NoError(t, err)
	assert.Empty(t, tl.Attempts[0].Backend)
	assert.NotNil(t, tl.Attempts[0].Peer)
}
