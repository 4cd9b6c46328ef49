package controlplane_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// light is a client that says who it is, and answers as a test wants it to.
type light struct {
	regov1.PolicyDiscoveryService_StreamPoliciesClient
	end context.CancelFunc
}

func (n *network) light(t *testing.T, service, instance string) *light {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &light{n.raw(ctx, t), cancel}
	require.NoError(t, s.Send(&regov1.StreamPoliciesRequest{Node: &regov1.Node{Service: service, Instance: instance}}))
	return s
}

// answer reads a response and answers it.
func (s *light) answer(t *testing.T, faults ...*regov1.Fault) *regov1.StreamPoliciesResponse {
	t.Helper()
	r, err := s.Recv()
	require.NoError(t, err)
	answer := &regov1.StreamPoliciesRequest{Nonce: r.GetNonce(), Faults: faults}
	if len(faults) == 0 {
		answer.Version = r.GetSet().GetVersion()
	}
	require.NoError(t, s.Send(answer))
	return r
}

// pages returns all clients, page by page, with between called after each page.
func pages(t *testing.T, fleet regov1.FleetServiceClient, r *regov1.ListClientsRequest, between func(page int)) (all []*regov1.Client, n int) {
	t.Helper()
	for {
		page, err := fleet.ListClients(t.Context(), r)
		require.NoError(t, err)
		assert.Less(t, proto.Size(page), 4<<20)
		all = append(all, page.GetClients()...)
		n++
		if page.GetNextPageToken() == "" {
			return all, n
		}
		between(n)
		r.PageToken = page.GetNextPageToken()
	}
}

// TestPages: a client that goes or comes between two pages moves no other.
func TestPages(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		n.serve(controlplane.NewServer(newStore(t, set("1")), nil))
		clients := make(map[string]*light)
		for i := range 25 {
			name := fmt.Sprintf("%02d", i)
			clients[name] = n.light(t, "service "+name[:1], name)
		}
		synctest.Wait()
		all, count := pages(t, n.fleet(t), &regov1.ListClientsRequest{PageSize: 10}, func(page int) {
			switch page {
			case 1:
				clients["03"].end() // listed already
				clients["09"].end() // the place where the page ended
				clients["12"].end() // not listed yet
				n.light(t, "service 0", "04.5")
			case 2:
				n.light(t, "service 2", "24.5")
			}
			synctest.Wait()
		})
		assert.Equal(t, 3, count)
		var got []string
		for _, c := range all {
			got = append(got, c.GetNode().GetInstance())
		}
		var want []string
		for i := range 25 {
			if i != 12 {
				want = append(want, fmt.Sprintf("%02d", i))
			}
		}
		assert.Equal(t, append(want, "24.5"), got)

		_, err := n.fleet(t).ListClients(t.Context(), &regov1.ListClientsRequest{PageSize: -1})
		assert.Equal(t, codes.InvalidArgument, status.Code(err))
		for _, token := range []string{"x", "!", strings.Repeat("A", 9000)} {
			_, err = n.fleet(t).ListClients(t.Context(), &regov1.ListClientsRequest{PageToken: token})
			assert.Equal(t, codes.InvalidArgument, status.Code(err), token)
		}
	})
}

// TestManyRefusals: 600 clients that refuse with 100 faults each are listed, and what
// is kept of each is bounded.
func TestManyRefusals(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		n.serve(controlplane.NewServer(newStore(t, set("1")), nil))
		for i := range 600 {
			c := n.light(t, "x", fmt.Sprint(i))
			faults := make([]*regov1.Fault, 100)
			for j := range faults {
				faults[j] = &regov1.Fault{Path: fmt.Sprintf("client[%d].rules[%d]", i, j), Text: strings.Repeat("x", 300)}
			}
			c.answer(t, faults...)
		}
		synctest.Wait()
		all, count := pages(t, n.fleet(t), &regov1.ListClientsRequest{}, func(int) {})
		assert.Len(t, all, 600)
		assert.Greater(t, count, 1, "a page is bounded by bytes, too")
		for _, c := range all {
			faults := c.GetRefusal().GetFaults()
			assert.Less(t, proto.Size(c), 9<<10)
			assert.Equal(t, regov1.ClientState_CLIENT_STATE_REFUSED, c.GetState())
			assert.Equal(t, fmt.Sprintf("and %d more", 100-(len(faults)-1)), faults[len(faults)-1].GetText())
		}
	})
}

// TestGone: a client that has gone is remembered for an hour, unless it comes back.
func TestGone(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		n.serve(controlplane.NewServer(newStore(t, set("1")), nil))
		list := func(disconnected bool) (said []string) {
			r, err := n.fleet(t).ListClients(t.Context(), &regov1.ListClientsRequest{Disconnected: disconnected})
			require.NoError(t, err)
			for _, c := range r.GetClients() {
				said = append(said, fmt.Sprintln(c.GetNode().GetInstance(), c.GetState(), c.GetVersion(), c.GetLastSeen() != nil))
			}
			return said
		}
		a, b := n.light(t, "x", "a"), n.light(t, "x", "b")
		a.answer(t)
		b.answer(t)
		synctest.Wait()
		a.end()
		synctest.Wait()
		left := time.Now()
		assert.Equal(t, []string{"b CLIENT_STATE_CURRENT 1 false\n"}, list(false))
		assert.Equal(t, []string{"a CLIENT_STATE_DISCONNECTED 1 true\n", "b CLIENT_STATE_CURRENT 1 false\n"}, list(true))
		r, err := n.fleet(t).ListClients(t.Context(), &regov1.ListClientsRequest{Disconnected: true, Service: "x"})
		require.NoError(t, err)
		assert.True(t, left.Equal(r.GetClients()[0].GetLastSeen().AsTime()))

		virtual.Sleep(30 * time.Minute)
		a = n.light(t, "x", "a") // it is back
		a.answer(t)
		synctest.Wait()
		assert.Equal(t, []string{"a CLIENT_STATE_CURRENT 1 false\n", "b CLIENT_STATE_CURRENT 1 false\n"}, list(true))
		again := n.light(t, "x", "a") // before the server knows that the first has gone
		again.answer(t)
		a.end()
		synctest.Wait()
		assert.Len(t, list(true), 2)
		again.end()
		synctest.Wait()
		virtual.Sleep(time.Hour - 1)
		assert.Len(t, list(true), 2)
		virtual.Sleep(time.Nanosecond)
		assert.Len(t, list(true), 1)
	})
}

// TestSummary: how many have what, without a list.
func TestSummary(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		source, own := newStore(t, set("1")), newStore(t, set("own"))
		n.serve(controlplane.NewServer(source, map[string]*policy.Store{"users": own}))
		for i := range 5 {
			n.light(t, "shop", fmt.Sprint(i)).answer(t)
		}
		n.light(t, "shop", "refuses").answer(t, &regov1.Fault{Text: "no"})
		n.light(t, "shop", "waits")
		n.light(t, "users", "1").answer(t)
		synctest.Wait()
		sum, err := n.fleet(t).SummarizeClients(t.Context(), &regov1.SummarizeClientsRequest{})
		require.NoError(t, err)
		assert.EqualValues(t, 8, sum.GetClients())
		assert.Zero(t, sum.GetLeftOut())
		var rows []string
		for _, c := range sum.GetCounts() {
			rows = append(rows, fmt.Sprint(c.GetService(), " ", c.GetState(), " ", c.GetVersion(), " ", c.GetClients()))
		}
		assert.Equal(t, []string{
			"shop CLIENT_STATE_PENDING  1", "shop CLIENT_STATE_CURRENT 1 5", "shop CLIENT_STATE_REFUSED  1", "users CLIENT_STATE_CURRENT own 1",
		}, rows)
		sum, err = n.fleet(t).SummarizeClients(t.Context(), &regov1.SummarizeClientsRequest{Service: "users"})
		require.NoError(t, err)
		assert.EqualValues(t, 1, sum.GetClients())
		assert.Len(t, sum.GetCounts(), 1)
	})
}

// TestServerState: that the server's own file is refused or gone can be asked for.
func TestServerState(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		source, own := new(policy.Store), newStore(t, set("own"))
		began := time.Now()
		n.serve(controlplane.NewServer(source, map[string]*policy.Store{"users": own}))
		state := func() *regov1.GetServerStateResponse {
			r, err := n.fleet(t).GetServerState(t.Context(), &regov1.GetServerStateRequest{})
			require.NoError(t, err)
			return r
		}
		virtual.Sleep(time.Second)
		s := state()
		assert.True(t, began.Equal(s.GetStarted().AsTime()))
		require.Len(t, s.GetStores(), 2)
		assert.Equal(t, regov1.Standing_STANDING_INITIAL, s.GetStores()[0].GetStanding())
		assert.Nil(t, s.GetStores()[0].GetAccepted())
		assert.Equal(t, "users", s.GetStores()[1].GetService())
		assert.Equal(t, "own", s.GetStores()[1].GetVersion())

		file := source.Source("file")
		good := set("1")
		good.Revision = 7
		require.NoError(t, file.Update(good))
		n.light(t, "shop", "1").answer(t)
		n.light(t, "users", "1").answer(t)
		n.light(t, "users", "2").answer(t)
		synctest.Wait()
		s = state()
		assert.EqualValues(t, 3, s.GetClients())
		assert.EqualValues(t, 1, s.GetStores()[0].GetClients())
		assert.EqualValues(t, 2, s.GetStores()[1].GetClients())
		assert.Equal(t, regov1.Standing_STANDING_CURRENT, s.GetStores()[0].GetStanding())
		assert.EqualValues(t, 7, s.GetStores()[0].GetRevision())
		assert.Equal(t, "file", s.GetStores()[0].GetSource())
		assert.True(t, time.Now().Equal(s.GetStores()[0].GetAccepted().AsTime()))

		faults := make(policy.Faults, 300)
		for i := range faults {
			faults[i] = policy.Fault{Path: "rules", Text: strings.Repeat("x", 500), Line: i + 1, Column: 2}
		}
		file.Refuse("2", faults)
		virtual.Sleep(time.Minute)
		st := state().GetStores()[0]
		assert.Equal(t, regov1.Standing_STANDING_REFUSED, st.GetStanding())
		assert.Equal(t, time.Minute, st.GetAge().AsDuration())
		assert.EqualValues(t, 1, st.GetRefusals())
		assert.Equal(t, "2", st.GetRefusal().GetVersion())
		assert.EqualValues(t, 1, st.GetRefusal().GetFaults()[0].GetLine())
		assert.Less(t, proto.Size(st), 10<<10)

		file.Lost(assert.AnError)
		st = state().GetStores()[0]
		assert.Equal(t, regov1.Standing_STANDING_STALE, st.GetStanding())
		assert.Equal(t, assert.AnError.Error(), st.GetLost())
		assert.Equal(t, "1", st.GetVersion())
	})
}

// TestWarningsInTheFleet: what of a set has no effect in a client can be seen in the fleet.
func TestWarningsInTheFleet(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		pushed := set("1")
		pushed.Epoch, pushed.Revision = 2, 7
		server, err := policy.NewStore(pushed)
		require.NoError(t, err)
		n.serve(controlplane.NewServer(server, nil))
		st := new(policy.Store)
		st.Review(func(t *policy.Table) policy.Faults {
			if t.Version() != "1" {
				return nil
			}
			return policy.Faults{{Path: "rules[0]", Text: "retry.off: no effect, since a rule in code is stronger"}}
		})
		defer n.watch(t, st, payments).Close()
		synctest.Wait()
		client := n.list(t, "")[0]
		assert.Equal(t, uint64(2), client.GetEpoch())
		assert.Equal(t, regov1.ClientState_CLIENT_STATE_CURRENT, client.GetState())
		require.Len(t, client.GetWarnings(), 1)
		assert.Equal(t, "rules[0]", client.GetWarnings()[0].GetPath())

		pushed = set("2")
		pushed.Epoch, pushed.Revision = 2, 8
		require.NoError(t, server.Source("file").Update(pushed))
		virtual.Sleep(time.Second)
		assert.Empty(t, n.list(t, "")[0].GetWarnings())
	})
}
