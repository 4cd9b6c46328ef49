package controlplane

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Server serves the set of a [policy.Store] as rego.v1.PolicyDiscoveryService. Register it
// with regov1.RegisterPolicyDiscoveryServiceServer on a grpc.Server that has [ServerOptions]
// and credentials. Use [Authorize]: without it, everybody who can connect can read the
// policies. [Server.Fleet] is another service, which lists the clients for operators.
//
// A set is encoded once and shared by all clients. A client gets the next set when it has
// answered the last one. So a slow client misses the sets in between, and a client that
// never reads costs no copy. Neither holds up anybody. If the server has nothing new for a
// client, it sends a heartbeat every 15 to 20 s.
type Server struct {
	regov1.UnimplementedPolicyDiscoveryServiceServer
	config serving
	began  time.Time

	heartbeatMessage func() (*grpc.PreparedMsg, error)
	// onReport is told of every report that is valid, by the goroutine that serves the client,
	// which waits; nil if nobody wants them. It must not change r, nor keep more of it than words
	// and counts: what else a message can hold has no bound.
	onReport func(c *client, r *regov1.Report)

	mu      sync.Mutex
	scopes  map[string]*scope // by service; "" is for every service that has none of its own
	numbers uint64            // of sets that were pushed
	streams int               // open ones, whether or not they have said who they are
	clients map[*client]struct{}
	names   map[name]int // how many are connected by that name
	gone    gone
	ids     uint64
	chunks  chunks // of clients, as other replicas are told of them

	traffic  traffic
	exchange *exchange // with other replicas; nil if there are none
}

// name is what a client is known by from one connection to the next.
type name struct{ service, instance string }

// NewServer returns a server of the set that st has. It sends sets only after a source of st
// has reported, or if NewStore was given a set that is not empty: a server that has lost its
// own source must not take away what its clients have. stores are served to the clients of
// the services that are their keys, instead of st; nil means none.
func NewServer(st *policy.Store, stores map[string]*policy.Store, opts ...ServeOption) *Server {
	s := newServer(opts)
	shared := make(map[*policy.Store]*feed, len(stores)+1)
	of := func(st *policy.Store) *scope {
		if shared[st] == nil {
			shared[st] = s.newFeed(st)
		}
		return &scope{main: shared[st]}
	}
	s.scopes[""] = of(st)
	for service, own := range stores {
		s.scopes[service] = of(own)
	}
	return s
}

func newServer(opts []ServeOption) *Server {
	s := &Server{
		config:  serving{maxClients: 100_000, replica: replica{sourceName: "repository"}},
		began:   time.Now(),
		scopes:  make(map[string]*scope),
		clients: make(map[*client]struct{}),
		names:   make(map[name]int),
	}
	for _, o := range opts {
		if o != nil {
			o.serve(&s.config)
		}
	}
	s.heartbeatMessage = heartbeatOf(&s.config)
	s.onReport = func(c *client, r *regov1.Report) { s.traffic.add(c, r, time.Now()) }
	return s
}

// helloTimeout is how long a client may take to say who it is.
const helloTimeout = 10 * time.Second

// StreamPolicies serves one client until its stream ends.
func (s *Server) StreamPolicies(stream regov1.PolicyDiscoveryService_StreamPoliciesServer) error {
	if !s.enter() {
		return status.Errorf(codes.ResourceExhausted, "the server has %d clients, which is all that it may have", s.config.maxClients)
	}
	defer s.leave()
	r, err := hello(stream)
	if err != nil {
		return endOf(err)
	}
	c, err := newClient(stream, r)
	if err != nil {
		return err
	}
	if s.config.authorize != nil {
		if err := s.config.authorize(stream.Context(), c.node); err != nil {
			return s.config.deny(stream.Context(), regov1.PolicyDiscoveryService_StreamPolicies_FullMethodName, c.node, err)
		}
	}
	s.add(c)
	defer s.remove(c)
	if s.push(c) == nil && !s.told(c) {
		s.heartbeat(c) // so that the client knows that there are no policies yet
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return endOf(err)
		}
		if r.GetReport() != nil {
			if err := s.reported(c, r.GetReport()); err != nil {
				return err
			}
			continue
		}
		if err := s.answered(c, r); err != nil {
			return err
		}
		if err := s.push(c); err != nil {
			return err
		}
	}
}

// endOf returns how a stream ends that nothing can be received from any more. A client that
// has no more to say is no error.
func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// hello returns the first request of a stream.
func hello(stream regov1.PolicyDiscoveryService_StreamPoliciesServer) (*regov1.StreamPoliciesRequest, error) {
	var r *regov1.StreamPoliciesRequest
	got := make(chan error, 1)
	go func() { // it ends when the stream does, at the latest
		var err error
		r, err = stream.Recv()
		got <- err
	}()
	late := time.NewTimer(helloTimeout)
	defer late.Stop()
	select {
	case err := <-got:
		return r, err
	case <-late.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "no request within %v", helloTimeout)
	}
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams >= s.config.maxClients {
		return false
	}
	s.streams++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams--
}

// add has c served.
func (s *Server) add(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids++
	c.id = s.ids
	if s.exchange != nil {
		c.replica = s.exchange.name
	}
	s.clients[c] = struct{}{}
	s.names[c.name()]++
	s.gone.back(c.name())
	s.joinLocked(c)
	s.chunks.add(c)
	c.beat = time.AfterFunc(spread(heartbeatEvery), func() { s.heartbeat(c) })
}

func (s *Server) remove(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.left = true
	c.beat.Stop()
	delete(s.clients, c)
	c.partLocked()
	c.chunk.remove(c)
	if s.names[c.name()]--; s.names[c.name()] == 0 {
		delete(s.names, c.name())
		s.gone.add(c, time.Now())
	}
}

// peerOf returns the address of the other end.
func peerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}
