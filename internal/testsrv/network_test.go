package testsrv_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime/pprof"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
)

// soon reconnects without the second of backoff that grpc has by default.
var soon = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: time.Millisecond, MaxDelay: time.Millisecond},
	MinConnectTimeout: time.Minute,
})

// overBoth runs a test in memory, in a bubble, and over TCP.
func overBoth(t *testing.T, test func(t *testing.T, opts ...testsrv.Option)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { test(t) })
	})
	t.Run("tcp", func(t *testing.T) {
		t.Parallel()
		test(t, testsrv.TCP(""))
	})
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, opts ...testsrv.Option) {
		t.Helper()
		s := testsrv.Start(t, opts...)
		addr := s.Addr()
		cc := s.Conn(t, soon)
		connected := testv1.NewTestServiceClient(cc)
		_, err := connected.Get(t.Context(), &testv1.GetRequest{})
		require.NoError(t, err)

		require.NoError(t, s.Refuse(true))
		require.NoError(t, s.Refuse(true), "twice is once")
		_, err = s.DialContext(t.Context(), addr)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		var p peer.Peer
		_, err = client(t, s).Get(t.Context(), &testv1.GetRequest{}, grpc.Peer(&p))
		assert.Equal(t, codes.Unavailable, status.Code(err))
		require.ErrorContains(t, err, "connection refused")
		assert.Nil(t, p.Addr, "no transport, no peer")
		_, err = connected.Get(t.Context(), &testv1.GetRequest{})
		require.NoError(t, err, "a connection that exists stays")

		s.KillConns()
		cc.WaitForStateChange(t.Context(), connectivity.Ready) // until it has noticed
		require.NoError(t, s.Refuse(false))
		assert.Equal(t, addr, s.Addr())
		for _, c := range []testv1.TestServiceClient{client(t, s), connected} {
			_, err = c.Get(t.Context(), &testv1.GetRequest{}, grpc.WaitForReady(true), grpc.Peer(&p))
			require.NoError(t, err)
			assert.Equal(t, addr, p.Addr.String())
		}
	})
}

func TestKillConn(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, opts ...testsrv.Option) {
		t.Helper()
		s := testsrv.Start(t, opts...)
		victim, bystander := client(t, s, soon), client(t, s)
		hanging, gate := make(chan struct{}), make(chan struct{})
		s.Handle(testsrv.Get, func(testsrv.Arrival) testsrv.Step {
			close(hanging)
			return testsrv.Do(testsrv.Wait(gate), testsrv.OK())
		})
		survived := make(chan error, 1)
		go func() {
			_, err := bystander.Get(t.Context(), &testv1.GetRequest{})
			survived <- err
		}()
		<-hanging

		s.Script(testsrv.Put, testsrv.KillConn(), testsrv.OK())
		var header, trailer metadata.MD
		var p peer.Peer
		_, err := victim.Put(t.Context(), &testv1.PutRequest{}, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&p))
		assert.Equal(t, codes.Unavailable, status.Code(err))
		assert.Empty(t, header)
		assert.Empty(t, trailer)
		assert.Equal(t, s.Addr(), p.Addr.String(), "the attempt was on a connection")

		_, err = victim.Put(t.Context(), &testv1.PutRequest{}, grpc.WaitForReady(true))
		require.NoError(t, err, "a new connection")
		close(gate)
		require.NoError(t, <-survived, "the other connection lives on")

		s.Close() // waits for the handlers
		put := s.Arrivals(testsrv.Put)
		require.Len(t, put, 2)
		assert.True(t, put[0].Cancelled)
		assert.False(t, put[1].Cancelled)
		peers := map[string]bool{put[0].Peer: true, put[1].Peer: true, s.Arrivals(testsrv.Get)[0].Peer: true}
		assert.Len(t, peers, 3, "%v", peers)
	})
}

// A client of gRPC also writes, and then reads EOF in place of the reset that
// its write has met: only a client that just reads is sure to see it.
func TestKilledTCPConnectionIsReset(t *testing.T) {
	t.Parallel()
	s := testsrv.Start(t, testsrv.TCP(""))
	conn, err := s.DialContext(t.Context(), "")
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Read(make([]byte, 1)) // the server's settings: it has the connection
	require.NoError(t, err)
	s.KillConns()
	_, err = io.Copy(io.Discard, conn)
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestKillConnAfterDelayLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testsrv.Start(t)
		s.Script(testsrv.Watch, testsrv.Do(testsrv.Send(2), testsrv.Delay(time.Millisecond), testsrv.KillConn()))
		watch := open(t, client(t, s), testsrv.Watch)
		for range 2 {
			_, err := watch.recv()
			require.NoError(t, err)
		}
		_, err := watch.recv()
		assert.Equal(t, codes.Unavailable, status.Code(err))
	})
}

func TestKillConnsCutsAll(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, opts ...testsrv.Option) {
		t.Helper()
		s := testsrv.Start(t, opts...)
		arrived := make(chan struct{})
		s.Handle(testsrv.Get, func(testsrv.Arrival) testsrv.Step {
			arrived <- struct{}{}
			return testsrv.Hang()
		})
		errs := make(chan error, 3)
		for range cap(errs) {
			c := client(t, s)
			go func() {
				_, err := c.Get(t.Context(), &testv1.GetRequest{})
				errs <- err
			}()
			<-arrived
		}
		s.KillConns()
		for range cap(errs) {
			assert.Equal(t, codes.Unavailable, status.Code(<-errs))
		}
	})
}

// Not parallel: it looks at all goroutines of the process.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	for name, opts := range map[string][]testsrv.Option{"memory": nil, "tcp": {testsrv.TCP("")}} {
		s, err := testsrv.New(opts...)
		require.NoError(t, err)
		cc, err := s.Dial()
		require.NoError(t, err)
		c := testv1.NewTestServiceClient(cc)
		arrived := make(chan struct{})
		s.Handle(testsrv.Get, func(testsrv.Arrival) testsrv.Step {
			close(arrived)
			return testsrv.Hang()
		})
		failed := make(chan error, 1)
		go func() {
			_, err := c.Get(context.Background(), &testv1.GetRequest{})
			failed <- err
		}()
		<-arrived
		require.NoError(t, s.Refuse(true))
		require.NoError(t, s.Refuse(false))

		s.Close()
		s.Close()
		var stacks bytes.Buffer
		require.NoError(t, pprof.Lookup("goroutine").WriteTo(&stacks, 1))
		for _, function := range []string{"testsrv.(*network)", "testsrv.(*attempt)", "testsrv.service", "grpc.(*Server).Serve"} {
			assert.NotContains(t, stacks.String(), function, name)
		}

		assert.Equal(t, codes.Unavailable, status.Code(<-failed), name)
		arrivals := s.Arrivals(testsrv.Get)
		require.Len(t, arrivals, 1, name)
		assert.True(t, arrivals[0].Cancelled, name)
		assert.NotZero(t, arrivals[0].Ended, name)
		require.NoError(t, cc.Close())

		require.Error(t, s.Refuse(false), name)
		_, err = s.DialContext(t.Context(), "")
		require.ErrorIs(t, err, syscall.ECONNREFUSED, name)
	}
}

func TestCloseWaitsForHandlers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testsrv.Start(t)
		c := client(t, s)
		s.Handle(testsrv.Get, func(testsrv.Arrival) testsrv.Step {
			virtual.Sleep(time.Hour) // deaf to its context
			return testsrv.OK()
		})
		start := time.Now()
		go func() { _, _ = c.Get(t.Context(), &testv1.GetRequest{}) }()
		synctest.Wait()
		s.Close()
		assert.Equal(t, time.Hour, time.Since(start))
		assert.Equal(t, start.Add(time.Hour), s.Arrivals(testsrv.Get)[0].Ended)
	})
}

// The bubble itself fails if a goroutine is left.
func TestCloseInABubble(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]testsrv.Step{
		"hang": testsrv.Hang(), "delay": testsrv.Delay(time.Hour), "wait": testsrv.Wait(nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testsrv.Start(t)
				s.SetWorkers(testsrv.Workers{N: 1, Work: time.Second, Queue: time.Hour})
				s.Script(testsrv.Get, step)
				c := client(t, s)
				errs := make(chan error, 3)
				for range cap(errs) {
					go func() {
						_, err := c.Get(t.Context(), &testv1.GetRequest{})
						errs <- err
					}()
				}
				virtual.Sleep(1500 * time.Millisecond) // one in the step, one at work, one in line
				s.Close()
				for range cap(errs) {
					assert.Equal(t, codes.Unavailable, status.Code(<-errs))
				}
			})
		})
	}
}

func TestNewSaysWhyItCannotListen(t *testing.T) {
	t.Parallel()
	s := testsrv.Start(t, testsrv.TCP(""))
	_, err := testsrv.New(testsrv.TCP(s.Addr()))
	require.ErrorIs(t, err, syscall.EADDRINUSE)
}

func TestServicesAndServerOptions(t *testing.T) {
	t.Parallel()
	var seen []string
	s := testsrv.Start(t,
		testsrv.Hostname("backend-1"),
		testsrv.Services(func(r grpc.ServiceRegistrar) { healthpb.RegisterHealthServer(r, health.NewServer()) }),
		testsrv.ServerOptions(grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			seen = append(seen, info.FullMethod)
			if info.FullMethod == testsrv.Put {
				return nil, errors.New("intercepted")
			}
			return next(ctx, req)
		})),
	)
	cc := s.Conn(t, grpc.WithUserAgent("mine"))
	var p peer.Peer
	_, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.Peer(&p))
	require.NoError(t, err)
	assert.Equal(t, "backend-1", p.Addr.String())
	c := testv1.NewTestServiceClient(cc)
	_, err = c.Put(t.Context(), &testv1.PutRequest{})
	require.ErrorContains(t, err, "intercepted")
	_, err = c.Get(t.Context(), &testv1.GetRequest{})
	require.NoError(t, err)
	assert.Equal(t, []string{healthpb.Health_Check_FullMethodName, testsrv.Put, testsrv.Get}, seen)
	assert.Zero(t, s.Count(testsrv.Put))
	assert.Contains(t, s.Arrivals(testsrv.Get)[0].Metadata.Get("user-agent")[0], "mine", "dial options arrive")
}
