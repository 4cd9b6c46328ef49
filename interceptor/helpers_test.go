package interceptor_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

const ms = time.Millisecond

var silent = slog.New(slog.DiscardHandler)

// exact is the default policy without jitter, so that waits are exact: 50, 100,
// 200 ms.
func exact(change ...func(*policy.Policy)) policy.Policy {
	p := policy.Default()
	p.Retry.Backoff.Jitter = policy.JitterNone
	for _, f := range change {
		f(&p)
	}
	return p
}

// failsFast has calls not wait for a connection.
func failsFast(p *policy.Policy) { p.Retry.Reconnect = policy.NoWait }

// named has a policy for each method of the test service by its name.
func named(p policy.Policy) interceptor.Option {
	return interceptor.WithRules(policy.Rule{
		Methods: []string{testsrv.Get, testsrv.Put, testsrv.Pay, testsrv.Watch, testsrv.Upload, testsrv.Chat}, Policy: p,
	})
}

func newInterceptor(t *testing.T, opts ...interceptor.Option) *interceptor.Interceptor {
	t.Helper()
	it, err := interceptor.New(append([]interceptor.Option{interceptor.WithLogger(silent)}, opts...)...)
	require.NoError(t, err)
	return it
}

// client is a connection to a scripted server through an interceptor.
type client struct {
	*testing.T
	srv  *testsrv.Server
	conn *grpc.ClientConn
}

func newClient(t *testing.T, srv *testsrv.Server, opts ...interceptor.Option) client {
	t.Helper()
	return client{t, srv, srv.Conn(t, newInterceptor(t, opts...).DialOptions()...)}
}

// call makes a call of any of the unary methods and returns its timeline.
func (c client) call(ctx context.Context, method string, opts ...grpc.CallOption) (*interceptor.Timeline, error) {
	c.Helper()
	var tl interceptor.Timeline
	req, reply := messages(method)
	err := c.conn.Invoke(ctx, method, req, reply, append(opts, interceptor.WithTimeline(&tl))...)
	return &tl, err
}

func messages(method string) (req, reply proto.Message) {
	switch method {
	case testsrv.Get:
		return &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse)
	case testsrv.Put:
		return &testv1.PutRequest{Id: "1"}, new(testv1.PutResponse)
	}
	return &testv1.PayRequest{Id: "1"}, new(testv1.PayResponse)
}

// bubble runs f in virtual time with a server in memory.
func bubble(t *testing.T, f func(t *testing.T, srv *testsrv.Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, testsrv.Start(t)) })
}
