package main

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/interceptor"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// client is a generated gRPC client whose connection goes through rego.
type client struct {
	testv1.TestServiceClient
	*grpc.ClientConn
}

// dial makes a client of the server at addr. The phase counts its calls; opts are
// what the scene wants of rego beyond its defaults.
func (s *stage) dial(addr string, counts *phase, opts ...interceptor.Option) (*client, error) {
	r, err := interceptor.New(append(opts,
		interceptor.WithObserver(counts),
		interceptor.WithObserver(s.spans),
	)...)
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
	return &client{testv1.NewTestServiceClient(conn), conn}, nil
}

// quickReconnect shortens the time for which grpc leaves a server alone that has
// refused a connection: a second at first, two minutes at most. Until it has
// passed every attempt fails without a dial, so retries that are all made in the
// first second cannot help. Where servers restart quickly, a short base delay
// belongs to the retries, and waits that add up to more than it.
var quickReconnect = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff: backoff.Config{
		BaseDelay:  50 * time.Millisecond,
		Multiplier: 1.6,
		Jitter:     0.2,
		MaxDelay:   200 * time.Millisecond,
	},
	MinConnectTimeout: time.Second,
})
