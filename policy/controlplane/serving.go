package controlplane

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// ServeOption configures [NewServer] and [NewReplica].
type ServeOption interface{ serve(*serving) }

type serveOption func(*serving)

func (f serveOption) serve(c *serving) { f(c) }

type serving struct {
	authorize      func(context.Context, *regov1.Node) error
	authorizeFleet func(context.Context) error
	onDenial       func(Denial)
	maxClients     int
	reportEvery    time.Duration // zero: no reports are asked for

	replica
}

// Authorize sets the rule for clients. allow is asked for every client, after its first
// request and before anything is sent to it or kept of it. ctx is the context of the stream,
// with the peer and its certificate; [ServiceFromCertificate] makes a rule from that. An
// error denies. If it is no gRPC status, it becomes PERMISSION_DENIED. Its text goes to the
// client, so it must hold no secret. allow must not change the node. Default, and what nil
// means: every client may.
func Authorize(allow func(ctx context.Context, node *regov1.Node) error) ServeOption {
	return serveOption(func(c *serving) { c.authorize = allow })
}

// AuthorizeFleet sets the rule for the service of [Server.Fleet]. allow is asked for every
// call. [PeerIs] makes a rule. Errors are as in [Authorize]. Default, and what nil means:
// everybody who can reach the service may.
func AuthorizeFleet(allow func(ctx context.Context) error) ServeOption {
	return serveOption(func(c *serving) { c.authorizeFleet = allow })
}

// OnDenial sets a function that is called for everything that [Authorize] and
// [AuthorizeFleet] deny, for an audit log. The client waits while it runs, and several calls
// may run at a time. Default, and what nil means: none.
func OnDenial(told func(Denial)) ServeOption {
	return serveOption(func(c *serving) { c.onDenial = told })
}

// MaxClients bounds how many clients may be connected at a time. Further clients get
// RESOURCE_EXHAUSTED. Default, and what less than 1 means: 100,000.
func MaxClients(n int) ServeOption {
	return serveOption(func(c *serving) {
		if c.maxClients = n; n < 1 {
			c.maxClients = 100_000
		}
	})
}

// Denial is a request that was denied.
type Denial struct {
	Time time.Time
	// Method is the full name of the RPC.
	Method string
	// Peer is the address that the request came from.
	Peer string
	// Identities are those of [Identities]: what a verified certificate says.
	Identities []string
	// Node is who the client said that it is; nil for calls of the fleet service.
	Node *regov1.Node
	// Err is the answer, a gRPC status that says why.
	Err error
}

// deny returns the answer to what err denies, once whoever keeps a log has been told.
func (c *serving) deny(ctx context.Context, method string, node *regov1.Node, err error) error {
	if _, ok := status.FromError(err); !ok {
		err = status.Error(codes.PermissionDenied, err.Error())
	}
	if c.onDenial != nil {
		c.onDenial(Denial{
			Time: time.Now(), Method: method, Peer: peerOf(ctx), Identities: Identities(ctx), Node: node, Err: err,
		})
	}
	return err
}

// What a server takes from a connection.
const (
	maxRequest = 256 << 10 // bytes of a message; an answer has at most some 70 KiB
	maxStreams = 100       // at a time
	maxHeaders = 16 << 10  // bytes
	window     = 64 << 10  // bytes of a stream that wait to be read
)

// ServerOptions returns what the grpc.Server needs. It allows the clients' keepalive, and
// ends connections whose clients do not answer within 45 s. It bounds what a connection can
// send: messages of 256 KiB, 100 streams, headers of 16 KiB. It makes connections use small
// or shared buffers, because a fleet has many connections that send little.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 15 * time.Second}),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.HeaderTableSize(0), // a connection sends headers once
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		grpc.WriteBufferSize(8 << 10), // each connection holds one while a set is on its way
		grpc.ReadBufferSize(1 << 10),
		grpc.ConnectionTimeout(20 * time.Second),
	}
}
