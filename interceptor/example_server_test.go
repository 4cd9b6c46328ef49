package interceptor_test

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// shop is what most examples call: a client of a server that does what the example says.
type shop struct {
	testv1.TestServiceClient
	server *testsrv.Server
	conn   *grpc.ClientConn
}

// shopWith returns a client that is connected, and goes through rego. Options come before those
// of rego, so interceptors among them see calls and not attempts.
func shopWith(rego *interceptor.Interceptor, opts ...grpc.DialOption) *shop {
	server := must(testsrv.New())
	conn := must(server.Dial(append(opts, rego.DialOptions()...)...))
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		conn.WaitForStateChange(context.Background(), state)
	}
	return &shop{testv1.NewTestServiceClient(conn), server, conn}
}

func (s *shop) close() {
	_ = s.conn.Close()
	s.server.Close()
}

// must is for what fails only if the example is wrong.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
