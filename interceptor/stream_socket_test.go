package interceptor_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
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
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

var killFor = flag.Duration("kill-for", time.Second, "how long connections are killed under streams")

// TestStreamsUnderKills opens streams of all kinds over real connections that are
// cut all the time: none hangs, leaks, or delivers a message twice or out of order.
// Not parallel: it counts the goroutines of the whole process.
func TestStreamsUnderKills(t *testing.T) {
	before := runtime.NumGoroutine()
	srv := testsrv.Start(t, testsrv.TCP(""), testsrv.NoRecording())
	srv.Script(testsrv.Watch, testsrv.Do(testsrv.Delay(ms), testsrv.Send(5), testsrv.Delay(ms), testsrv.Send(5)))
	srv.Script(testsrv.Upload, testsrv.Do(testsrv.RecvAll(), testsrv.Delay(ms), testsrv.OK()))
	l := &ledger{budget: budget.All()} // which has room for everything
	plain := exact(idempotent, func(p *policy.Policy) { p.Retry.MaxAttempts, p.Retry.Backoff.Initial = 5, ms })
	hedged := plain
	hedged.Hedge.Delay = 3 * ms
	it := newInterceptor(t, l.inTarget())
	conn, err := srv.Dial(append(it.DialOptions(), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: ms, MaxDelay: ms}, MinConnectTimeout: time.Second}))...)
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), *killFor)
	defer cancel()
	var busy sync.WaitGroup
	busy.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(time.Duration(rand.IntN(20)) * ms) // real time: the connections are
			srv.KillConns()
		}
	})
	var mu sync.Mutex
	ends := map[string]int{}
	for worker := range 16 {
		busy.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 5))
			for i := 0; ctx.Err() == nil; i++ {
				p := plain
				if r.IntN(2) == 0 {
					p = hedged
				}
				end := streamUnderKills(t, testv1.NewTestServiceClient(conn), r, fmt.Sprint(worker, "-", i), p)
				mu.Lock()
				ends[end]++
				mu.Unlock()
			}
		})
	}
	busy.Wait()
	t.Log(ends)
	require.NoError(t, conn.Close())
	srv.Close()
	assert.NotZero(t, ends["OK, at once"], "nothing got through")
	assert.NotZero(t, ends["OK, after another attempt"], "nothing was repaired")
	assert.NotZero(t, ends["committed"], "nothing broke in the middle")
	for patience := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(patience); {
		runtime.Gosched()
	}
	assert.LessOrEqual(t, runtime.NumGoroutine(), before, "goroutines are left")
	assert.Zero(t, it.Replayed(), "memory")
	l.mu.Lock()
	defer l.mu.Unlock()
	assert.Zero(t, l.held, "leases")
}

// streamUnderKills makes a stream of a random kind, checks what it delivers, and
// returns how it ended.
func streamUnderKills(t *testing.T, c testv1.TestServiceClient, r *rand.Rand, id string, p policy.Policy) string {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
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
	e, failed := errors.AsType[*interceptor.Error](err)
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
	s, err := c.Watch(ctx, &testv1.WatchRequest{Id: id}, opts...)
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
		payload := fmt.Sprint(id, ":", i, ";")
		sent.WriteString(payload)
		if s.Send(&testv1.UploadRequest{Id: id, Payload: []byte(payload)}) != nil {
			break
		}
	}
	m, err := s.CloseAndRecv()
	if err == nil {
		assert.Equal(t, sent.String(), string(m.GetPayload()))
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
			if s.Send(&testv1.ChatRequest{Id: id, Payload: []byte(fmt.Sprint(i))}) != nil {
				return
			}
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
		assert.Equal(t, []any{id, fmt.Sprint(i), i, attempt}, []any{m.GetId(), string(m.GetPayload()), m.GetIndex(), m.GetAttempt()})
	}
}
