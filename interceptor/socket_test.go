package interceptor_test

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// What only real sockets show. Nothing here depends on how long things take.

func newTCPClient(t *testing.T, p policy.Policy) client {
	t.Helper()
	srv := testsrv.Start(t, testsrv.TCP(""))
	quick := grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: ms, Multiplier: 1, MaxDelay: ms}, MinConnectTimeout: time.Second})
	return client{t, srv, srv.Conn(t, append(newInterceptor(t, interceptor.WithPolicy(p)).DialOptions(), quick)...)}
}

func TestSocketRefused(t *testing.T) {
	t.Parallel()
	c := newTCPClient(t, exact(failsFast, func(p *policy.Policy) { p.Retry.MaxAttempts = 5; p.Retry.Backoff.Initial = 20 * ms }))
	require.NoError(t, c.srv.Refuse(true))
	tl, err := c.call(t.Context(), testsrv.Pay)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	require.Len(t, tl.Attempts, 5)
	for _, a := range tl.Attempts {
		assert.Equal(t, classify.DeliveryNotSent, a.Delivery)
	}
	require.NoError(t, c.srv.Refuse(false))
	tl, err = c.call(t.Context(), testsrv.Pay, grpc.WaitForReady(true))
	require.NoError(t, err, "%v", tl)
	assert.Equal(t, 1, c.srv.Count(testsrv.Pay))
}

func TestSocketResetInMidCall(t *testing.T) {
	t.Parallel()
	c := newTCPClient(t, exact())
	for _, step := range []testsrv.Step{
		testsrv.KillConn(),
		testsrv.Do(testsrv.SendHeader(metadata.Pairs("a", "b")), testsrv.KillConn()),
	} {
		pays, puts := c.srv.Count(testsrv.Pay), c.srv.Count(testsrv.Put)
		c.srv.Script(testsrv.Pay, step, testsrv.OK())
		tl, err := c.call(t.Context(), testsrv.Pay, grpc.WaitForReady(true))
		assert.Equal(t, codes.Unavailable, status.Code(err))
		assert.Equal(t, interceptor.EndNotIdempotent, tl.Reason, "%v", tl)
		assert.Equal(t, classify.DeliveryUnknown, tl.Attempts[0].Delivery)
		assert.NotNil(t, tl.Attempts[0].Peer)
		assert.Equal(t, pays+1, c.srv.Count(testsrv.Pay), "sent once")

		c.srv.Script(testsrv.Put, step, testsrv.OK())
		tl, err = c.call(t.Context(), testsrv.Put, grpc.WaitForReady(true))
		require.NoError(t, err, "%v", tl)
		assert.Equal(t, puts+2, c.srv.Count(testsrv.Put))
	}
}

func TestSocketAttemptTimeout(t *testing.T) {
	t.Parallel()
	c := newTCPClient(t, exact(func(p *policy.Policy) { p.AttemptTimeout = 500 * ms }))
	c.srv.Script(testsrv.Pay, testsrv.Hang())
	tl, err := c.call(t.Context(), testsrv.Pay)
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
	assert.Equal(t, interceptor.EndNotIdempotent, tl.Reason, "%v", tl)
	assert.Equal(t, 1, c.srv.Count(testsrv.Pay))

	c.srv.Script(testsrv.Put, testsrv.Hang(), testsrv.OK())
	tl, err = c.call(t.Context(), testsrv.Put)
	require.NoError(t, err, "%v", tl)
	assert.Equal(t, classify.ReasonAttemptTimeout, tl.Attempts[0].Outcome.Reason)
}

// TestSocketServerThatSaysNothing accepts and closes, before HTTP/2 begins: no
// attempt gets a transport.
func TestSocketServerThatSaysNothing(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() { // ends when l is closed
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	conn, err := grpc.NewClient(l.Addr().String(), append(newInterceptor(t, interceptor.WithPolicy(exact(failsFast))).DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	var tl interceptor.Timeline
	req, reply := messages(testsrv.Pay)
	err = conn.Invoke(t.Context(), testsrv.Pay, req, reply, interceptor.WithTimeline(&tl))
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.Equal(t, interceptor.EndAttemptsExhausted, tl.Reason, "%v", tl)
	assert.Equal(t, classify.DeliveryNotSent, tl.Attempts[0].Delivery)
}

// TestSocketKillsAtRandom: payments over connections that are cut all the time
// arrive at most once each.
func TestSocketKillsAtRandom(t *testing.T) {
	t.Parallel()
	c := newTCPClient(t, exact(func(p *policy.Policy) { p.Retry.Backoff.Initial = ms }))
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * ms):
				c.srv.KillConns()
			}
		}
	}()
	c.srv.Script(testsrv.Pay, testsrv.Do(testsrv.Delay(ms), testsrv.OK()))
	for i := range 300 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		// Whether it succeeds does not matter here.
		_ = c.conn.Invoke(ctx, testsrv.Pay, &testv1.PayRequest{Id: strconv.Itoa(i)}, new(testv1.PayResponse), grpc.WaitForReady(true))
		cancel()
	}
	close(stop)
	<-done
	c.srv.Close() // and wait for handlers that began late
	arrived := map[string]int{}
	for _, a := range c.srv.Arrivals(testsrv.Pay) {
		arrived[a.Request().(*testv1.PayRequest).GetId()]++
	}
	for id, n := range arrived {
		assert.Equal(t, 1, n, "payment %s", id)
	}
	assert.Greater(t, len(arrived), 100)
}
