package interceptor

import (
	"context"
	"testing"

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

// fakeOK is a call that succeeds at once, as cheap as a call can be.
func fakeOK(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	return nil
}

// failing returns an invoker whose attempts fail but for every n-th.
func failing(n int) grpc.UnaryInvoker {
	err := status.Error(codes.Unavailable, "down")
	var count int
	return func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
		if count++; count%n == 0 {
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

func newBench(tb testing.TB, opts ...Option) grpc.UnaryClientInterceptor {
	tb.Helper()
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
		var invoker grpc.UnaryInvoker = fakeOK
		for pb.Next() {
			_ = invoker(context.Background(), benchMethod, nil, nil, nil)
		}
	})
}

func BenchmarkFirstAttemptSucceeds(b *testing.B) {
	unary := newBench(b, WithPolicy(idempotentNow))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = unary(context.Background(), benchMethod, nil, nil, nil, fakeOK)
		}
	})
}

func BenchmarkTwoFailuresThenSuccess(b *testing.B) {
	unary := newBench(b, WithPolicy(idempotentNow), WithTargetBudget(unlimited))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		invoker := failing(3)
		for pb.Next() {
			if err := unary(context.Background(), benchMethod, nil, nil, nil, invoker); err != nil {
				b.Error(err)
			}
		}
	})
}

func unlimited(string) budget.Budget { return nil }
