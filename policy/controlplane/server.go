package controlplane

import (
	"cmp"
	"context"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Server serves what a policy.Store has as rego.v1.PolicyDiscoveryService. Register it
// with regov1.RegisterPolicyDiscoveryServiceServer on a grpc.Server that has
// [ServerOptions], and credentials: whoever may connect learns the policies, and with
// ListClients who else is connected.
//
// Each client has a goroutine of its own, which waits for a change of the store and
// then sends the newest set. So a client that is slow misses what came between, and
// holds up nobody.
type Server struct {
	regov1.UnimplementedPolicyDiscoveryServiceServer
	store  *policy.Store
	stores map[string]*policy.Store // by service, instead of store

	mu      sync.Mutex
	clients map[*client]struct{}
	wire    map[*policy.Store]wire // of what was sent last, since many clients get the same
}

type wire struct {
	table *policy.Table
	set   *regov1.Set
}

// NewServer returns a server of what st has. Sets are sent from when a source of st has
// spoken, or NewStore was given one that is not empty: a server that has lost its own
// source must not take away what its clients have. stores are served to the clients of
// the services they are named by, instead of st; nil means none.
func NewServer(st *policy.Store, stores map[string]*policy.Store) *Server {
	return &Server{store: st, stores: maps.Clone(stores), clients: make(map[*client]struct{}), wire: make(map[*policy.Store]wire)}
}

// ServerOptions returns what the grpc.Server needs: it allows the clients' keepalive,
// and ends connections whose clients do not answer within 45 s.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 15 * time.Second}),
	}
}

// client is a stream with what is known of who is at its other end.
type client struct {
	node      *regov1.Node
	peer      string
	connected time.Time

	// Guarded by the server's mu.
	version  string // that it has in force
	revision uint64
	refusal  *regov1.Refusal
	refused  bool      // its last answer was a refusal
	sent     sent      // what was sent last
	waiting  bool      // for the answer to that
	since    time.Time // it has been waiting
}

type sent struct {
	nonce    string
	version  string
	revision uint64
}

// helloTimeout is how long a client may take to say who it is.
const helloTimeout = 10 * time.Second

// StreamPolicies serves one client until its stream ends.
func (s *Server) StreamPolicies(stream regov1.PolicyDiscoveryService_StreamPoliciesServer) error {
	// The reader ends when the stream does, which is at the latest when this function
	// has returned.
	answers := make(chan *regov1.StreamPoliciesRequest)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case answers <- r:
			case <-stream.Context().Done():
			}
		}
	}()
	hello := time.NewTimer(helloTimeout)
	defer hello.Stop()
	select {
	case r := <-answers:
		c, err := newClient(stream.Context(), r)
		if err != nil {
			return err
		}
		s.add(c)
		defer s.remove(c)
		return s.serve(stream, c, answers, ended)
	case <-ended:
		return nil
	case <-hello.C:
		return status.Errorf(codes.DeadlineExceeded, "no request within %v", helloTimeout)
	}
}

func (s *Server) serve(stream regov1.PolicyDiscoveryService_StreamPoliciesServer, c *client, answers <-chan *regov1.StreamPoliciesRequest, ended <-chan struct{}) error {
	st := s.store
	if own, ok := s.stores[c.node.GetService()]; ok {
		st = own
	}
	var last *policy.Table
	for n := 1; ; {
		changed := st.Changed()
		if t := st.Current(); t != last && mayBeSent(st, t) {
			last = t
			r := &regov1.StreamPoliciesResponse{Set: s.wireOf(st, t), Nonce: strconv.Itoa(n)}
			n++
			s.sending(c, r)
			if err := stream.Send(r); err != nil {
				return err
			}
			continue // it may have changed meanwhile
		}
		select {
		case <-changed:
		case r := <-answers:
			s.answered(c, r)
		case <-ended:
			return nil
		}
	}
}

// mayBeSent reports whether what st has is meant to be served.
func mayBeSent(st *policy.Store, t *policy.Table) bool {
	return st.Status().Source != "" || !reflect.DeepEqual(t.Set(), policy.Set{})
}

// Limits of what clients say of themselves.
const (
	maxLabels = 64
	maxWord   = 256
)

func newClient(ctx context.Context, r *regov1.StreamPoliciesRequest) (*client, error) {
	node := r.GetNode()
	words := append(slices.Collect(maps.Values(node.GetLabels())), node.GetService(), node.GetInstance())
	words = append(words, slices.Collect(maps.Keys(node.GetLabels()))...)
	switch {
	case node.GetService() == "":
		return nil, status.Error(codes.InvalidArgument, "the first request must have a node with a service")
	case len(node.GetLabels()) > maxLabels:
		return nil, status.Errorf(codes.InvalidArgument, "a node may have %d labels, got %d", maxLabels, len(node.GetLabels()))
	case slices.ContainsFunc(words, func(w string) bool { return len(w) > maxWord }):
		return nil, status.Errorf(codes.InvalidArgument, "a word of a node may have %d bytes", maxWord)
	}
	c := &client{node: node, connected: time.Now(), version: r.GetVersion(), revision: r.GetRevision()}
	if p, ok := peer.FromContext(ctx); ok {
		c.peer = p.Addr.String()
	}
	return c, nil
}

func (s *Server) add(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[c] = struct{}{}
}

func (s *Server) remove(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
}

func (s *Server) wireOf(st *policy.Store, t *policy.Table) *regov1.Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wire[st].table != t {
		s.wire[st] = wire{t, t.Set().Proto()}
	}
	return s.wire[st].set
}

func (s *Server) sending(c *client, r *regov1.StreamPoliciesResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.sent = sent{r.GetNonce(), r.GetSet().GetVersion(), r.GetSet().GetRevision()}
	if !c.waiting {
		c.waiting, c.since = true, time.Now()
	}
}

// answered notes what a client says of a response. An answer to an earlier one than the
// last tells what is in force, and no more.
func (s *Server) answered(c *client, r *regov1.StreamPoliciesRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.version, c.revision = r.GetVersion(), r.GetRevision()
	if r.GetNonce() != c.sent.nonce {
		return
	}
	c.waiting = false
	if c.refused = len(r.GetFaults()) > 0; c.refused {
		c.refusal = &regov1.Refusal{
			Version: c.sent.version, Revision: c.sent.revision,
			Time: timestamppb.Now(), Faults: r.GetFaults()[:min(len(r.GetFaults()), maxFaults+1)],
		}
	}
}

// ListClients lists the clients that are connected, by service and instance.
func (s *Server) ListClients(_ context.Context, r *regov1.ListClientsRequest) (*regov1.ListClientsResponse, error) {
	list := &regov1.ListClientsResponse{}
	s.mu.Lock()
	for c := range s.clients {
		if r.GetService() == "" || r.GetService() == c.node.GetService() {
			list.Clients = append(list.Clients, c.describe(time.Now()))
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list.Clients, func(a, b *regov1.Client) int {
		return cmp.Or(
			strings.Compare(a.GetNode().GetService(), b.GetNode().GetService()),
			strings.Compare(a.GetNode().GetInstance(), b.GetNode().GetInstance()),
			strings.Compare(a.GetPeer(), b.GetPeer()),
		)
	})
	return list, nil
}

func (c *client) describe(now time.Time) *regov1.Client {
	m := &regov1.Client{
		Node: c.node, Peer: c.peer, Connected: timestamppb.New(c.connected),
		Version: c.version, Revision: c.revision, Refusal: c.refusal,
	}
	switch {
	case c.waiting:
		m.State = regov1.ClientState_CLIENT_STATE_PENDING
		m.Pending = durationpb.New(now.Sub(c.since))
	case c.sent.nonce == "":
		m.State = regov1.ClientState_CLIENT_STATE_UNSPECIFIED
	case c.refused:
		m.State = regov1.ClientState_CLIENT_STATE_REFUSED
	default:
		m.State = regov1.ClientState_CLIENT_STATE_CURRENT
	}
	return m
}
