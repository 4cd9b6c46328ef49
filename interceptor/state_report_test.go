package interceptor_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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

// countsOf returns what MethodCounts is to be, by the words of State.
func countsOf(s interceptor.State) map[string]int64 {
	counts := make(map[string]int64)
	for _, target := range s.Targets {
		for _, m := range target.Methods {
			name := m.Method
			if !m.Registered {
				name = ""
			}
			for _, c := range m.Calls {
				code := c.Code
				if code == interceptor.OtherCode {
					code = codes.Unknown
				}
				counts[fmt.Sprint(name, " end ", code, " ", c.Reason)] += c.Count
			}
			for _, a := range m.Attempts {
				if a.Kind == budget.Retry || a.Kind == budget.Hedge {
					counts[fmt.Sprint(name, " ", a.Kind)] += a.Count
				}
			}
			for _, d := range m.Denials {
				counts[fmt.Sprint(name, " denial ", d.Kind, " ", d.Reason)] += d.Count
			}
		}
	}
	return counts
}

// flat returns the counts of a report in the same words.
func flat(all []policy.MethodCounts) map[string]int64 {
	counts := make(map[string]int64)
	add := func(n int64, words ...any) {
		if n > 0 {
			counts[fmt.Sprint(words...)] += n
		}
	}
	for _, m := range all {
		for _, e := range m.Ends {
			add(e.Calls, m.Method, " end ", e.Code, " ", e.Reason)
		}
		add(m.Retries, m.Method, " retry")
		add(m.Hedges, m.Method, " hedge")
		for _, d := range m.Denials {
			add(d.Count, m.Method, " denial ", d.Kind, " ", d.Reason)
		}
	}
	return counts
}

// TestMethodCounts: what is reported is what State counts, over two targets.
func TestMethodCounts(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		other := testsrv.Start(t, testsrv.Hostname("other"))
		it := newInterceptor(t, interceptor.WithRules(
			policy.Rule{Methods: []string{testsrv.Get}, Policy: exact(idempotent)},
			policy.Rule{Methods: []string{testsrv.Put}, Policy: after100(idempotent)},
		), interceptor.WithTargetBudget(func(string) budget.Budget { return &few{left: 3} }))
		fails := testsrv.Fail(codes.Unavailable, "")
		for _, s := range []*testsrv.Server{srv, other} {
			conn := s.Conn(t, it.DialOptions()...)
			s.Script(testsrv.Get, testsrv.Echo(), testsrv.Fail(codes.Code(77), ""), testsrv.Fail(codes.Unknown, ""), fails, testsrv.Echo(), fails, fails, fails)
			s.Script(testsrv.Put, testsrv.Hang(), testsrv.Echo())
			for range 5 {
				_ = conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse))
				_ = conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{Id: "1"}, new(testv1.PutResponse))
			}
			for i := range 3 {
				_ = conn.Invoke(t.Context(), fmt.Sprint("/made.Up/", i), &testv1.GetRequest{}, new(testv1.GetResponse))
			}
		}
		counts := it.MethodCounts()
		assert.Equal(t, countsOf(it.State()), flat(counts))
		var names []string
		for _, m := range counts {
			names = append(names, m.Method)
		}
		assert.Equal(t, []string{"", testsrv.Get, testsrv.Put}, names)
		get, put := counts[1], counts[2]
		assert.ElementsMatch(t, []policy.EndCount{
			{Code: codes.OK, Reason: "succeeded", Calls: 4},
			{Code: codes.Unknown, Reason: "non-retryable", Calls: 4},
			{Code: codes.Unavailable, Reason: "budget-denied", Calls: 2},
		}, get.Ends, "each once")
		assert.Positive(t, get.Retries)
		assert.Equal(t, []policy.DenialCount{{Kind: "retry", Reason: "budget-denied", Count: 2}}, get.Denials)
		assert.Positive(t, put.Hedges)
	})
}

func TestMethodCountsOfNothing(t *testing.T) {
	t.Parallel()
	assert.Empty(t, (*interceptor.Interceptor)(nil).MethodCounts())
	assert.Empty(t, new(interceptor.Interceptor).MethodCounts())
	assert.Empty(t, newInterceptor(t).MethodCounts())
}

// BenchmarkMethodCounts: what a report costs whose interceptor knows of a hundred methods at two
// targets, beside the other looks.
func BenchmarkMethodCounts(b *testing.B) {
	it, err := interceptor.New(interceptor.WithLogger(silent))
	require.NoError(b, err)
	unary := it.Unary()
	for target := range 2 {
		conn, err := grpc.NewClient(fmt.Sprint("passthrough:///", target), append(it.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		require.NoError(b, err)
		b.Cleanup(func() { _ = conn.Close() })
		for method := range 100 {
			for i := range 10 {
				_ = unary(b.Context(), fmt.Sprint("/bench.v1.Service/Method", method), nil, nil, conn, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
					if i == 0 {
						return status.Error(codes.Unavailable, "")
					}
					return nil
				}, grpc.StaticMethod())
			}
		}
	}
	require.Len(b, it.MethodCounts(), 100)
	for name, look := range map[string]func(){
		"MethodCounts": func() { it.MethodCounts() },
		"Counters":     func() { it.Counters() },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				look()
			}
		})
	}
}
