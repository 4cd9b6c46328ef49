package spread

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
)

// parentConn is the ClientConn that rego_spread sees.
type parentConn struct {
	balancer.ClientConn

	mu       sync.Mutex
	states   []balancer.State
	conns    []*parentSubConn
	resolved int
}

func (p *parentConn) Target() string { return benchTarget }

func (p *parentConn) ResolveNow(resolver.ResolveNowOptions) { p.resolved++ }

func (p *parentConn) UpdateState(s balancer.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.states = append(p.states, s)
}

func (p *parentConn) NewSubConn(addrs []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	sc := &parentSubConn{addrs: addrs, tell: opts.StateListener}
	p.conns = append(p.conns, sc)
	return sc, nil
}

// last is the state that the channel is in.
func (p *parentConn) last() (connectivity.State, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.states[len(p.states)-1]
	_, err := s.Picker.Pick(balancer.PickInfo{})
	return s.ConnectivityState, err
}

type parentSubConn struct {
	balancer.SubConn
	addrs []resolver.Address
	tell  func(balancer.SubConnState)
	shut  bool
}

func (p *parentSubConn) Shutdown() { p.shut = true }

func (p *parentSubConn) UpdateAddresses(addrs []resolver.Address) { p.addrs = addrs }

// puppet is a child policy that does what the test says.
type puppet struct {
	cc       balancer.ClientConn
	name     string
	updates  []balancer.ClientConnState
	told     []connectivity.State
	errs     []error
	exitIdle int
	closed   bool
}

func (p *puppet) UpdateClientConnState(s balancer.ClientConnState) error {
	p.updates = append(p.updates, s)
	return nil
}

func (p *puppet) ResolverError(err error) { p.errs = append(p.errs, err) }

func (p *puppet) UpdateSubConnState(_ balancer.SubConn, s balancer.SubConnState) {
	p.told = append(p.told, s.ConnectivityState)
}

func (p *puppet) Close()    { p.closed = true }
func (p *puppet) ExitIdle() { p.exitIdle++ }

// is reports a state, with a picker that fails with the puppet's name.
func (p *puppet) is(s connectivity.State) {
	p.cc.UpdateState(balancer.State{ConnectivityState: s, Picker: base.NewErrPicker(errors.New(p.name))})
}

// stage is a rego_spread whose children are puppets.
type stage struct {
	*testing.T
	parent *parentConn
	b      balancer.Balancer
	made   []*puppet
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{T: t, parent: new(parentConn)}
	s.b = balancer.Get(Name).Build(s.parent, balancer.BuildOptions{})
	return s
}

type puppeteer struct {
	*stage
	name string
}

func (b puppeteer) Name() string { return b.name }

func (b puppeteer) Build(cc balancer.ClientConn, _ balancer.BuildOptions) balancer.Balancer {
	p := &puppet{cc: cc, name: b.name}
	b.made = append(b.made, p)
	return p
}

// configure has the service config name a child, and returns that.
func (s *stage) configure(name string, endpoints ...resolver.Endpoint) *puppet {
	s.Helper()
	require.NoError(s, s.b.UpdateClientConnState(balancer.ClientConnState{
		ResolverState:  resolver.State{Endpoints: endpoints},
		BalancerConfig: &config{child: puppeteer{s, name}, childConfig: named(name)},
	}))
	p := s.made[len(s.made)-1]
	assert.Equal(s, named(name), p.updates[len(p.updates)-1].BalancerConfig)
	return p
}

type namedConfig struct {
	serviceconfig.LoadBalancingConfig
	name string
}

func named(name string) serviceconfig.LoadBalancingConfig { return namedConfig{name: name} }

func (s *stage) channelIs(state connectivity.State, picker string) {
	s.Helper()
	got, err := s.parent.last()
	assert.Equal(s, state, got)
	assert.EqualError(s, err, picker)
}

func endpoint(addrs ...string) (e resolver.Endpoint) {
	for _, a := range addrs {
		e.Addresses = append(e.Addresses, resolver.Address{Addr: a})
	}
	return e
}

// TestChildTakesOver: another child policy gets the channel once it has a connection, and
// the one before is closed with all of its SubConns.
func TestChildTakesOver(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	a := s.configure("a", endpoint("1"))
	_, err := a.cc.NewSubConn([]resolver.Address{{Addr: "1"}}, balancer.NewSubConnOptions{})
	require.NoError(t, err)
	a.is(connectivity.Connecting)
	s.channelIs(connectivity.Connecting, "a")
	a.is(connectivity.Ready)
	s.channelIs(connectivity.Ready, "a")
	assert.Same(t, a, s.configure("a", endpoint("1")), "the same policy is the same child")

	b := s.configure("b", endpoint("1"))
	assert.Len(t, a.updates, 2, "what is resolved is for the new one")
	b.is(connectivity.Connecting)
	s.channelIs(connectivity.Ready, "a")
	a.is(connectivity.Ready)
	s.channelIs(connectivity.Ready, "a")
	s.parent.conns[0].tell(balancer.SubConnState{ConnectivityState: connectivity.Connecting})
	assert.Equal(t, []connectivity.State{connectivity.Connecting}, a.told, "it still serves")
	a.cc.ResolveNow(resolver.ResolveNowOptions{})
	assert.Zero(t, s.parent.resolved)
	b.cc.ResolveNow(resolver.ResolveNowOptions{})
	assert.Equal(t, 1, s.parent.resolved)
	s.b.ExitIdle()
	s.b.ResolverError(errNothing)
	assert.Equal(t, 1, b.exitIdle)
	assert.Equal(t, []error{errNothing}, b.errs)

	b.is(connectivity.Ready)
	s.channelIs(connectivity.Ready, "b")
	s.b.(*spreader).ending.Wait()
	assert.True(t, a.closed)
	assert.True(t, s.parent.conns[0].shut, "though the child has not seen to it")
	a.is(connectivity.TransientFailure)
	s.channelIs(connectivity.Ready, "b")
	s.parent.conns[0].tell(balancer.SubConnState{ConnectivityState: connectivity.Shutdown})
	assert.Len(t, a.told, 1, "what is closed is told nothing")
	_, err = a.cc.NewSubConn([]resolver.Address{{Addr: "1"}}, balancer.NewSubConnOptions{})
	require.EqualError(t, err, "rego_spread: a is closed")
	assert.True(t, s.parent.conns[1].shut)
}

// TestChildThatHasToldNothing: calls wait for what it will tell, if it has to take over.
func TestChildThatHasToldNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	a := s.configure("a", endpoint("1"))
	a.is(connectivity.Ready)
	s.configure("b", endpoint("1"))
	a.is(connectivity.TransientFailure)
	state, err := s.parent.last()
	assert.Equal(t, connectivity.Connecting, state)
	assert.ErrorIs(t, err, balancer.ErrNoSubConnAvailable)
}

// TestChildTakesOverAtOnce: nothing is lost if the child before has no connection.
func TestChildTakesOverAtOnce(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	a := s.configure("a", endpoint("1"))
	a.is(connectivity.TransientFailure)
	b := s.configure("b", endpoint("1"))
	b.is(connectivity.Connecting)
	s.channelIs(connectivity.Connecting, "b")
	b.is(connectivity.Ready)

	c := s.configure("c", endpoint("1"))
	c.is(connectivity.Connecting)
	s.channelIs(connectivity.Ready, "b")
	b.is(connectivity.TransientFailure)
	s.channelIs(connectivity.Connecting, "c")
	s.b.Close()
	assert.True(t, a.closed && b.closed && c.closed)
}

// TestChildIsReplacedBeforeItServed by a third one, and by the first again.
func TestChildIsReplacedBeforeItServed(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	a := s.configure("a", endpoint("1"))
	a.is(connectivity.Ready)
	b := s.configure("b", endpoint("1"))
	c := s.configure("c", endpoint("1"))
	assert.True(t, b.closed)
	b.is(connectivity.Ready)
	s.channelIs(connectivity.Ready, "a")
	s.b.Close()
	assert.True(t, a.closed && c.closed)
	n := len(s.parent.states)
	c.is(connectivity.Ready)
	assert.Len(t, s.parent.states, n)
}

func TestResolverErrorAtFirst(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.b.ExitIdle()
	s.b.ResolverError(errNothing)
	s.channelIs(connectivity.TransientFailure, errNothing.Error())
	require.ErrorIs(t, s.b.UpdateClientConnState(balancer.ClientConnState{}), balancer.ErrBadResolverState)
	s.b.Close()
}

// TestIdentity: what a SubConn's backend is. It stays when the SubConn is replaced.
func TestIdentity(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	a := s.configure("a", endpoint("10.0.0.1:1", "[fd00::1]:1"), endpoint("10.0.0.2:1"), endpoint("10.0.0.2:1", "10.0.0.3:1"))
	assert.Len(t, *s.b.(*spreader).known.Load(), 3)
	backendOf := func(addrs ...string) string {
		sc, err := a.cc.NewSubConn(endpoint(addrs...).Addresses, balancer.NewSubConnOptions{})
		require.NoError(t, err)
		assert.Equal(t, endpoint(addrs...).Addresses, s.parent.conns[len(s.parent.conns)-1].addrs)
		return sc.(*subConn).backend
	}
	for range 2 {
		assert.Equal(t, "10.0.0.1:1,[fd00::1]:1", backendOf("10.0.0.1:1"))
		assert.Equal(t, "10.0.0.1:1,[fd00::1]:1", backendOf("[fd00::1]:1"), "the other address of the same")
		s.configure("a", endpoint("[fd00::1]:1", "10.0.0.1:1"), endpoint("10.0.0.2:1")) // the order says nothing
	}
	assert.Equal(t, "10.0.0.1:1,[fd00::1]:1", backendOf("[fd00::1]:1", "10.0.0.1:1"), "an old policy, with all of them")
	assert.Equal(t, "10.0.0.1:1,[fd00::1]:1,10.0.0.2:1", backendOf("10.0.0.1:1", "10.0.0.2:1"), "pick_first as it was once")
	assert.Equal(t, "10.9.9.9:1", backendOf("10.9.9.9:1"), "that the policy has from somewhere else")

	sc, err := a.cc.NewSubConn(endpoint("10.0.0.2:1").Addresses, balancer.NewSubConnOptions{})
	require.NoError(t, err)
	inner := s.parent.conns[len(s.parent.conns)-1]
	a.cc.UpdateAddresses(sc, endpoint("10.0.0.3:1").Addresses)
	assert.Equal(t, endpoint("10.0.0.3:1").Addresses, inner.addrs)
	a.cc.RemoveSubConn(sc)
	assert.True(t, inner.shut)

	found, n := endpointsOf(resolver.State{Addresses: endpoint("1", "2", "1").Addresses})
	assert.Len(t, n, 2, "without endpoints, as weighted_target has it")
	assert.Equal(t, endpoints{"1": "1", "2": "2"}, found)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	parse := func(js string) (*config, error) {
		c, err := spreadBuilder{}.ParseConfig(json.RawMessage(js))
		if err != nil {
			return nil, err
		}
		return c.(*config), nil
	}
	for js, name := range map[string]string{
		`{"childPolicy":[{"round_robin":{}}]}`:                                          "round_robin",
		`{"childPolicy":[{"not_here":{"a":1}},{"round_robin":{}},{"pick_first":{}}]}`:   "round_robin", // the first that there is
		`{"childPolicy":[{"pick_first":{"shuffleAddressList":true}}],"not known":true}`: "pick_first",
		`{"childPolicy":[{"rego_round_robin":{}}]}`:                                     "rego_round_robin",
	} {
		c, err := parse(js)
		require.NoError(t, err, js)
		assert.Equal(t, name, c.child.Name(), js)
		again, err := json.Marshal(c)
		require.NoError(t, err)
		assert.JSONEq(t, js, string(again), "policies above may encode it")
	}
	for js, fault := range map[string]string{
		`{}`:                                   `rego_spread: childPolicy: must name a policy`,
		`null`:                                 `rego_spread: childPolicy: must name a policy`,
		`{"childPolicies":[{}]}`:               `rego_spread: childPolicy: must name a policy`,
		`{"childPolicy":[]}`:                   `rego_spread: childPolicy: must name a policy`,
		`{"childPolicy":"round_robin"}`:        `rego_spread: json: cannot unmarshal string into Go struct field .childPolicy of type []map[string]json.RawMessage`,
		`{"childPolicy":[{"Round_Robin":{}}]}`: `rego_spread: childPolicy: none is registered of "Round_Robin"`,
		`{"childPolicy":[{"x":{}},{"y":{}}]}`:  `rego_spread: childPolicy: none is registered of "x", "y"`,
		`{"childPolicy":[{"x":{}},{"a":{},"b":{}}]}`: `rego_spread: childPolicy[1]: must have one policy, has 2`,
	} {
		if strings.Contains(js, "Round_Robin") && balancer.Get("Round_Robin") != nil {
			continue // up to v1.81, grpc's registry takes upper case for lower case
		}
		_, err := parse(js)
		require.EqualError(t, err, fault, js)
	}
	_, err := parse(`{"childPolicy":[{"x":{}},{"pick_first":[]}]}`)
	assert.ErrorContains(t, err, "rego_spread: childPolicy[1].pick_first: ")
}

func TestServiceConfig(t *testing.T) {
	t.Parallel()
	assert.JSONEq(t, `{"loadBalancingConfig":[{"rego_spread":{"childPolicy":[{"round_robin":{}}]}}]}`, ServiceConfig("round_robin"))
	assert.JSONEq(t, `{"loadBalancingConfig":[{"rego_round_robin":{}}]}`, ServiceConfig(RoundRobin))
}
