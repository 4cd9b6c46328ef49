package controlplane

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/repository"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// ServeOption configures [NewServer].
type ServeOption interface{ serve(*serving) }

type serveOption func(*serving)

func (f serveOption) serve(c *serving) { f(c) }

type serving struct {
	authorize      func(context.Context, *regov1.Node) error
	authorizeFleet func(context.Context) error
	onDenial       func(Denial)
	maxClients     int
	reportEvery    time.Duration // zero: no reports are asked for

	// Of a replica.
	outlets         map[string]*outlet
	sourceName      string
	guard           func(*policy.Table) error
	log             *slog.Logger
	onService       func(string, *policy.Store)
	onDecision      func(repository.Policies)
	authorizeChange func(context.Context, string, bool) error
	onChange        func(Made)
}

// Authorize has allow asked for every client, after its first request and before
// anything is sent to it or kept of it. ctx is that of the stream, with the peer and its
// certificate; [ServiceFromCertificate] makes a rule from that. An error denies: one
// that is no gRPC status becomes PERMISSION_DENIED. Its text goes to the client, so it must
// hold no secret. allow must not change the node. Default, and what nil means: all may.
func Authorize(allow func(ctx context.Context, node *regov1.Node) error) ServeOption {
	return serveOption(func(c *serving) { c.authorize = allow })
}

// AuthorizeFleet has allow asked for every call of the service that [Server.Fleet] is.
// [PeerIs] makes a rule. Errors are those of [Authorize]. Default, and what nil means: all
// may who can reach the service.
func AuthorizeFleet(allow func(ctx context.Context) error) ServeOption {
	return serveOption(func(c *serving) { c.authorizeFleet = allow })
}

// OnDenial has told called for whatever [Authorize] and [AuthorizeFleet] deny, for an audit
// log. The client waits meanwhile, and several calls may run at a time. Default, and what
// nil means: nobody is told.
func OnDenial(told func(Denial)) ServeOption {
	return serveOption(func(c *serving) { c.onDenial = told })
}

// MaxClients bounds how many clients may be connected at a time. Others get
// RESOURCE_EXHAUSTED. Default, and what less than 1 means: 100,000.
func MaxClients(n int) ServeOption {
	return serveOption(func(c *serving) {
		if c.maxClients = n; n < 1 {
			c.maxClients = 100_000
		}
	})
}

// Outlet has the policies of a service be those of st, which are kept elsewhere: in a file that name
// names. What st gets from there goes into the repository. What is put into the repository, or
// promoted or taken back, put brings to where st has it from; it is tried again while it fails. It is
// for repositories that are not durable.
func Outlet(service string, st *policy.Store, name string, put func(policy.Set) error) ServeOption {
	return serveOption(func(c *serving) {
		if c.outlets == nil {
			c.outlets = make(map[string]*outlet)
		}
		c.outlets[service] = &outlet{store: st, name: name, put: put, due: make(chan policy.Set, 1)}
	})
}

// SourceName sets what the status of stores has as the source of sets. Default: "repository".
func SourceName(name string) ServeOption {
	return serveOption(func(c *serving) { c.sourceName = name })
}

// Guarded has check asked for every set before a replica serves it, whoever has put it: what it
// refuses is not served, and what was before is. Default, and what nil means: valid sets are served.
func Guarded(check func(*policy.Table) error) ServeOption {
	return serveOption(func(c *serving) { c.guard = check })
}

// LogTo sets where a replica reports what is not as it should be. Default, and what nil means:
// slog.Default.
func LogTo(l *slog.Logger) ServeOption {
	return serveOption(func(c *serving) { c.log = l })
}

// OnService has told called for every service that gets policies of its own, with the store that
// will have them. Default, and what nil means: nobody is told.
func OnService(told func(service string, st *policy.Store)) ServeOption {
	return serveOption(func(c *serving) { c.onService = told })
}

// OnDecision has told called when this replica has taken a rollout a step further, promoted it or
// rejected it. The rollout says why. Default, and what nil means: nobody is told.
func OnDecision(told func(repository.Policies)) ServeOption {
	return serveOption(func(c *serving) { c.onDecision = told })
}

// AuthorizeChange has allow asked for every call of the service that [Replica.Admin] is, with the
// service whose policies it is about, and whether they are to be changed. [PeerIs] and
// [ServiceFromCertificate] make rules. Errors are those of [Authorize]. Default, and what nil
// means: all may who can reach the service.
func AuthorizeChange(allow func(ctx context.Context, service string, write bool) error) ServeOption {
	return serveOption(func(c *serving) { c.authorizeChange = allow })
}

// OnChange has told called for every change that somebody has made, for an audit log. Default, and
// what nil means: nobody is told.
func OnChange(told func(Made)) ServeOption {
	return serveOption(func(c *serving) { c.onChange = told })
}

// Made is a change that somebody has made.
type Made struct {
	Time time.Time
	// Method is the full name of the RPC.
	Method string
	// Peer and Identities say who it was, as in a Denial.
	Peer       string
	Identities []string
	// Before and After are what the service had, and has.
	Before, After repository.Policies
}

// Denial is something that somebody wanted and was not allowed.
type Denial struct {
	Time time.Time
	// Method is the full name of the RPC.
	Method string
	// Peer is the address that the request came from.
	Peer string
	// Identities are those of [Identities]: what a verified certificate says.
	Identities []string
	// Node is who a client said that it is; nil for calls of the fleet service.
	Node *regov1.Node
	// Err is why: the answer, a gRPC status.
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
// send: messages of 256 KiB, 100 streams, headers of 16 KiB. And it has connections use
// buffers that are small or shared, since a fleet is many connections with little to say.
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
