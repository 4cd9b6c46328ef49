package interceptor_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

var killFor = flag.Duration("kill-for", time.Second, "how long connections are killed under streams")

// TestStreamsUnderKills opens streams of all kinds over real connections that are cut all
// the time, by the server or by a proxy in between: none hangs, leaks, delivers a message
// twice or out of order, or is executed twice unless it may be.
// Not parallel: it counts the goroutines of the whole process.
func TestStreamsUnderKills(t *testing.T) {
	t.Run("server", func(t *testing.T) { playUnderKills(t, false) })
	t.Run("proxy", func(t *testing.T) { playUnderKills(t, true) })
}

func playUnderKills(t *testing.T, proxied bool) {
	before := runtime.NumGoroutine()
	books := &executions{t: t, of: map[string]int{}}
	srv := testsrv.Start(t, testsrv.TCP(""), testsrv.NoRecording(), testsrv.ServerOptions(grpc.StreamInterceptor(books.note)))
	srv.Script(testsrv.Watch, testsrv.Do(testsrv.Delay(ms), testsrv.Send(5), testsrv.Delay(ms), testsrv.Send(5)))
	srv.Script(testsrv.Upload, testsrv.Do(testsrv.RecvAll(), testsrv.Delay(ms), testsrv.OK()))
	l := &ledger{budget: budget.All()} // which has room for everything
	once := exact(func(p *policy.Policy) { p.Retry.MaxAttempts, p.Retry.Backoff.Initial = 5, ms })
	plain := once
	idempotent(&plain)
	hedged := plain
	hedged.Hedge.Delay = 3 * ms
	it := newInterceptor(t, l.inTarget())
	opts := append(it.DialOptions(), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: ms, MaxDelay: ms}, MinConnectTimeout: time.Second}))
	var proxy *cutter
	if proxied {
		proxy = newCutter(t, srv.Addr())
		opts = append(opts, grpc.WithContextDialer(proxy.dial))
	}
	conn, err := srv.Dial(opts...)
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), *killFor)
	defer cancel()
	var busy sync.WaitGroup
	busy.Go(func() {
		for !proxied && ctx.Err() == nil {
			time.Sleep(time.Duration(rand.IntN(20)) * ms) // real, as the connections are: it waits for nothing
			srv.KillConns()
		}
	})
	var mu sync.Mutex
	ends := map[string]int{}
	for worker := range 16 {
		busy.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 5))
			for i := 0; ctx.Err() == nil; i++ {
				p, id := plain, fmt.Sprint(worker, "-", i)
				switch r.IntN(3) {
				case 0:
					p = hedged
				case 1:
					p, id = once, "once-"+id
				}
				end := streamUnderKills(t, testv1.NewTestServiceClient(conn), r, id, p)
				mu.Lock()
				ends[end]++
				mu.Unlock()
			}
		})
	}
	busy.Wait()
	t.Log(ends)
	require.NoError(t, conn.Close())
	if proxied {
		proxy.close()
	}
	srv.Close()
	for id, n := range books.of {
		assert.False(t, n > 1 && strings.HasPrefix(id, "once"), "%s: executed %d times", id, n)
	}
	assert.NotZero(t, ends["OK, at once"], "nothing got through")
	assert.NotZero(t, ends["OK, after another attempt"], "nothing was repaired")
	assert.NotZero(t, ends["committed"], "nothing broke in the middle")
	assert.NotZero(t, ends["not-idempotent"], "nothing was left alone")
	for patience := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(patience); {
		runtime.Gosched()
	}
	assert.LessOrEqual(t, runtime.NumGoroutine(), before, "goroutines are left")
	assert.Zero(t, it.Replayed(), "memory")
	l.mu.Lock()
	defer l.mu.Unlock()
	assert.Zero(t, l.held, "leases")
}

// executions counts, at the server, how often each stream is executed.
type executions struct {
	t *testing.T

	mu sync.Mutex
	of map[string]int // by the id of the stream
}

func (e *executions) note(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	id := metadata.ValueFromIncomingContext(s.Context(), "id")[0]
	e.mu.Lock()
	e.of[id]++
	e.mu.Unlock()
	return handler(srv, &execution{s, e.t, id, 0})
}

// execution is a stream at the server, which gets the beginning of what was sent, once and
// in order.
type execution struct {
	grpc.ServerStream
	t    *testing.T
	id   string
	next int
}

func (e *execution) RecvMsg(m any) error {
	err := e.ServerStream.RecvMsg(m)
	if err == nil {
		m := m.(interface {
			GetId() string
			GetPayload() []byte
		})
		assert.Equal(e.t, []string{e.id, string(numbered(e.next))}, []string{m.GetId(), string(m.GetPayload())})
		e.next++
	}
	return err
}

// numbered is the payload of the i-th message of a stream.
func numbered(i int) []byte { return fmt.Append(nil, i, ";") }

// cutter is a proxy that cuts its connections, each in the middle of what passes. The
// server goes on.
type cutter struct {
	listener net.Listener
	target   string
	passing  sync.WaitGroup
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cutter{listener: l, target: target}
	c.passing.Go(c.serve) // until close
	return c
}

func (c *cutter) close() {
	_ = c.listener.Close()
	c.passing.Wait()
}

func (c *cutter) dial(ctx context.Context, _ string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", c.listener.Addr().String())
}

func (c *cutter) serve() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		c.passing.Go(func() { pass(near, far) })
		c.passing.Go(func() { pass(far, near) })
	}
}

// pass hands on the first bytes of what from sends. Then either side sees a reset or an end.
func pass(from, to net.Conn) {
	_, _ = io.CopyN(to, from, rand.Int64N(16<<10))
	for _, c := range []net.Conn{from, to} {
		if rand.IntN(2) == 0 {
			_ = c.(*net.TCPConn).SetLinger(0)
		}
		_ = c.Close()
	}
}

// streamUnderKills makes a stream of a random kind, checks what it delivers, and
// returns how it ended.
func streamUnderKills(t *testing.T, c testv1.TestServiceClient, r *rand.Rand, id string, p policy.Policy) string {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "id", id)
	var tl interceptor.Timeline
	opts := []grpc.CallOption{interceptor.WithPolicy(p), interceptor.WithTimeline(&tl)}
	var err error
	switch r.IntN(3) {
	case 0:
		err = watchUnderKills(ctx, t, c, id, opts)
	case 1:
		err = uploadUnderKills(ctx, t, c, id, 1+r.IntN(20), opts)
	case 2:
		err = chatUnderKills(ctx, t, c, id, 1+r.IntN(20), opts)
	}
	var e *interceptor.Error
	failed := errors.As(err, &e)
	switch {
	case err == nil && len(tl.Attempts) == 1:
		return "OK, at once"
	case err == nil:
		return "OK, after another attempt"
	case !assert.True(t, failed, "%v", err), !assert.Equal(t, codes.Unavailable, status.Code(err), "%v\n%v", err, &tl):
		return "?"
	}
	return e.Reason.String()
}

func watchUnderKills(ctx context.Context, t *testing.T, c testv1.TestServiceClient, id string, opts []grpc.CallOption) error {
	s, err := c.Watch(ctx, &testv1.WatchRequest{Id: id, Payload: numbered(0)}, opts...)
	if err != nil {
		return err
	}
	attempt := int32(0)
	for n := int32(0); ; n++ {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			assert.Equal(t, int32(10), n, "messages")
			return nil
		}
		if err != nil {
			return err
		}
		if n == 0 {
			attempt = m.GetAttempt()
		}
		assert.Equal(t, []any{id, n, attempt}, []any{m.GetId(), m.GetIndex(), m.GetAttempt()})
	}
}

func uploadUnderKills(ctx context.Context, t *testing.T, c testv1.TestServiceClient, id string, n int, opts []grpc.CallOption) error {
	s, err := c.Upload(ctx, opts...)
	if err != nil {
		return err
	}
	var sent strings.Builder
	for i := range n {
		sent.Write(numbered(i))
		if s.Send(&testv1.UploadRequest{Id: id, Payload: numbered(i)}) != nil {
			break
		}
	}
	m, err := s.CloseAndRecv()
	if err == nil {
		assert.Equal(t, []string{id, sent.String()}, []string{m.GetId(), string(m.GetPayload())})
	}
	return err
}

// chatUnderKills sends on one goroutine and receives on another.
func chatUnderKills(ctx context.Context, t *testing.T, c testv1.TestServiceClient, id string, n int, opts []grpc.CallOption) error {
	s, err := c.Chat(ctx, opts...)
	if err != nil {
		return err
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		for i := range n {
			// What it returns does not matter: grpc-go v1.85 may say that the stream is over while
			// RecvMsg goes on with it on another connection.
			_ = s.Send(&testv1.ChatRequest{Id: id, Payload: numbered(i)})
		}
		_ = s.CloseSend()
	})
	attempt := int32(0)
	for i := int32(0); ; i++ {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			assert.Equal(t, int32(n), i, "messages")
			return nil
		}
		if err != nil {
			return err
		}
		if i == 0 {
			attempt = m.GetAttempt()
		}
		assert.Equal(t, []any{id, numbered(int(i)), i, attempt}, []any{m.GetId(), m.GetPayload(), m.GetIndex(), m.GetAttempt()})
	}
}
