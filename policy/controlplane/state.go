package controlplane

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// SummarizeClients counts the clients that are connected.
func (f *fleet) SummarizeClients(ctx context.Context, r *regov1.SummarizeClientsRequest) (*regov1.SummarizeClientsResponse, error) {
	if err := f.may(ctx, regov1.FleetService_SummarizeClients_FullMethodName); err != nil {
		return nil, err
	}
	counts, all := f.server.count(r.GetService(), r.GetHere())
	kinds := slices.SortedFunc(maps.Keys(counts), func(a, b kind) int {
		return cmp.Or(
			strings.Compare(a.service, b.service),
			cmp.Compare(a.state, b.state),
			strings.Compare(a.version, b.version),
			cmp.Compare(a.epoch, b.epoch),
			cmp.Compare(a.revision, b.revision),
		)
	})
	sum := &regov1.SummarizeClientsResponse{Clients: all}
	size := 0
	for _, k := range kinds {
		m := &regov1.ClientCount{Service: k.service, State: k.state, Version: k.version, Epoch: k.epoch, Revision: k.revision, Clients: counts[k].clients, Warned: counts[k].warned}
		if size += proto.Size(m) + 8; size > maxResponse {
			sum.LeftOut += counts[k].clients
			continue
		}
		sum.Counts = append(sum.Counts, m)
	}
	return sum, nil
}

// kind is what clients have in common that are counted together.
type kind struct {
	service string
	state   regov1.ClientState
	edition
}

// alike is how many clients are of one kind.
type alike struct{ clients, warned uint64 }

func (s *Server) count(service string, here bool) (counts map[kind]alike, all uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts = make(map[kind]alike)
	for c := range s.clients {
		if service == "" || service == c.node.GetService() {
			k := kind{c.node.GetService(), c.state(), c.edition}
			n := counts[k]
			n.clients++
			if len(c.warnings) > 0 {
				n.warned++
			}
			counts[k] = n
			all++
		}
	}
	if here {
		return counts, all
	}
	s.exchange.clientsOfOthers(func(r *remote) {
		c := r.said
		if service != "" && service != c.GetNode().GetService() {
			return
		}
		k := kind{c.GetNode().GetService(), c.GetState(), edition{c.GetVersion(), c.GetEpoch(), c.GetRevision()}}
		n := counts[k]
		n.clients++
		if len(c.GetWarnings()) > 0 {
			n.warned++
		}
		counts[k] = n
		all++
	})
	return counts, all
}

// GetServerState tells what the server itself has.
func (f *fleet) GetServerState(ctx context.Context, _ *regov1.GetServerStateRequest) (*regov1.GetServerStateResponse, error) {
	if err := f.may(ctx, regov1.FleetService_GetServerState_FullMethodName); err != nil {
		return nil, err
	}
	s := f.server
	now := time.Now()
	clients := s.countByStore()
	stores := s.stores()
	state := &regov1.GetServerStateResponse{Started: timestamppb.New(s.began)}
	room := maxResponse / (len(stores) + 1)                    // for the words of each store
	for _, service := range slices.Sorted(maps.Keys(stores)) { // "" is the first
		state.Stores = append(state.Stores, stateOf(service, stores[service].Status(), clients[service], now, room))
	}
	for _, n := range clients {
		state.Clients += n
	}
	if s.exchange != nil {
		state.Replicas = s.exchange.replicas()
	}
	return state, nil
}

// stores returns what is in force, by service.
func (s *Server) stores() map[string]*policy.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]*policy.Store, len(s.scopes))
	for service, of := range s.scopes {
		all[service] = of.main.store
	}
	return all
}

// countByStore returns how many clients are connected, by service if that has a store of its
// own, and the others under the empty name.
func (s *Server) countByStore() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := make(map[string]uint64)
	for c := range s.clients {
		n[s.ownerLocked(c.node.GetService())]++
	}
	s.exchange.clientsOfOthers(func(r *remote) { n[s.ownerLocked(r.said.GetNode().GetService())]++ })
	return n
}

var standings = map[policy.State]regov1.Standing{
	policy.StateInitial: regov1.Standing_STANDING_INITIAL,
	policy.StateCurrent: regov1.Standing_STANDING_CURRENT,
	policy.StateStale:   regov1.Standing_STANDING_STALE,
	policy.StateRefused: regov1.Standing_STANDING_REFUSED,
}

func stateOf(service string, st policy.Status, clients uint64, now time.Time, room int) *regov1.StoreState {
	m := &regov1.StoreState{
		Service: service, Version: st.Version, Epoch: st.Epoch, Revision: st.Revision, Standing: standings[st.State()],
		Source: st.Source, Accepted: timeOf(st.Accepted), Confirmed: timeOf(st.Confirmed),
		Refusals: st.Refusals, Clients: clients, Lost: textOf(st.Lost), SnapshotError: textOf(st.SnapshotErr),
	}
	if age := st.Age(now); age > 0 {
		m.Age = durationpb.New(age)
	}
	if r := st.Refusal; r != nil {
		m.Refusal = &regov1.Refusal{
			Version: short(r.Version), Epoch: r.Epoch, Revision: r.Revision, Time: timeOf(r.Time),
			Faults: bounded(faultsOf(r.Err), min(keptFaults, room/2)),
		}
	}
	return m
}

func timeOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return short(err.Error())
}
