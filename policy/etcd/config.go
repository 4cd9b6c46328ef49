package etcd

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Config returns the configuration for the client of a control plane:
// clientv3.New(Config(endpoints...)). Add TLS and credentials yourself. Append to
// DialOptions, and do not replace them: otherwise dead connections are not noticed.
//
// A connection that is in use and does not answer is closed after 13 seconds. etcd accepts a
// ping every five seconds and not more often. grpc sends one every ten seconds and not more
// often. Pings without a call (PermitWithoutStream) are not set: etcd closes connections
// because of them. A member that was away is dialled at least every two seconds, so that a
// watch is back soon after etcd is. Without that, grpc's backoff grows to two minutes.
//
// The client logs nothing, because a Storage returns or reports every error that matters.
// Set Logger to see what clientv3 says.
func Config(endpoints ...string) clientv3.Config {
	return clientv3.Config{
		Endpoints:            endpoints,
		DialTimeout:          5 * time.Second,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		Logger:               zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		})},
	}
}
