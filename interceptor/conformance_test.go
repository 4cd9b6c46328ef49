package interceptor_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// What the implementations of gRFC A6 test of hedging, besides its rules one by
// one, which are TestHedgingRules. docs/conformance.md has the list.

func TestHedgingCancelled(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name     string
		at       time.Duration // the caller cancels
		attempts []string
	}{
		{"before the call", 0, []string{"original 0s..0s cancelled"}},
		{"during the delay", 50 * ms, []string{"original 0s..50ms cancelled"}},
		{"as a hedge runs", 150 * ms, []string{"original 0s..150ms cancelled", "hedge 100ms..150ms cancelled"}},
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(after100())).ready()
			srv.Script(testsrv.Get, testsrv.Hang())
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if r.at == 0 {
				cancel()
			} else {
				time.AfterFunc(r.at, cancel)
			}
			tl, err := c.call(ctx, testsrv.Get)
			assert.Equal(t, codes.Canceled, status.Code(err), r.name)
			assert.Equal(t, interceptor.EndCallerCancelled, tl.Reason, r.name)
			assert.Equal(t, r.attempts, raced(tl), r.name)
			synctest.Wait()
			for _, a := range srv.Arrivals(testsrv.Get) {
				assert.True(t, a.Cancelled, r.name)
			}
		})
	}
}

func TestHedgingDeadline(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name     string
		deadline time.Duration
		attempts []string
	}{
		{"before the call", -ms, []string{"original 0s..0s cancelled"}},
		{"during the delay", 50 * ms, []string{"original 0s..50ms cancelled"}},
		{"as hedges run", 250 * ms, []string{"original 0s..250ms cancelled", "hedge 100ms..250ms cancelled", "hedge 200ms..250ms cancelled"}},
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(after100())).ready()
			srv.Script(testsrv.Get, testsrv.Hang())
			ctx, cancel := context.WithTimeout(t.Context(), r.deadline)
			defer cancel()
			tl, err := c.call(ctx, testsrv.Get)
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err), r.name)
			assert.Equal(t, interceptor.EndDeadline, tl.Reason, r.name)
			assert.Equal(t, r.attempts, raced(tl), r.name)
		})
	}
}

func TestHedgingConnectionClosed(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name     string
		at       time.Duration
		attempts []string
	}{
		{"before the call", 0, []string{"original 0s..0s failed"}},
		{"during the delay", 50 * ms, []string{"original 0s..50ms failed"}},
		{"as a hedge runs", 150 * ms, []string{"original 0s..150ms", "hedge 100ms..150ms"}},
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(after100())).ready()
			srv.Script(testsrv.Get, testsrv.Hang())
			if r.at == 0 {
				require.NoError(t, c.conn.Close())
			} else {
				time.AfterFunc(r.at, func() { _ = c.conn.Close() })
			}
			tl, err := c.call(t.Context(), testsrv.Get)
			assert.Equal(t, codes.Canceled, status.Code(err), r.name)
			assert.Equal(t, interceptor.EndNonRetryable, tl.Reason, r.name)
			require.Len(t, tl.Attempts, len(r.attempts), r.name)
			for i, want := range r.attempts {
				assert.Contains(t, raced(tl)[i], want, r.name)
			}
		})
	}
}

// throttled is gRFC A6's retry throttling of ten tokens, with a tenth of one back
// for a success.
func throttled(t *testing.T) (*budget.Throttle, interceptor.Option) {
	t.Helper()
	th, err := budget.NewThrottle(budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 0.1})
	require.NoError(t, err)
	return th, interceptor.WithTargetBudget(func(string) budget.Budget { return th })
}

func TestHedgingThrottled(t *testing.T) {
	t.Parallel()
	t.Run("by other calls", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			th, opt := throttled(t)
			c := newClient(t, srv, interceptor.WithPolicy(after100(likeA6)), opt).ready()
			srv.Script(testsrv.Put, down)
			for range 5 {
				_, err := c.call(t.Context(), testsrv.Put, interceptor.WithPolicy(exact(likeA6)))
				require.Error(t, err)
			}
			require.InDelta(t, 5.0, th.Balance(), 1e-9)
			srv.Script(testsrv.Get, after(500*ms, testsrv.OK()))
			tl, err := c.call(t.Context(), testsrv.Get)
			require.NoError(t, err)
			assert.Equal(t, []string{
				"original 0s..500ms won", "no hedge 100ms budget-denied", "no hedge 200ms budget-denied", "no hedge 300ms budget-denied",
			}, raced(tl))
		})
	})
	t.Run("by its own hedges", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			th, opt := throttled(t)
			c := newClient(t, srv, interceptor.WithMaxAttempts(10), opt,
				interceptor.WithPolicy(after100(likeA6, func(p *policy.Policy) { p.Retry.MaxAttempts = 10 }))).ready()
			srv.Script(testsrv.Get, down)
			tl, err := c.call(t.Context(), testsrv.Get)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.Len(t, tl.Attempts, 5, "%v", tl)
			assert.Equal(t, "no hedge 0s budget-denied", raced(tl)[5])
			assert.InDelta(t, 5.0, th.Balance(), 1e-9)

			tl, err = c.call(t.Context(), testsrv.Get)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.Len(t, tl.Attempts, 1, "throttled from the start: %v", tl)
		})
	})
	t.Run("during the delay", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			th, opt := throttled(t)
			c := newClient(t, srv, interceptor.WithPolicy(after100(likeA6)), opt).ready()
			srv.Script(testsrv.Get, after(150*ms, down))
			time.AfterFunc(50*ms, func() {
				for range 5 {
					th.Release(budget.Original, budget.Failure)
				}
			})
			tl, err := c.call(t.Context(), testsrv.Get)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.Equal(t, []string{"original 0s..150ms failed", "no hedge 100ms budget-denied", "no hedge 150ms budget-denied"}, raced(tl))
		})
	})
	t.Run("after pushback", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			th, opt := throttled(t)
			c := newClient(t, srv, interceptor.WithPolicy(after100(likeA6)), opt).ready()
			for range 4 {
				th.Release(budget.Original, budget.Failure)
			}
			srv.Script(testsrv.Get, pushback("20"))
			tl, err := c.call(t.Context(), testsrv.Get)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.Equal(t, interceptor.EndBudgetDenied, tl.Reason)
			assert.Equal(t, []string{"original 0s..0s failed", "no hedge 0s budget-denied"}, raced(tl))
		})
	})
}

// TestHedgingTransparentRetry: a stream that the server refuses is sent again by
// grpc itself, within its attempt and at once; neither hedges nor the budget see
// anything of it. grpc does so once for each attempt.
func TestHedgingTransparentRetry(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		refuse   int // so many streams, then accept and never answer
		attempts []string
		streams  int
	}{
		{1, []string{"original 0s..250ms cancelled", "hedge 100ms..250ms cancelled", "hedge 200ms..250ms cancelled"}, 1 + 3},
		{2, []string{"original 0s..0s failed", "hedge 0s..250ms cancelled", "hedge 100ms..250ms cancelled", "hedge 200ms..250ms cancelled"}, 2 + 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := newRefuser(r.refuse)
			conn, err := grpc.NewClient("passthrough:///refuser", append(
				newInterceptor(t, interceptor.WithPolicy(after100()), interceptor.WithTargetBudget(unlimited)).DialOptions(),
				grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(srv.dial))...)
			require.NoError(t, err)
			c := client{t, nil, conn}.ready()
			ctx, cancel := context.WithTimeout(t.Context(), 250*ms)
			defer cancel()
			var tl interceptor.Timeline
			err = c.conn.Invoke(ctx, testsrv.Get, &testv1.GetRequest{}, new(testv1.GetResponse), interceptor.WithTimeline(&tl))
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
			assert.Equal(t, r.attempts, raced(&tl), "%v", &tl)
			require.NoError(t, conn.Close())
			<-srv.done
			assert.Equal(t, r.streams, srv.streams)
		})
	}
}

// refuser is a server that refuses its first streams and never answers the others.
type refuser struct {
	refuse  int
	done    chan struct{} // closed when the connection is
	streams int
}

func newRefuser(refuse int) *refuser { return &refuser{refuse: refuse, done: make(chan struct{})} }

func (r *refuser) dial(context.Context, string) (net.Conn, error) {
	client, server := net.Pipe()
	go r.serve(server) // ends when the client closes
	return client, nil
}

func (r *refuser) serve(conn net.Conn) {
	defer close(r.done)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := conn.Read(preface); err != nil {
		return
	}
	// net.Pipe has no buffer: who reads must not wait for a write.
	writes := make(chan func(*http2.Framer) error, 100)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	go func() {
		for w := range writes {
			_ = w(framer)
		}
	}()
	defer close(writes)
	writes <- func(f *http2.Framer) error { return f.WriteSettings() }
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				writes <- func(f *http2.Framer) error { return f.WriteSettingsAck() }
			}
		case *http2.MetaHeadersFrame:
			if r.streams++; r.streams <= r.refuse {
				id := f.StreamID
				writes <- func(f *http2.Framer) error { return f.WriteRSTStream(id, http2.ErrCodeRefusedStream) }
			}
		}
	}
}
