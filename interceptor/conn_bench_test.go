package interceptor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// Benchmarks of calls over a real connection in memory, beside a bare one.

func connections(tb testing.TB, srv *testsrv.Server) []connection {
	tb.Helper()
	hedging := idempotentNow
	hedging.Hedge = policy.Hedge{Delay: time.Minute}
	dial := func(opts ...grpc.DialOption) testv1.TestServiceClient {
		return testv1.NewTestServiceClient(srv.Conn(tb, opts...))
	}
	return []connection{
		{"bare", dial()},
		{"retries", dial(newStreamBench(tb, WithPolicy(idempotentNow)).DialOptions()...)},
		{"hedging", dial(newStreamBench(tb, WithPolicy(hedging)).DialOptions()...)},
		{"one attempt", dial(newStreamBench(tb, WithPolicy(policy.Policy{Retry: policy.Retry{MaxAttempts: 1}})).DialOptions()...)},
	}
}

type connection struct {
	name   string
	client testv1.TestServiceClient
}

// BenchmarkConnUnary is a unary call.
func BenchmarkConnUnary(b *testing.B) {
	for _, c := range connections(b, testsrv.Start(b, testsrv.NoRecording())) {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.client.Get(context.Background(), new(testv1.GetRequest)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkConnWatch is a server stream of one message, and of a hundred.
func BenchmarkConnWatch(b *testing.B) {
	for _, messages := range []int{1, 100} {
		srv := testsrv.Start(b, testsrv.NoRecording())
		srv.Script(testsrv.Watch, testsrv.Do(testsrv.Send(messages), testsrv.OK()))
		for _, c := range connections(b, srv) {
			b.Run(fmt.Sprintf("%d/%s", messages, c.name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s, err := c.client.Watch(context.Background(), new(testv1.WatchRequest))
					if err != nil {
						b.Fatal(err)
					}
					n := 0
					for ; err == nil; n++ {
						_, err = s.Recv()
					}
					if !errors.Is(err, io.EOF) || n != messages+1 {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}
