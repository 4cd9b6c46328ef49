package spread

import (
	"math/rand/v2"
	"sync/atomic"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"

	"github.com/rego-go/rego/internal/backends"
)

type roundRobinBuilder struct{}

func (roundRobinBuilder) Name() string { return RoundRobin }

func (roundRobinBuilder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	backends.Expect()
	b := &roundRobin{ClientConn: cc, target: targetOf(cc)}
	b.Balancer = endpointsharding.NewBalancer(b, opts, balancer.Get(pickfirst.Name).Build, endpointsharding.Options{})
	return b
}

// targetOf returns the target that calls of the channel have in their records.
func targetOf(cc balancer.ClientConn) string {
	return cc.Target() // that of BuildOptions is written in another way than grpc.ClientConn has it
}

// roundRobin has a pick_first for each endpoint, as round_robin has, and its own picker
// above those that are ready.
type roundRobin struct {
	balancer.Balancer   // which has the children
	balancer.ClientConn // of the parent
	target              string
}

// UpdateClientConnState has the children listen to health checks and to outlier detection.
func (b *roundRobin) UpdateClientConnState(s balancer.ClientConnState) error {
	return b.Balancer.UpdateClientConnState(balancer.ClientConnState{ResolverState: pickfirst.EnableHealthListener(s.ResolverState)})
}

// UpdateState is what the children tell. While none is ready there is nothing to choose.
func (b *roundRobin) UpdateState(s balancer.State) {
	if s.ConnectivityState == connectivity.Ready {
		t := &turns{target: b.target}
		for _, c := range endpointsharding.ChildStatesFromPicker(s.Picker) {
			if c.State.ConnectivityState == connectivity.Ready {
				t.ready = append(t.ready, member{c.State.Picker, identify(c.Endpoint.Addresses)})
			}
		}
		t.next.Store(rand.Uint32())
		s.Picker = t
	}
	b.ClientConn.UpdateState(s)
}

// turns is the picker of rego_round_robin.
type turns struct {
	target string
	ready  []member // one at least

	next atomic.Uint32
}

type member struct {
	picker  balancer.Picker
	backend string
}

// Pick implements [balancer.Picker].
func (t *turns) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	turn := t.next.Add(1)
	a := backends.From(info.Ctx, t.target)
	if a == nil {
		return t.ready[turn%uint32(len(t.ready))].picker.Pick(info)
	}
	r, err := t.choose(a, turn).picker.Pick(info)
	if err != nil {
		a.Forget()
	}
	return r, err
}

// choose returns the backend whose turn it is or, if the call has used that, one that it has
// not. Which of the others comes first changes with every round, so that the neighbour of a
// bad backend does not get all of its calls.
func (t *turns) choose(a *backends.Attempt, turn uint32) *member {
	n := uint32(len(t.ready))
	at := turn % n
	if a.Take(t.ready[at].backend) {
		return &t.ready[at]
	}
	for i := range n - 1 {
		other := &t.ready[(at+1+(turn/n+i)%(n-1))%n]
		if a.Take(other.backend) {
			return other
		}
	}
	a.TakeAgain(t.ready[at].backend)
	return &t.ready[at]
}
