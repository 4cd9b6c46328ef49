package debugpage

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// manyMethods returns an interceptor that knows so many methods, each with a budget of its own, and
// a function that calls all of them.
func manyMethods(tb testing.TB, n int) (it *interceptor.Interceptor, callAll func()) {
	tb.Helper()
	it, err := interceptor.New(interceptor.WithLogger(slog.New(slog.DiscardHandler)), interceptor.WithPolicy(policy.Policy{
		Idempotency: classify.Idempotent, Retry: policy.Retry{Backoff: policy.Backoff{Initial: policy.NoWait}}, Hedge: policy.Hedge{MaxExtraLoad: 0.02},
	}))
	require.NoError(tb, err)
	unary := it.Unary()
	return it, func() {
		for i := range n {
			for j := range 6 {
				_ = unary(tb.Context(), fmt.Sprintf("/shop.v1.Service%d/Method%d", i/10, i), nil, new(testv1.GetResponse), nil,
					func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
						if j == 0 {
							return status.Error(codes.Unavailable, "away")
						}
						return nil
					})
			}
		}
	}
}

// full returns the pages of a thousand methods, with a history of all ten minutes, and the
// bytes that are kept.
func full(tb testing.TB, n int) (page *Handler, bytes int64) {
	tb.Helper()
	it, callAll := manyMethods(tb, n)
	callAll()
	it.State()
	before := inUse()
	page = New(it)
	page.Close() // samples are taken here
	for range samples + 2 {
		page.history.sample()
	}
	bytes = inUse() - before
	callAll()
	page.history.sample()
	callAll()
	return page, bytes
}

func inUse() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestIsBounded: what is kept, with as many methods as it is for and with more. It runs alone.
func TestIsBounded(t *testing.T) { //nolint:paralleltest // it measures memory
	for _, n := range []int{1000, 1300} {
		page, bytes := full(t, n)
		t.Logf("%d methods: %d bytes kept", n, bytes)
		assert.Less(t, bytes, int64(4<<20), "%d methods", n)
		assert.LessOrEqual(t, len(page.history.methods), maxSeries)
		assert.LessOrEqual(t, len(page.history.budgets), maxSeries)
		runtime.KeepAlive(page)
	}
}

// TestNewMethodsGetPlace of those that nobody calls.
func TestNewMethodsGetPlace(t *testing.T) {
	t.Parallel()
	it, callAll := manyMethods(t, maxSeries)
	callAll()
	page := New(it)
	page.Close()
	unary := it.Unary()
	call := func() {
		_ = unary(t.Context(), "/late.v1.Service/Method", nil, new(testv1.GetResponse), nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil })
	}
	call()
	page.history.sample()
	late := key{"", "/late.v1.Service/Method"}
	assert.Contains(t, page.history.methods, late)
	assert.Len(t, page.history.methods, maxSeries)
}

// TestEndsWithTheHandler: nobody has to call Close.
func TestEndsWithTheHandler(t *testing.T) {
	t.Parallel()
	it, err := interceptor.New()
	require.NoError(t, err)
	h := func() weak.Pointer[history] { return weak.Make(New(it).history) }()
	require.Eventually(t, func() bool {
		runtime.GC()
		return h.Value() == nil
	}, 10*time.Second, time.Millisecond, "the goroutine that samples has ended")
}

// BenchmarkPages: pages of a thousand methods, each called of late, and what samples cost.
func BenchmarkPages(b *testing.B) {
	page, bytes := full(b, 1000)
	for name, at := range map[string]string{
		"overview":      "/",
		"overview/all":  "/?all",
		"overview/json": "/?format=json",
		"budgets":       "/budgets",
		"budgets/all":   "/budgets?all",
		"method":        "/method?method=/shop.v1.Service1/Method11&target=",
	} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://localhost"+at, nil)
			r.RemoteAddr = "127.0.0.1:1"
			for b.Loop() {
				w := httptest.NewRecorder()
				w.Body = nil
				page.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Code)
				}
			}
			b.ReportMetric(float64(bytes), "bytes-kept")
		})
	}
	b.Run("sample", func(b *testing.B) {
		for b.Loop() {
			page.history.sample()
		}
	})
}
