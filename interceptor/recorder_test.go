package interceptor_test

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// summaries keeps what a recorder is told.
type summaries struct {
	mu    sync.Mutex
	all   []interceptor.Summary
	lines []*interceptor.Timeline
}

func (r *summaries) Record(_ context.Context, s interceptor.Summary) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Denials = slices.Clone(s.Denials)
	r.all = append(r.all, s)
	r.lines = append(r.lines, s.Timeline())
}

// TestRecorder: it is told once of every call, and the timeline that is made afterwards says
// what an observer's does.
func TestRecorder(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		r := new(summaries)
		c := newClient(t, srv, named(exact(idempotent)), interceptor.WithRecorder(r), interceptor.WithRecorder(nil))
		began := time.Now()
		for watched := range 2 {
			fails := testsrv.Fail(codes.Unavailable, "")
			srv.Script(testsrv.Get, after(10*ms, fails), after(10*ms, fails), after(5*ms, testsrv.Echo()))
			var opts []grpc.CallOption
			if watched == 1 {
				opts = append(opts, interceptor.WithTimeline(new(interceptor.Timeline)))
			}
			require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse), opts...))
		}
		require.Len(t, r.all, 2)
		s := r.all[0]
		assert.Equal(t, testsrv.Get, s.Method)
		assert.True(t, s.Registered)
		assert.Equal(t, c.conn.Target(), s.Target)
		assert.Equal(t, began, s.Start)
		assert.Equal(t, 175*ms, s.Elapsed)
		assert.Equal(t, codes.OK, s.Code)
		assert.Equal(t, interceptor.EndSucceeded, s.Reason)
		assert.Equal(t, 2, s.Retries)
		assert.Zero(t, s.Hedges)
		assert.Equal(t, 150*ms, s.RetryDelay)
		later := func(tl *interceptor.Timeline) string { return strings.ReplaceAll(tl.String(), tl.Start.String(), "") }
		assert.Equal(t, later(r.lines[1]), later(r.lines[0]))
		assert.False(t, r.lines[0].Untimed)
	})
}

// TestSummaryOfDenials: it has each of them with its kind and reason, of a watched call and of
// another, and none of a call that had no reason for another attempt.
func TestSummaryOfDenials(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		r := new(summaries)
		few, err := budget.NewRatio(budget.RatioConfig{Ratio: 0.01, MinPerSecond: 1})
		require.NoError(t, err)
		c := newClient(t, srv, named(exact(idempotent)), interceptor.WithRecorder(r),
			interceptor.WithTargetBudget(func(string) budget.Budget { return few }))
		require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{}, new(testv1.GetResponse)))
		srv.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, ""))
		for _, opts := range [][]grpc.CallOption{nil, {interceptor.WithTimeline(new(interceptor.Timeline))}} {
			require.Error(t, c.conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{}, new(testv1.GetResponse), opts...))
		}
		require.Len(t, r.all, 3)
		assert.Empty(t, r.all[0].Denials)
		for _, s := range r.all[1:] {
			require.Len(t, s.Denials, 1)
			assert.Equal(t, budget.Retry, s.Denials[0].Kind)
			assert.Equal(t, interceptor.DeniedByBudget, s.Denials[0].Reason)
		}
	})
}

// TestRecorderOfPlainCall: its timeline has the one attempt.
func TestRecorderOfPlainCall(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		r := new(summaries)
		c := newClient(t, srv, interceptor.WithRecorder(r))
		require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse)))
		require.Len(t, r.lines, 1)
		tl := r.lines[0]
		require.Len(t, tl.Attempts, 1)
		assert.Equal(t, interceptor.AttemptWon, tl.Attempts[0].Result)
		assert.NotNil(t, tl.Attempts[0].Peer)
		assert.Equal(t, interceptor.EndSucceeded, tl.Reason)
	})
}

// TestRecorderPanics: it is cut off, and the call goes on.
func TestRecorderPanics(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		var log bytes.Buffer
		calls := 0
		r := new(summaries)
		c := newClient(t, srv, interceptor.WithLogger(slog.New(slog.NewTextHandler(&log, nil))), interceptor.WithRecorder(recorderFunc(func() {
			calls++
			panic("recorder")
		})), interceptor.WithRecorder(r))
		for range 3 {
			require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse)))
		}
		assert.Equal(t, 1, calls)
		assert.Len(t, r.all, 3)
		assert.Equal(t, 1, strings.Count(log.String(), "panicked"))
	})
}

// TestRecorderAndLoggerPanic: what logs may be what panics, and the call goes on.
func TestRecorderAndLoggerPanic(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		log := slog.New(brokenHandler{slog.DiscardHandler})
		c := newClient(t, srv, interceptor.WithLogger(log), interceptor.WithRecorder(recorderFunc(func() { log.Error("") })))
		for range 2 {
			require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse)))
		}
	})
}

// brokenHandler panics with every line.
type brokenHandler struct{ slog.Handler }

func (brokenHandler) Enabled(context.Context, slog.Level) bool { return true }

func (brokenHandler) Handle(context.Context, slog.Record) error { panic("handler") }

type recorderFunc func()

func (f recorderFunc) Record(context.Context, interceptor.Summary) { f() }

// TestAttemptFromContext: who runs below knows which attempt it serves.
func TestAttemptFromContext(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		type seen struct {
			number int
			kind   budget.Kind
		}
		var mu sync.Mutex
		var all []seen
		note := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			n, k := interceptor.AttemptFromContext(ctx)
			mu.Lock()
			all = append(all, seen{n, k})
			mu.Unlock()
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		it := newInterceptor(t, named(after100(idempotent)))
		c := client{t, srv, srv.Conn(t, append(it.DialOptions(), grpc.WithChainUnaryInterceptor(note))...)}.ready()
		c.number(testsrv.Get, testsrv.Hang(), testsrv.Echo())
		require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse)))
		assert.Equal(t, []seen{{1, budget.Original}, {2, budget.Hedge}}, all)
		n, k := interceptor.AttemptFromContext(t.Context())
		assert.Equal(t, seen{1, budget.Original}, seen{n, k})
	})
}

// TestKeptTimelineKeepsNothingElse: not the error, which may hold what a server says.
func TestKeptTimelineKeepsNothingElse(t *testing.T) {
	t.Parallel()
	kept := new(keeper)
	it := newInterceptor(t, interceptor.WithObserver(kept))
	gone := make(chan struct{})
	_ = it.Unary()(t.Context(), testsrv.Get, nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		err := &said{"secret"}
		runtime.AddCleanup(err, func(gone chan struct{}) { close(gone) }, gone)
		return err
	})
	require.NotNil(t, kept.timeline)
	require.Eventually(t, func() bool {
		runtime.GC()
		select {
		case <-gone:
			return true
		default:
			return false
		}
	}, 10*time.Second, ms)
	runtime.KeepAlive(kept)
}

// keeper is an observer that keeps the timeline of the last call.
type keeper struct{ timeline *interceptor.Timeline }

func (*keeper) Start(ctx context.Context, _ *interceptor.Event) context.Context { return ctx }

func (k *keeper) Observe(_ context.Context, e *interceptor.Event) {
	if e.Kind == interceptor.CallEnd {
		k.timeline = e.Timeline
	}
}

type said struct{ text string }

func (s *said) Error() string { return s.text }
