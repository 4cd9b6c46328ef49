package debugpage_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/debugpage"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

func newInterceptor(tb testing.TB, opts ...interceptor.Option) *interceptor.Interceptor {
	tb.Helper()
	it, err := interceptor.New(append([]interceptor.Option{interceptor.WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	require.NoError(tb, err)
	return it
}

// newPage returns the pages of an interceptor, until the test ends.
func newPage(tb testing.TB, it *interceptor.Interceptor, opts ...debugpage.Option) *debugpage.Handler {
	tb.Helper()
	page := debugpage.New(it, opts...)
	tb.Cleanup(page.Close)
	return page
}

// ask makes a request as one from this machine would be.
func ask(h http.Handler, method, at string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://localhost:8080"+at, nil)
	r.RemoteAddr = "127.0.0.1:4711"
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// get returns a page.
func get(tb testing.TB, h http.Handler, at string) string {
	tb.Helper()
	w := ask(h, http.MethodGet, at)
	require.Equal(tb, http.StatusOK, w.Code, "%s: %s", at, w.Body)
	return w.Body.String()
}

// getJSON returns what a page is made of.
func getJSON(tb testing.TB, h http.Handler, at string) (v map[string]any) {
	tb.Helper()
	sign := "?"
	if strings.Contains(at, "?") {
		sign = "&"
	}
	require.NoError(tb, json.Unmarshal([]byte(get(tb, h, at+sign+"format=json")), &v), at)
	return v
}

func methodAt(target, method string) string {
	return "/method?" + url.Values{"target": {target}, "method": {method}}.Encode()
}

// target is that of the server in memory.
const target = "passthrough:///testsrv"

// mixed makes calls that succeed, are retried, hedged and denied, that fail, and a stream. What
// they send and get says secret.
func mixed(t *testing.T, opts ...interceptor.Option) *interceptor.Interceptor {
	t.Helper()
	srv := testsrv.Start(t)
	exact := policy.Backoff{Jitter: policy.JitterNone}
	it := newInterceptor(t, append([]interceptor.Option{interceptor.WithRules(
		policy.Rule{Methods: []string{testsrv.Get}, Policy: policy.Policy{Name: "read", Retry: policy.Retry{Backoff: exact}}},
		policy.Rule{Methods: []string{testsrv.Put}, Policy: policy.Policy{Hedge: policy.Hedge{Delay: 10 * time.Millisecond}, Idempotency: classify.Idempotent}},
		policy.Rule{Methods: []string{testsrv.Watch}, Policy: policy.Policy{Hedge: policy.Hedge{MaxExtraLoad: 0.02}, Budget: "few"}},
		policy.Rule{Methods: []string{"/a.B/Hedged"}, Policy: policy.Policy{Hedge: policy.Hedge{MaxExtraLoad: 0.02}, Idempotency: classify.Idempotent}},
	), interceptor.WithBudget("few", few{})}, opts...)...)
	conn := srv.Conn(t, it.DialOptions()...)
	invoke := func(method string, in, out any) { _ = conn.Invoke(t.Context(), method, in, out) }
	srv.Script(testsrv.Put, testsrv.Hang(), testsrv.OK())
	invoke(testsrv.Put, &testv1.PutRequest{Id: "secret"}, new(testv1.PutResponse))
	srv.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "secret"), testsrv.OK(), testsrv.OK(), testsrv.Fail(codes.NotFound, "secret"), testsrv.Fail(codes.Unavailable, "secret"))
	for range 12 { // a retry, a success, a failure, attempts that are exhausted until the budget is
		invoke(testsrv.Get, &testv1.GetRequest{Id: "secret"}, new(testv1.GetResponse))
		virtual.Sleep(1100 * time.Millisecond)
	}
	srv.Script(testsrv.Pay, testsrv.Fail(codes.Internal, "secret"))
	invoke(testsrv.Pay, &testv1.PayRequest{Id: "secret"}, new(testv1.PayResponse))
	stream, err := testv1.NewTestServiceClient(conn).Watch(t.Context(), &testv1.WatchRequest{Id: "secret"})
	require.NoError(t, err)
	for err == nil {
		_, err = stream.Recv()
	}
	require.ErrorIs(t, err, io.EOF)
	return it
}

// few is a budget that does not tell what it has.
type few struct{}

// Acquire implements budget.Budget.
func (few) Acquire(k budget.Kind) bool { return k == budget.Original }

// Release implements budget.Budget.
func (few) Release(budget.Kind, budget.Result) {}

var errUnavailable = status.Error(codes.Unavailable, "secret")

// plain makes calls of a method, of which the first so many fail for good, without a
// server.
func plain(ctx context.Context, it *interceptor.Interceptor, method string, fails, calls int) {
	unary := it.Unary()
	for i := range calls {
		_ = unary(ctx, method, nil, new(testv1.GetResponse), nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
			time.Sleep(time.Millisecond) // what a call takes, in TestOverTCP really
			if i < fails {
				return errUnavailable
			}
			return nil
		})
	}
}
