package controlplane

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// fleet is a Server as operators see it.
type fleet struct {
	regov1.UnimplementedFleetServiceServer
	server *Server
}

// Fleet returns the service that tells operators about the clients of s, and about s itself.
// Register it with regov1.RegisterFleetServiceServer: on the grpc.Server that has s, on
// another one that only operators can reach, or not at all. [AuthorizeFleet] says who may
// ask.
func (s *Server) Fleet() regov1.FleetServiceServer { return &fleet{server: s} }

func (f *fleet) may(ctx context.Context, method string) error {
	allow := f.server.config.authorizeFleet
	if allow == nil {
		return nil
	}
	if err := allow(ctx); err != nil {
		return f.server.config.deny(ctx, method, nil, err)
	}
	return nil
}

// Bounds of responses, which have to stay below the 4 MiB that gRPC takes by default.
const (
	maxPage      = 1000
	maxPageToken = 8 << 10
	maxResponse  = 3 << 20
)

// place is where a client stands in the list. No two have the same. Told is the entry that tells
// of a client of another replica.
type place struct {
	Service, Instance, Peer, Told string
	ID                            uint64
}

func (p place) compare(q place) int {
	return cmp.Or(
		strings.Compare(p.Service, q.Service),
		strings.Compare(p.Instance, q.Instance),
		strings.Compare(p.Peer, q.Peer),
		strings.Compare(p.Told, q.Told),
		cmp.Compare(p.ID, q.ID),
	)
}

// listed is a client that is connected, one that is connected to another replica, or one that has
// gone.
type listed struct {
	place
	connected *client
	remote    *remote
	gone      *goneClient
}

// ListClients lists clients by service, instance and peer. A page begins after the place
// where the one before ended, whether or not the client that stood there still does.
func (f *fleet) ListClients(ctx context.Context, r *regov1.ListClientsRequest) (*regov1.ListClientsResponse, error) {
	if err := f.may(ctx, regov1.FleetService_ListClients_FullMethodName); err != nil {
		return nil, err
	}
	after, err := placeOf(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	if r.GetPageSize() < 0 {
		return nil, status.Error(codes.InvalidArgument, "page_size must not be negative")
	}
	most := int(r.GetPageSize())
	if most == 0 || most > maxPage {
		most = maxPage
	}
	now := time.Now()
	found := f.server.find(r.GetService(), after, r.GetDisconnected(), now)
	slices.SortFunc(found, func(a, b listed) int { return a.compare(b.place) })
	page := &regov1.ListClientsResponse{}
	size := 0
	for i, l := range found {
		m := f.server.describe(l, now)
		size += proto.Size(m) + 8
		if i == most || i > 0 && size > maxResponse {
			page.NextPageToken = found[i-1].token()
			break
		}
		page.Clients = append(page.Clients, m)
	}
	return page, nil
}

// find returns the clients of a service, or of all if it is empty, that stand after a place.
func (s *Server) find(service string, after place, disconnected bool, now time.Time) []listed {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []listed
	add := func(l listed) {
		if (service == "" || service == l.Service) && l.compare(after) > 0 {
			found = append(found, l)
		}
	}
	for c := range s.clients {
		add(listed{place: place{c.node.GetService(), c.node.GetInstance(), c.peer, "", c.id}, connected: c})
	}
	elsewhere := make(map[name]bool)
	s.exchange.clientsOfOthers(func(c *remote) {
		elsewhere[nameOf(c.said)] = true
		add(listed{place: place{c.said.GetNode().GetService(), c.said.GetNode().GetInstance(), c.said.GetPeer(), c.key, c.id}, remote: c})
	})
	s.gone.forget(now)
	if disconnected {
		for e := s.gone.order.Front(); e != nil; e = e.Next() {
			c := e.Value.(*goneClient)
			if elsewhere[c.name] {
				continue // it has moved
			}
			add(listed{place: place{c.name.service, c.name.instance, c.said.GetPeer(), "gone", c.id}, gone: c})
		}
	}
	return found
}

func (s *Server) describe(l listed, now time.Time) *regov1.Client {
	switch {
	case l.gone != nil:
		return l.gone.said
	case l.remote != nil:
		return l.remote.describe(now)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.connected.describe(now)
}

func (c *client) describe(now time.Time) *regov1.Client {
	m := &regov1.Client{
		Node: c.node, Peer: c.peer, Connected: timestamppb.New(c.connected),
		Version: c.version, Epoch: c.epoch, Revision: c.revision, Warnings: c.warnings, Refusal: c.refusal, State: c.state(),
	}
	m.Replica, m.Canary = c.replica, c.canary
	if c.waiting {
		m.Pending = durationpb.New(now.Sub(c.since))
	}
	return m
}

// describe returns what the other replica told, and for how long the client has owed an answer now.
func (r *remote) describe(now time.Time) *regov1.Client {
	if r.said.GetPending() == nil {
		return r.said
	}
	m := proto.CloneOf(r.said)
	m.Pending = durationpb.New(m.GetPending().AsDuration() + now.Sub(r.told))
	return m
}

func (c *client) state() regov1.ClientState {
	switch {
	case c.waiting:
		return regov1.ClientState_CLIENT_STATE_PENDING
	case c.sent.number == 0:
		return regov1.ClientState_CLIENT_STATE_UNSPECIFIED
	case c.refused:
		return regov1.ClientState_CLIENT_STATE_REFUSED
	}
	return regov1.ClientState_CLIENT_STATE_CURRENT
}

// token returns p in a form that nobody is meant to read.
func (p place) token() string {
	b, _ := json.Marshal(p) // strings and a number
	return base64.RawURLEncoding.EncodeToString(b)
}

func placeOf(token string) (p place, err error) {
	if token == "" {
		return p, nil
	}
	var b []byte
	if len(token) <= maxPageToken {
		b, err = base64.RawURLEncoding.DecodeString(token)
	}
	if err != nil || json.Unmarshal(b, &p) != nil {
		return place{}, status.Error(codes.InvalidArgument, "page_token is none of this server")
	}
	return p, nil
}
