// Package testsrv is a gRPC server that does what a script says: fail the
// first attempt, answer the second, hang on the third, cut the connection on
// the fourth. It serves rego.test.v1.TestService, which has all four kinds of
// call, and records every attempt that arrives.
//
// The server runs in memory unless it is told to use TCP. In memory, all its
// waiting is virtual inside a testing/synctest bubble; over TCP it shows what
// only sockets show: a refused dial, a reset connection.
//
// What surprises: scripts count attempts, not calls. Two calls at the same
// time share the steps of their method in the order in which their attempts
// arrive. Where that matters, [Server.Handle] chooses the step by what
// arrived.
//
// Begin with [Start] in a test and with [New] in a program, then
// [Server.Script].
package testsrv

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// The methods of the service, as [Server.Script] and [Server.Arrivals] take
// them.
const (
	Get    = testv1.TestService_Get_FullMethodName    // unary, no side effects
	Put    = testv1.TestService_Put_FullMethodName    // unary, idempotent
	Pay    = testv1.TestService_Pay_FullMethodName    // unary, idempotency unknown
	Watch  = testv1.TestService_Watch_FullMethodName  // server stream
	Upload = testv1.TestService_Upload_FullMethodName // client stream
	Chat   = testv1.TestService_Chat_FullMethodName   // both ways
)

// A Server serves rego.test.v1.TestService from [New] or [Start] to
// [Server.Close]. It is safe for concurrent use; a script or a handler may be
// replaced while calls run.
type Server struct {
	hostname string
	record   bool
	grpc     *grpc.Server
	net      *network
	workers  workers

	mu      sync.Mutex
	methods map[string]*method
}

// An Option configures a server.
type Option func(*config)

type config struct {
	tcp      bool
	addr     string
	hostname string
	record   bool
	services []func(grpc.ServiceRegistrar)
	grpc     []grpc.ServerOption
}

// TCP makes the server listen on addr, as "127.0.0.1:50051". Empty means a
// free port of 127.0.0.1. Without TCP the server is reachable through
// [Server.Dial] only, in memory.
func TCP(addr string) Option {
	return func(c *config) {
		c.tcp = true
		if addr != "" {
			c.addr = addr
		}
	}
}

// Hostname is the server's name for the "hostname=" prefix of rpc-behavior and,
// in memory, its address. The default is "testsrv".
func Hostname(name string) Option {
	return func(c *config) { c.hostname = name }
}

// NoRecording keeps no arrivals, so that a server under load does not grow.
// [Server.Count] still counts. The default is to record.
func NoRecording() Option {
	return func(c *config) { c.record = false }
}

// Services registers more services on the server: they are served, refused and
// cut like TestService, but neither scripted nor recorded.
func Services(register func(grpc.ServiceRegistrar)) Option {
	return func(c *config) { c.services = append(c.services, register) }
}

// ServerOptions passes options to [grpc.NewServer].
func ServerOptions(opts ...grpc.ServerOption) Option {
	return func(c *config) { c.grpc = append(c.grpc, opts...) }
}

// New starts a server. The error is that of listening; in memory there is none.
func New(opts ...Option) (*Server, error) {
	c := config{addr: "127.0.0.1:0", hostname: "testsrv", record: true}
	for _, o := range opts {
		o(&c)
	}

	// Without WaitForHandlers, Close would return while handlers still run.
	g := grpc.NewServer(append(c.grpc, grpc.WaitForHandlers(true))...)
	n := newNetwork(g, c.hostname)
	s := &Server{
		hostname: c.hostname,
		record:   c.record,
		grpc:     g,
		net:      n,
		methods:  make(map[string]*method),
	}
	testv1.RegisterTestServiceServer(g, service{srv: s})
	for _, register := range c.services {
		register(g)
	}

	if !c.tcp {
		n.listenMemory()
		return s, nil
	}
	if err := n.listenTCP(c.addr); err != nil {
		return nil, err
	}
	return s, nil
}

// Close stops the server: it refuses dials, cuts every connection, cancels
// every handler and waits for them. What was recorded stays readable. Closing
// twice is harmless.
func (s *Server) Close() {
	s.net.close()
	s.grpc.Stop()
	s.net.serving.Wait()
}

// Drain makes the server leave: its clients get a GOAWAY, new connections and requests
// are refused, and what runs may end, which Drain waits for.
func (s *Server) Drain() { s.grpc.GracefulStop() }

// Addr is the server's address: host:port over TCP, the hostname in memory.
func (s *Server) Addr() string { return s.net.addr.String() }

// Dial returns a client of this server, without transport security unless opts
// say otherwise. The caller closes it. As with [grpc.NewClient], the
// connection is made by the first call.
func (s *Server) Dial(opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(s.DialContext),
	}, opts...)
	return grpc.NewClient("passthrough:///"+s.Addr(), opts...)
}

// DialContext connects to the server whatever the address given, for
// [grpc.WithContextDialer] with a target or resolver of one's own.
func (s *Server) DialContext(ctx context.Context, _ string) (net.Conn, error) {
	return s.net.dial(ctx)
}

// Refuse makes the server refuse connections from now on, or accept them again.
// Refused dials fail with ECONNREFUSED. Connections that exist stay; see
// [Server.KillConns]. The error is that of listening on the same TCP port
// again; in memory there is none.
func (s *Server) Refuse(refuse bool) error { return s.net.refuse(refuse) }

// KillConns cuts every connection that exists, as [KillConn] does.
func (s *Server) KillConns() { s.net.killAll() }
