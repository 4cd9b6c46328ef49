package controlplane_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

var silent = controlplane.WithLogger(slog.New(slog.DiscardHandler))

// network is where servers come and go in memory.
type network struct {
	mu       sync.Mutex
	listener *bufconn.Listener
	server   *grpc.Server
	dials    []time.Time
}

// serve starts a server, after the one before it has been stopped.
func (n *network) serve(srv regov1.PolicyDiscoveryServiceServer, opts ...grpc.ServerOption) {
	n.stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listener = bufconn.Listen(1 << 20)
	n.server = grpc.NewServer(append(controlplane.ServerOptions(), opts...)...)
	regov1.RegisterPolicyDiscoveryServiceServer(n.server, srv)
	if s, ok := srv.(*controlplane.Server); ok {
		regov1.RegisterFleetServiceServer(n.server, s.Fleet())
	}
	go func(s *grpc.Server, l net.Listener) { _ = s.Serve(l) }(n.server, n.listener) // until stop
}

func (n *network) stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server != nil {
		n.server.Stop()
		n.server = nil
	}
}

// dialed returns when clients have dialled since it was last asked.
func (n *network) dialed() []time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	dials := n.dials
	n.dials = nil
	return dials
}

func (n *network) dial(ctx context.Context, _ string) (net.Conn, error) {
	n.mu.Lock()
	n.dials = append(n.dials, time.Now())
	server, listener := n.server, n.listener
	n.mu.Unlock()
	if server == nil {
		return nil, status.Error(codes.Unavailable, "refused")
	}
	return listener.DialContext(ctx)
}

func (n *network) options() controlplane.Option {
	return controlplane.WithDialOptions(grpc.WithContextDialer(n.dial), grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func (n *network) watch(t *testing.T, st *policy.Store, node controlplane.Node) *controlplane.Watcher {
	t.Helper()
	w, err := controlplane.Watch("passthrough:///control", node, st, silent, n.options())
	require.NoError(t, err)
	return w
}

// fleet returns a client of the server's fleet service.
func (n *network) fleet(t *testing.T) regov1.FleetServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///control", grpc.WithContextDialer(n.dial), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return regov1.NewFleetServiceClient(conn)
}

func (n *network) list(t *testing.T, service string) []*regov1.Client {
	t.Helper()
	r, err := n.fleet(t).ListClients(t.Context(), &regov1.ListClientsRequest{Service: service})
	require.NoError(t, err)
	return r.GetClients()
}

var payments = controlplane.Node{Service: "payments", Instance: "p-1", Labels: map[string]string{"zone": "a"}}

// set has one rule for every method, which has the version as its name.
func set(version string) policy.Set {
	return policy.Set{Version: version, Rules: []policy.Rule{{Methods: []string{"*"}, Policy: policy.Policy{Name: version}}}}
}

func newStore(t *testing.T, s policy.Set) *policy.Store {
	t.Helper()
	st, err := policy.NewStore(s)
	require.NoError(t, err)
	return st
}

// bubble runs f in virtual time, on a network without a server.
func bubble(t *testing.T, f func(t *testing.T, n *network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := new(network)
		defer n.stop()
		f(t, n)
	})
}

// TestFollows: what the server has, the client has, at once.
func TestFollows(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		source := newStore(t, set("1"))
		n.serve(controlplane.NewServer(source, nil))
		st := newStore(t, set("built in"))
		w := n.watch(t, st, payments)
		synctest.Wait()
		assert.Equal(t, "1", st.Current().Version())
		assert.Equal(t, source.Current().Set(), st.Current().Set())
		assert.Equal(t, policy.StateCurrent, st.Status().State())
		assert.Equal(t, "control plane passthrough:///control", st.Status().Source)

		for _, v := range []string{"2", "3", "4"} {
			virtual.Sleep(time.Second)
			require.NoError(t, source.Update(set(v)))
			synctest.Wait()
			assert.Equal(t, v, st.Current().Version(), "no time has passed")
		}
		table := st.Current()
		n.serve(controlplane.NewServer(source, nil))
		virtual.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Same(t, table, st.Current(), "the same set is no change")
		assert.Equal(t, policy.StateCurrent, st.Status().State())

		require.NoError(t, w.Close())
		require.NoError(t, source.Update(set("5")))
		synctest.Wait()
		assert.Equal(t, "4", st.Current().Version())
		assert.Empty(t, n.list(t, ""))
	})
}

// TestCoalesces: of sets that come faster than ten a second the newest is taken, and
// the last one always.
func TestCoalesces(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		source := newStore(t, set("0"))
		n.serve(controlplane.NewServer(source, nil))
		st := new(policy.Store)
		defer n.watch(t, st, payments).Close()
		synctest.Wait()
		taken := 0
		for i := range 1000 { // ten seconds of a set each 10 ms
			changed := st.Changed()
			require.NoError(t, source.Update(set(string(rune('a'+i%26)))))
			virtual.Sleep(10 * time.Millisecond)
			synctest.Wait()
			select {
			case <-changed:
				taken++
			default:
			}
		}
		assert.LessOrEqual(t, taken, 101)
		assert.GreaterOrEqual(t, taken, 90)
		require.NoError(t, source.Update(set("last")))
		virtual.Sleep(200 * time.Millisecond) // it may be behind one that waits
		synctest.Wait()
		assert.Equal(t, "last", st.Current().Version())
	})
}

// TestRefusals: a client that refuses a set says why, and keeps what it has.
func TestRefusals(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		source := newStore(t, set("1"))
		n.serve(controlplane.NewServer(source, nil))
		st := new(policy.Store)
		require.NoError(t, st.Guard(policy.Limits{MaxAttempts: 3}.Check))
		defer n.watch(t, st, payments).Close()
		synctest.Wait()

		virtual.Sleep(time.Second)
		greedy := set("2")
		greedy.Rules[0].Policy.Retry.MaxAttempts = 9
		require.NoError(t, source.Update(greedy))
		synctest.Wait()
		assert.Equal(t, "1", st.Current().Version())
		assert.Equal(t, policy.StateRefused, st.Status().State())
		refused := time.Now()
		virtual.Sleep(time.Minute)
		c := n.list(t, "")[0]
		assert.Equal(t, regov1.ClientState_CLIENT_STATE_REFUSED, c.GetState())
		assert.Equal(t, "1", c.GetVersion())
		assert.Equal(t, "2", c.GetRefusal().GetVersion())
		assert.True(t, refused.Equal(c.GetRefusal().GetTime().AsTime()))
		require.Len(t, c.GetRefusal().GetFaults(), 1)
		assert.Equal(t, "rules[0].policy.retry.max_attempts", c.GetRefusal().GetFaults()[0].GetPath())
		assert.Equal(t, "must not exceed the limit 3, got 9", c.GetRefusal().GetFaults()[0].GetText())

		require.NoError(t, source.Update(set("3")))
		synctest.Wait()
		c = n.list(t, "")[0]
		assert.Equal(t, regov1.ClientState_CLIENT_STATE_CURRENT, c.GetState())
		assert.Equal(t, "3", c.GetVersion())
		assert.Equal(t, "2", c.GetRefusal().GetVersion(), "the last one is remembered")
		assert.Equal(t, "3", st.Current().Version())
	})
}

// TestListClients: who is there, since when, and how they stand.
func TestListClients(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		source, own := newStore(t, set("1")), newStore(t, set("own"))
		n.serve(controlplane.NewServer(source, map[string]*policy.Store{"users": own}))
		start := time.Now()
		stores := map[string]*policy.Store{}
		for _, node := range []controlplane.Node{payments, {Service: "users", Instance: "u-2"}, {Service: "users", Instance: "u-1"}} {
			st := new(policy.Store)
			stores[node.Instance] = st
			defer n.watch(t, st, node).Close()
		}
		synctest.Wait()
		assert.Equal(t, "1", stores["p-1"].Current().Version())
		assert.Equal(t, "own", stores["u-1"].Current().Version())
		virtual.Sleep(time.Second)
		require.NoError(t, own.Update(set("own 2")))
		synctest.Wait()
		assert.Equal(t, "1", stores["p-1"].Current().Version())
		assert.Equal(t, "own 2", stores["u-2"].Current().Version())

		all := n.list(t, "")
		require.Len(t, all, 3)
		for i, want := range []string{"p-1", "u-1", "u-2"} {
			assert.Equal(t, want, all[i].GetNode().GetInstance())
			assert.True(t, start.Equal(all[i].GetConnected().AsTime()))
			assert.Equal(t, regov1.ClientState_CLIENT_STATE_CURRENT, all[i].GetState())
			assert.NotEmpty(t, all[i].GetPeer())
			assert.Nil(t, all[i].GetPending())
			assert.Nil(t, all[i].GetRefusal())
		}
		assert.Equal(t, map[string]string{"zone": "a"}, all[0].GetNode().GetLabels())
		assert.Len(t, n.list(t, "users"), 2)
		assert.Empty(t, n.list(t, "nobody"))
	})
}

// TestServerWithoutPolicies: a server that has none says nothing, so that it takes
// nothing away.
func TestServerWithoutPolicies(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		source := new(policy.Store)
		n.serve(controlplane.NewServer(source, nil))
		st := newStore(t, set("built in"))
		defer n.watch(t, st, payments).Close()
		virtual.Sleep(time.Second)
		assert.Equal(t, regov1.ClientState_CLIENT_STATE_UNSPECIFIED, n.list(t, "")[0].GetState())
		source.Source("file").Refuse("", assert.AnError)
		virtual.Sleep(time.Minute)
		assert.Equal(t, "built in", st.Current().Version())
		require.EqualError(t, st.Status().Lost, "the control plane has no policies yet")
		n.dialed()

		require.NoError(t, source.Source("file").Update(policy.Set{}))
		synctest.Wait()
		assert.Empty(t, n.dialed(), "it is connected all the while")
		assert.Empty(t, st.Current().Version(), "an empty set that is meant")
		assert.Equal(t, policy.StateCurrent, st.Status().State())
	})
}

// TestReconnects: the waits, from when the server is gone to when it is back.
func TestReconnects(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		source := newStore(t, set("1"))
		srv := controlplane.NewServer(source, nil)
		st := new(policy.Store)
		defer n.watch(t, st, payments).Close()
		virtual.Sleep(5 * time.Minute)
		dials := n.dialed()
		require.Greater(t, len(dials), 10)
		assert.Less(t, len(dials), 24)
		for i, at := range dials[1:] {
			most := min(time.Second<<min(i+1, 5), 30*time.Second)
			wait := at.Sub(dials[i])
			assert.LessOrEqual(t, wait, most, "%d", i)
			assert.GreaterOrEqual(t, wait, most/2, "%d", i)
		}
		require.ErrorContains(t, st.Status().Lost, "refused")
		assert.Equal(t, policy.StateStale, st.Status().State())

		n.serve(srv)
		virtual.Sleep(time.Minute) // it has settled
		assert.Equal(t, "1", st.Current().Version())
		n.dialed()
		down := time.Now()
		n.stop()
		synctest.Wait()
		assert.Equal(t, policy.StateCurrent, st.Status().State(), "it may be a server that is restarted")
		virtual.Sleep(300 * time.Millisecond)
		synctest.Wait()
		assert.Equal(t, policy.StateStale, st.Status().State(), "it is not")
		assert.Less(t, st.Status().Age(time.Now()), 300*time.Millisecond)
		require.NoError(t, source.Update(set("2")))
		n.serve(srv)
		virtual.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, "2", st.Current().Version(), "it begins again with a second or two")
		dials = n.dialed()
		require.Len(t, dials, 2)
		assert.Less(t, dials[0].Sub(down), 300*time.Millisecond)
		assert.GreaterOrEqual(t, dials[1].Sub(dials[0]), time.Second)
	})
}

func TestWatchFaults(t *testing.T) {
	t.Parallel()
	n := new(network)
	_, err := controlplane.Watch("x", controlplane.Node{}, new(policy.Store), n.options())
	require.EqualError(t, err, "controlplane: node: service must not be empty")
	_, err = controlplane.Watch("x", payments, new(policy.Store)) // without credentials
	require.ErrorContains(t, err, "controlplane: grpc: no transport security set")
}
