package spread

import (
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/rego-go/rego/internal/backends"
)

type spreadBuilder struct{}

func (spreadBuilder) Name() string { return Name }

func (spreadBuilder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	backends.Expect()
	return &spreader{cc: cc, opts: opts, target: targetOf(cc)}
}

// spreader is the balancer of rego_spread. It has one child. If the service config names
// another policy, that is a second child until it has a connection, or the first has none:
// then it takes over. grpc changes policies in the same way, but its code for it
// (gracefulswitch) is not to be imported.
type spreader struct {
	cc     balancer.ClientConn
	opts   balancer.BuildOptions
	target string
	known  atomic.Pointer[map[string]bool] // the backends that there are
	ending sync.WaitGroup                  // children that are closed

	mu        sync.Mutex // held while the parent is told of a state, and nothing else that is not ours
	endpoints endpoints
	current   *child // whose picker the channel has
	next      *child // that is to take over, or nil
}

// UpdateClientConnState implements [balancer.Balancer].
func (s *spreader) UpdateClientConnState(ccs balancer.ClientConnState) error {
	c, ok := ccs.BalancerConfig.(*config)
	if !ok {
		return fmt.Errorf("%s: unexpected config %T: %w", Name, ccs.BalancerConfig, balancer.ErrBadResolverState)
	}
	found, known := endpointsOf(ccs.ResolverState)
	s.known.Store(&known)
	s.mu.Lock()
	s.endpoints = found
	to := s.latestLocked()
	s.mu.Unlock()
	if to == nil || to.name != c.child.Name() {
		to = s.begin(c.child)
	}
	ccs.BalancerConfig = c.childConfig
	return to.Balancer.UpdateClientConnState(ccs)
}

// begin makes a child, the only one or one that is to take over.
func (s *spreader) begin(b balancer.Builder) *child {
	c := &child{ClientConn: s.cc, spreader: s, name: b.Name(), subConns: make(map[*subConn]struct{})}
	c.state = balancer.State{ConnectivityState: connectivity.Connecting, Picker: failing{balancer.ErrNoSubConnAvailable}}
	s.mu.Lock()
	given := s.next
	if s.current == nil {
		s.current = c
	} else {
		s.next = c
	}
	s.mu.Unlock()
	if given != nil {
		given.close()
	}
	c.Balancer = b.Build(c, s.opts)
	return c
}

func (s *spreader) latestLocked() *child {
	if s.next != nil {
		return s.next
	}
	return s.current
}

func (s *spreader) latest() *child {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latestLocked()
}

// takeOverLocked makes the next child the current one.
func (s *spreader) takeOverLocked() {
	old := s.current
	s.current, s.next = s.next, nil
	s.cc.UpdateState(s.current.state)
	s.ending.Go(old.close) // it may be calling just now
}

// ResolverError implements [balancer.Balancer].
func (s *spreader) ResolverError(err error) {
	if c := s.latest(); c != nil {
		c.Balancer.ResolverError(err)
		return
	}
	s.cc.UpdateState(balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: failing{err}})
}

// failing is the picker of a channel that never had an address, or of a child that has told
// nothing yet.
type failing struct{ err error }

func (f failing) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, f.err
}

// ExitIdle implements [balancer.Balancer].
func (s *spreader) ExitIdle() {
	if c := s.latest(); c != nil {
		c.Balancer.ExitIdle()
	}
}

// UpdateSubConnState implements [balancer.Balancer]. It is not called, since SubConns have
// listeners.
func (s *spreader) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

// Close implements [balancer.Balancer].
func (s *spreader) Close() {
	s.mu.Lock()
	current, next := s.current, s.next
	s.current, s.next = nil, nil
	s.mu.Unlock()
	for _, c := range []*child{current, next} {
		if c != nil {
			c.close()
		}
	}
	s.ending.Wait()
}

// child is a child policy, and the ClientConn that it sees: its SubConns know their
// backend, and its pickers spread.
type child struct {
	balancer.ClientConn
	balancer.Balancer
	spreader *spreader
	name     string

	calls sync.Mutex // held while the child is told of a SubConn, or closed

	// Guarded by the spreader's mu.
	state    balancer.State
	subConns map[*subConn]struct{}
}

// close ends the child, which is neither current nor next any more, and its SubConns.
func (c *child) close() {
	c.calls.Lock()
	c.Balancer.Close()
	c.calls.Unlock()
	c.spreader.mu.Lock()
	left := c.subConns
	c.subConns = nil
	c.spreader.mu.Unlock()
	for sc := range left {
		sc.Shutdown()
	}
}

func (c *child) isInUseLocked() bool { return c == c.spreader.current || c == c.spreader.next }

// UpdateState implements [balancer.ClientConn].
func (c *child) UpdateState(st balancer.State) {
	s := c.spreader
	st.Picker = &picker{child: st.Picker, target: s.target, known: &s.known}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.state = st
	switch {
	case !c.isInUseLocked():
	case s.next != nil && (s.current.state.ConnectivityState != connectivity.Ready || s.next.state.ConnectivityState != connectivity.Connecting):
		s.takeOverLocked()
	case c == s.current:
		s.cc.UpdateState(st)
	}
}

// subConn is a SubConn that knows its backend.
type subConn struct {
	balancer.SubConn
	backend string
}

// unwrap replaces the SubConn that a child has picked by the one that the parent knows, and
// returns its backend. There is none if a child returns what it was not given.
func unwrap(r *balancer.PickResult) (backend string) {
	if sc, ok := r.SubConn.(*subConn); ok {
		r.SubConn, backend = sc.SubConn, sc.backend
	}
	return backend
}

// NewSubConn implements [balancer.ClientConn].
func (c *child) NewSubConn(addrs []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	s := c.spreader
	s.mu.Lock()
	sc := &subConn{backend: s.endpoints.of(addrs)}
	s.mu.Unlock()
	listener := opts.StateListener
	if listener == nil {
		listener = func(st balancer.SubConnState) { c.Balancer.UpdateSubConnState(sc, st) }
	}
	opts.StateListener = func(st balancer.SubConnState) { c.tell(sc, st, listener) }
	var err error
	if sc.SubConn, err = c.ClientConn.NewSubConn(addrs, opts); err != nil {
		return nil, err
	}
	s.mu.Lock()
	inUse := c.isInUseLocked()
	if inUse {
		c.subConns[sc] = struct{}{}
	}
	s.mu.Unlock()
	if !inUse {
		sc.Shutdown()
		return nil, fmt.Errorf("%s: %s is closed", Name, c.name)
	}
	return sc, nil
}

// tell passes on the state of a SubConn, unless the child has been closed.
func (c *child) tell(sc *subConn, st balancer.SubConnState, listener func(balancer.SubConnState)) {
	c.calls.Lock()
	defer c.calls.Unlock()
	c.spreader.mu.Lock()
	known := c.isInUseLocked()
	if st.ConnectivityState == connectivity.Shutdown {
		delete(c.subConns, sc)
	}
	c.spreader.mu.Unlock()
	if known {
		listener(st)
	}
}

// UpdateAddresses implements [balancer.ClientConn].
func (c *child) UpdateAddresses(sc balancer.SubConn, addrs []resolver.Address) {
	sc.UpdateAddresses(addrs)
}

// RemoveSubConn implements [balancer.ClientConn].
func (c *child) RemoveSubConn(sc balancer.SubConn) { sc.Shutdown() }

// ResolveNow implements [balancer.ClientConn].
func (c *child) ResolveNow(o resolver.ResolveNowOptions) {
	if c == c.spreader.latest() {
		c.ClientConn.ResolveNow(o)
	}
}
