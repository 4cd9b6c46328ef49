package main

import (
	"google.golang.org/grpc"
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
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return nil, err
	}
	return &client{testv1.NewTestServiceClient(conn), conn}, nil
}
