package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/repository"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// exchange tells the other replicas, through the storage that they share, who is connected here
// and what their calls do, and hears it of them. What a replica has told is gone when it has not
// been heard of for leaseFor.
type exchange struct {
	server  *Server
	name    string
	replica string // the part of keys that is this one's: no other process has it
	storage repository.Storage
	log     *slog.Logger

	mu      sync.Mutex
	clients map[string][]*remote // by key
	traffic map[string]*regov1.StoredTraffic
	states  map[string]*regov1.ReplicaState
}

// remote is a client that is connected to another replica.
type remote struct {
	id   uint64
	key  string    // of the entry that tells of it
	told time.Time // when that was heard
	said *regov1.Client
}

// Keys of what replicas tell each other. All entries have the lease of their replica.
const (
	members        = "members/"
	membersClients = members + "clients/"
	membersTraffic = members + "traffic/"
	membersStates  = members + "states/"
)

// errLeaseEnded is why others have to be told of everything again.
var errLeaseEnded = errors.New("the lease has ended")

const (
	leaseFor = 10 * time.Second
	// tellEvery is how often a replica tells of what has changed.
	tellEvery = 2 * time.Second
	// trafficRoom is for the traffic that it tells of, in bytes.
	trafficRoom = 256 << 10
	// commitRoom is for what is committed at once, in bytes; etcd takes 1.5 MiB.
	commitRoom = 1 << 20
	// commitMost is how many changes it may be; etcd takes 128.
	commitMost = 100
)

func newExchange(s *Server, name string, storage repository.Storage, log *slog.Logger) *exchange {
	return &exchange{
		server: s, name: name, replica: fmt.Sprintf("%s@%x", url.PathEscape(name), rand.Uint64()), storage: storage, log: log,
		clients: make(map[string][]*remote), traffic: make(map[string]*regov1.StoredTraffic), states: make(map[string]*regov1.ReplicaState),
	}
}

// run tells and hears until ctx is done.
func (x *exchange) run(ctx context.Context) {
	var hearing sync.WaitGroup
	defer hearing.Wait()
	hearing.Go(func() {
		for u := range x.storage.Watch(ctx, members) {
			x.hear(u)
		}
	})
	said := false
	for tries := 0; ctx.Err() == nil; tries++ {
		lease, err := x.storage.Lease(ctx, leaseFor)
		if err == nil {
			tries, said = 0, false
			err = x.tell(ctx, lease)
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			_ = lease.Close(end) // else it ends by itself
			cancel()
		}
		if ctx.Err() != nil {
			return
		}
		if !said {
			x.log.Warn("rego: other replicas cannot be told of the clients here", "error", err)
			said = true
		}
		again := time.NewTimer(outreach.Delay(tries, nil))
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
		}
	}
}

// outreach is the wait before other replicas are told again.
var outreach = policy.Backoff{Initial: time.Second, Multiplier: 2, Max: 10 * time.Second, Jitter: policy.JitterEqual}

// tell tells of all that there is, and then of what changes, until the lease has ended.
func (x *exchange) tell(ctx context.Context, lease repository.Lease) error {
	x.server.allChanged()
	told := false // of traffic
	for {
		var changes []repository.Change
		put := func(key string, m proto.Message) {
			b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(m) // its texts are from messages, and so UTF-8
			changes = append(changes, repository.Change{Key: key, Value: b, Lease: lease})
		}
		for _, ch := range x.server.changedChunks() {
			key := fmt.Sprintf("%s%s/%d", membersClients, x.replica, ch.number)
			if len(ch.clients.GetClients()) == 0 {
				changes = append(changes, repository.Change{Key: key, Delete: true})
				continue
			}
			put(key, ch.clients)
		}
		t := &regov1.StoredTraffic{
			Traffic: x.server.trafficOf("", trafficRoom, false, false), Recent: x.server.trafficOf("", trafficRoom, true, false),
		}
		if busy := len(t.GetTraffic().GetTraffic()) > 0; busy || told {
			put(membersTraffic+x.replica, t)
			told = busy
		}
		put(membersStates+x.replica, x.state())
		for len(changes) > 0 {
			n := fitting(changes)
			if _, err := x.storage.Commit(ctx, nil, changes[:n]); err != nil {
				return err
			}
			changes = changes[n:]
		}
		wait := time.NewTimer(spread(tellEvery))
		select {
		case <-wait.C:
		case <-lease.Done():
			wait.Stop()
			return errLeaseEnded
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
}

// fitting returns how many of the changes can be committed at once, at least one.
func fitting(changes []repository.Change) int {
	size := 0
	for i, c := range changes {
		if size += len(c.Key) + len(c.Value); i > 0 && (size > commitRoom || i == commitMost) {
			return i
		}
	}
	return len(changes)
}

// hear takes what others tell.
func (x *exchange) hear(u repository.Update) {
	if u.Lost != nil {
		return // what they told is the last that is known
	}
	x.mu.Lock()
	var left, came []*remote
	if u.Reset {
		for key, list := range x.clients {
			left = append(left, list...)
			delete(x.clients, key)
		}
		clear(x.traffic)
		clear(x.states)
	}
	for _, key := range u.Deleted {
		left = append(left, x.clients[key]...)
		delete(x.clients, key)
		delete(x.traffic, key)
		delete(x.states, key)
	}
	for _, e := range u.Put {
		kind, rest, _ := strings.Cut(strings.TrimPrefix(e.Key, members), "/")
		replica, _, _ := strings.Cut(rest, "/")
		if replica == x.replica {
			continue // that is what was told from here
		}
		switch members + kind + "/" {
		case membersClients:
			list := clientsOf(e, time.Now())
			left = append(left, without(x.clients[e.Key], list)...)
			came = append(came, without(list, x.clients[e.Key])...)
			x.clients[e.Key] = list
		case membersTraffic:
			m := new(regov1.StoredTraffic)
			if proto.Unmarshal(e.Value, m) == nil {
				x.traffic[e.Key] = m
			}
		case membersStates:
			m := new(regov1.ReplicaState)
			if proto.Unmarshal(e.Value, m) == nil {
				x.states[e.Key] = m
			}
		}
	}
	connected := make(map[name]bool)
	if len(left) > 0 {
		for _, list := range x.clients {
			for _, c := range list {
				connected[nameOf(c.said)] = true
			}
		}
	}
	x.mu.Unlock()
	x.server.othersMoved(left, came, connected)
}

func clientsOf(e repository.Entry, now time.Time) []*remote {
	m := new(regov1.StoredClients)
	if proto.Unmarshal(e.Value, m) != nil {
		return nil
	}
	list := make([]*remote, 0, len(m.GetClients()))
	for _, c := range m.GetClients() {
		list = append(list, &remote{c.GetId(), e.Key, now, c.GetClient()})
	}
	return list
}

// without returns those of a list that are not in another one.
func without(list, others []*remote) (rest []*remote) {
	ids := make(map[uint64]struct{}, len(others))
	for _, c := range others {
		ids[c.id] = struct{}{}
	}
	for _, c := range list {
		if _, there := ids[c.id]; !there {
			rest = append(rest, c)
		}
	}
	return rest
}

// nameOf is what a client is known by.
func nameOf(c *regov1.Client) name {
	return name{c.GetNode().GetService(), c.GetNode().GetInstance()}
}

// othersMoved notes which clients are not at another replica any more, and which are.
func (s *Server) othersMoved(left, came []*remote, connected map[name]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, c := range left {
		n := nameOf(c.said)
		if s.names[n] == 0 && !connected[n] {
			s.gone.remember(n, proto.CloneOf(c.said), now) // others may be reading it
		}
	}
	for _, c := range came {
		s.gone.back(nameOf(c.said))
	}
}

// trafficOfOthers returns what other replicas have heard of.
func (x *exchange) trafficOfOthers() []*regov1.StoredTraffic {
	x.mu.Lock()
	defer x.mu.Unlock()
	list := make([]*regov1.StoredTraffic, 0, len(x.traffic))
	for _, t := range x.traffic {
		list = append(list, t)
	}
	return list
}

// clientsOfOthers calls each for every client of another replica.
func (x *exchange) clientsOfOthers(each func(*remote)) {
	if x == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, list := range x.clients {
		for _, c := range list {
			each(c)
		}
	}
}

// replicas returns the states of all replicas, by name.
func (x *exchange) replicas() []*regov1.ReplicaState {
	list := []*regov1.ReplicaState{x.state()}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.states {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *regov1.ReplicaState) int {
		return cmp.Or(strings.Compare(a.GetName(), b.GetName()), a.GetStarted().AsTime().Compare(b.GetStarted().AsTime()))
	})
	return list
}

// state returns what others are told of this replica.
func (x *exchange) state() *regov1.ReplicaState {
	s := x.server
	s.mu.Lock()
	defer s.mu.Unlock()
	return &regov1.ReplicaState{Name: x.name, Started: timestamppb.New(s.began), Told: timestamppb.Now(), Clients: uint64(len(s.clients))}
}
