package interceptor

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	_ "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1" // registers benchMethod
	"github.com/rego-go/rego/policy"
)

const benchMethod = "/rego.test.v1.TestService/Get"

// answeringOK is grpc as cheap as it can be: the call succeeds at once, and that it has
// ended is told.
func answeringOK(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
	tellEnd(nil, opts)
	return nil
}

func tellEnd(err error, opts []grpc.CallOption) {
	for _, o := range opts {
		if o, ok := o.(grpc.OnFinishCallOption); ok {
			o.OnFinish(err)
		}
	}
}

func takeForGRPC(invoker grpc.UnaryInvoker) {
	grpcInvoker.code.Store(reflect.ValueOf(invoker).Pointer())
}

// failing returns an invoker whose attempts fail but for every n-th.
func failing(n int) grpc.UnaryInvoker {
	err := status.Error(codes.Unavailable, "down")
	var count int
	return func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
		if count++; count%n == 0 {
			tellEnd(nil, opts)
			return nil
		}
		for _, o := range opts {
			switch o := o.(type) {
			case grpc.PeerCallOption:
				*o.PeerAddr = peer.Peer{Addr: fakeAddr{}}
			case grpc.OnFinishCallOption:
				o.OnFinish(err)
			}
		}
		return err
	}
}

type fakeAddr struct{}

func (fakeAddr) Network() string { return "fake" }
func (fakeAddr) String() string  { return "fake" }

// newBench returns the interceptor to be measured. It takes answeringOK for grpc's own
// invoker, which is what a connection without other interceptors has below.
func newBench(tb testing.TB, opts ...Option) grpc.UnaryClientInterceptor {
	tb.Helper()
	takeForGRPC(answeringOK)
	it, err := New(opts...)
	require.NoError(tb, err)
	return it.Unary()
}

var idempotentNow = policy.Policy{
	Idempotency: classify.Idempotent,
	Retry:       policy.Retry{Backoff: policy.Backoff{Initial: policy.NoWait}},
}

// BenchmarkBare is what the others are held against.
func BenchmarkBare(b *testing.B) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var invoker grpc.UnaryInvoker = answeringOK
		for pb.Next() {
			_ = invoker(context.Background(), benchMethod, nil, nil, nil, stubOptions...)
		}
	})
}

// stubOptions are those that generated stubs give.
var stubOptions = []grpc.CallOption{grpc.StaticMethod()}

func BenchmarkFirstAttemptSucceeds(b *testing.B) {
	unary := newBench(b, WithPolicy(idempotentNow))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = unary(context.Background(), benchMethod, nil, nil, nil, answeringOK, stubOptions...)
		}
	})
}

// BenchmarkDynamicPolicy is the same with the policy from a store: of ten thousand
// rules, and changed ten times a second.
func BenchmarkDynamicPolicy(b *testing.B) {
	set := policy.Set{Rules: []policy.Rule{{Methods: []string{benchMethod}, Policy: idempotentNow}}}
	for i := range 9_999 {
		set.Rules = append(set.Rules, policy.Rule{Methods: []string{fmt.Sprintf("/company.team.v1.Service/Method%d", i)}})
	}
	for _, changing := range []bool{false, true} {
		b.Run(fmt.Sprintf("changing=%v", changing), func(b *testing.B) {
			st, err := policy.NewStore(set)
			require.NoError(b, err)
			unary := newBench(b, WithPolicies(st))
			stop := make(chan struct{})
			var updating sync.WaitGroup
			if changing {
				updating.Go(func() {
					small := policy.Set{Rules: set.Rules[:1]}
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						case <-time.After(100 * time.Millisecond):
							small.Version = fmt.Sprint(i)
							_ = st.Update(small)
						}
					}
				})
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_ = unary(context.Background(), benchMethod, nil, nil, nil, answeringOK, stubOptions...)
				}
			})
			b.StopTimer()
			close(stop)
			updating.Wait()
		})
	}
}

// BenchmarkOwnPolicy is a call that makes its policy anew.
func BenchmarkOwnPolicy(b *testing.B) {
	unary := newBench(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = unary(context.Background(), benchMethod, nil, nil, nil, answeringOK, grpc.StaticMethod(), WithPolicy(idempotentNow))
		}
	})
}

func BenchmarkTwoFailuresThenSuccess(b *testing.B) {
	unary := newBench(b, WithPolicy(idempotentNow), WithTargetBudget(unlimited))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		invoker := failing(3)
		takeForGRPC(invoker)
		for pb.Next() {
			if err := unary(context.Background(), benchMethod, nil, nil, nil, invoker, stubOptions...); err != nil {
				b.Error(err)
			}
		}
	})
}

func unlimited(string) budget.Budget { return nil }
