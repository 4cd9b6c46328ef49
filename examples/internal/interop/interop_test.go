// Package interop_test runs grpc's own interoperability procedures through rego, with all
// armed: retries, hedging, attempt timeouts, and an observer.
package interop_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/otelobs"
	"github.com/rego-go/rego/policy"
)

// armed is a policy with all that rego does.
var armed = policy.Policy{
	Idempotency:    classify.Idempotent,
	AttemptTimeout: 5 * time.Second,
	Retry:          policy.Retry{MaxAttempts: 4},
	Hedge:          policy.Hedge{Delay: 300 * time.Millisecond},
}

// TestProcedures: a procedure that fails ends the process.
func TestProcedures(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(srv, interop.NewTestServer())
	go func() { _ = srv.Serve(l) }()
	defer srv.Stop()

	it, err := interceptor.New(
		interceptor.WithObserver(otelobs.New()),
		interceptor.WithRules(policy.Rule{Methods: []string{
			"/grpc.testing.TestService/*",
			"/grpc.testing.TestService/FullDuplexCall", "/grpc.testing.TestService/HalfDuplexCall",
		}, Policy: armed}))
	require.NoError(t, err)
	conn, err := grpc.NewClient(l.Addr().String(), append(it.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()

	all := func(ctx context.Context) {
		tc := testgrpc.NewTestServiceClient(conn)
		for _, do := range []func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption){
			interop.DoEmptyUnaryCall, interop.DoLargeUnaryCall, interop.DoClientStreaming, interop.DoServerStreaming,
			interop.DoPingPong, interop.DoEmptyStream, interop.DoTimeoutOnSleepingServer, interop.DoCancelAfterBegin,
			interop.DoCancelAfterFirstResponse, interop.DoCustomMetadata, interop.DoStatusCodeAndMessage, interop.DoSpecialStatusMessage,
		} {
			do(ctx, tc)
		}
		interop.DoUnimplementedMethod(ctx, conn)
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn))
	}
	t.Run("one after the other", func(t *testing.T) { all(t.Context()) })
	t.Run("eight at once", func(t *testing.T) {
		var procedures sync.WaitGroup
		for range 8 {
			procedures.Go(func() { all(t.Context()) })
		}
		procedures.Wait()
	})
}
