package slogobs_test

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/slogobs"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

var errUnavailable = status.Error(codes.Unavailable, "secret")

// handler is a handler of one's own.
type handler func(context.Context, slog.Record)

func (h handler) Enabled(context.Context, slog.Level) bool { return true }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	h(ctx, r)
	return nil
}

func (h handler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h handler) WithGroup(string) slog.Handler      { return h }

func newInterceptor(t *testing.T, h slog.Handler, opts ...interceptor.Option) *interceptor.Interceptor {
	t.Helper()
	it, err := interceptor.New(append(opts, interceptor.WithRecorder(slogobs.New(slog.New(h))))...)
	require.NoError(t, err)
	return it
}

func fail(ctx context.Context, it *interceptor.Interceptor) {
	_ = it.Unary()(ctx, testsrv.Put, nil, nil, nil, unavailable)
}

type traceKey struct{}

// TestContext: the handler gets that of the call, so that it can add trace ids.
func TestContext(t *testing.T) {
	t.Parallel()
	var traces []any
	it := newInterceptor(t, handler(func(ctx context.Context, _ slog.Record) { traces = append(traces, ctx.Value(traceKey{})) }),
		steady(), scant(t))
	fail(context.WithValue(t.Context(), traceKey{}, "first"), it) // the budget, and the call
	assert.Equal(t, []any{"first", "first"}, traces)
}

// TestHandlerPanics: the recorder is cut off, also if the interceptor's own log has that
// handler. Calls go on.
func TestHandlerPanics(t *testing.T) {
	t.Parallel()
	lines := 0
	broken := handler(func(context.Context, slog.Record) {
		lines++
		panic("handler")
	})
	it := newInterceptor(t, broken, interceptor.WithLogger(slog.New(broken)))
	for range 3 {
		require.ErrorIs(t, it.Unary()(t.Context(), testsrv.Put, nil, nil, nil, unavailable), errUnavailable)
	}
	assert.Equal(t, 2, lines, "the line, and the report")
}

// TestHandlerMakesCalls: no lock is held while the handler runs, and the limit of lines ends
// what would go on for ever.
func TestHandlerMakesCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := policy.Default()
		p.Retry.Off = true
		var it *interceptor.Interceptor
		lines := 0
		it = newInterceptor(t, handler(func(ctx context.Context, _ slog.Record) {
			lines++
			fail(ctx, it)
		}), interceptor.WithPolicy(p))
		fail(t.Context(), it)
		assert.Equal(t, 1, lines)
	})
}

// TestConcurrent: of calls that end at once, none is missing.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers, calls = 8, 500
		var logged, begun atomic.Int64
		it := newInterceptor(t, handler(func(_ context.Context, r slog.Record) {
			switch r.Message {
			case "rego: a budget begins to deny retries":
				begun.Add(1)
			case "rego: call failed":
				logged.Add(1)
				r.Attrs(func(a slog.Attr) bool {
					if a.Key == "left_out" {
						logged.Add(a.Value.Int64())
					}
					return true
				})
			}
		}), steady(), scant(t))
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range calls {
					fail(t.Context(), it)
					virtual.Sleep(7 * ms)
				}
			})
		}
		wg.Wait()
		virtual.Sleep(time.Second)
		fail(t.Context(), it) // may be granted retries, and ends for the same reason as all
		assert.Equal(t, int64(callers*calls+1), logged.Load())
		assert.Equal(t, int64(1), begun.Load())
	})
}

// TestDefaultLogger: nil is slog.Default, as it is when a line is written. Not parallel: it sets
// that of the process.
func TestDefaultLogger(t *testing.T) {
	was := slog.Default()
	t.Cleanup(func() { slog.SetDefault(was) })
	it, err := interceptor.New(interceptor.WithRecorder(slogobs.New(nil)))
	require.NoError(t, err)
	var log bytes.Buffer
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	fail(t.Context(), it)
	assert.Contains(t, log.String(), `level=WARN msg="rego: call failed"`)
}
