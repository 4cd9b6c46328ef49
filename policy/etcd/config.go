package etcd

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Config returns what a client of a control plane is made with: clientv3.New(Config(endpoints...)).
// TLS and credentials are for the caller to add. DialOptions are to be appended to, not replaced.
//
// A connection that is in use and does not answer is closed after 13 seconds: etcd
// takes a ping every five seconds and no oftener, grpc sends one every ten and no oftener. Pings
// without a call, which PermitWithoutStream would send, are not set: etcd closes connections for them.
// A member that was away is dialled at least every two seconds, so that a watch is back soon
// after etcd is. Without that, grpc's backoff grows to two minutes.
//
// The client logs nothing, since a [Storage] returns or tells every error that matters. Set
// Logger to see what clientv3 says.
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
