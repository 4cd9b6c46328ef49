package main

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/policy"
)

// patient is the policy of every call, unless the scene has its own. When a
// connection breaks nobody knows what the server has done, so only methods that
// are declared idempotent are sent again.
var patient = policy.Policy{
	Name:        "patient",
	Idempotency: classify.Idempotent,
	Timeout:     10 * time.Second,
	Retry: policy.Retry{
		MaxAttempts: 4,
		Backoff:     policy.Backoff{Initial: 50 * time.Millisecond, Jitter: policy.JitterEqual},
	},
}

// dial connects to the server at addr through rego. It waits for the connection,
// since a hedge is sent only on one that is there.
func dial(ctx context.Context, addr string) (*grpc.ClientConn, error) {
	r, err := interceptor.New(interceptor.WithPolicy(patient))
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(addr, append(r.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		quickReconnect,
	)...)
	if err != nil {
		return nil, err
	}
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return nil, errors.Join(ctx.Err(), conn.Close())
		}
	}
	return conn, nil
}

// quickReconnect shortens the time for which grpc leaves a server alone that has
// refused a connection, a second at first: while it lasts, attempts fail without a
// dial, and all four of a call are made sooner.
var quickReconnect = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff: backoff.Config{
		BaseDelay:  20 * time.Millisecond,
		Multiplier: 1.6,
		Jitter:     0.2,
		MaxDelay:   200 * time.Millisecond,
	},
	MinConnectTimeout: time.Second,
})
