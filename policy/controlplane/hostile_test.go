package controlplane_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

type serverStream = regov1.PolicyDiscoveryService_StreamPoliciesServer

// scripted is a server that does what a test says.
type scripted struct {
	regov1.UnimplementedPolicyDiscoveryServiceServer
	serve func(serverStream) error
}

func (s scripted) StreamPolicies(stream serverStream) error { return s.serve(stream) }

// sends is a server that sends each message and then waits for the client to go. Its
// answers go to answers.
func sends(answers chan<- *regov1.StreamPoliciesRequest, messages ...*regov1.StreamPoliciesResponse) scripted {
	return scripted{serve: func(s serverStream) error {
		for _, m := range messages {
			if err := s.Send(m); err != nil {
				return err
			}
			virtual.Sleep(time.Second) // so that each is taken
		}
		for {
			r, err := s.Recv()
			if err != nil {
				return err
			}
			if r.GetNonce() != "" {
				answers <- r
			}
		}
	}}
}

func response(nonce string, s *regov1.Set) *regov1.StreamPoliciesResponse {
	return &regov1.StreamPoliciesResponse{Nonce: nonce, Set: s}
}

// TestBadSets: whatever a server sends, the client keeps what it has, says why, and
// takes the next good set.
func TestBadSets(t *testing.T) {
	t.Parallel()
	with := func(change func(*regov1.Policy)) *regov1.Set {
		s := set("bad").Proto()
		change(s.GetRules()[0].GetPolicy())
		return s
	}
	backoff := func(m float64) *regov1.Set {
		return with(func(p *regov1.Policy) { p.Retry = &regov1.Retry{Backoff: &regov1.Backoff{Multiplier: m}} })
	}
	future := set("bad").Proto()
	future.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	overlapping := set("bad").Proto()
	overlapping.Rules = append(overlapping.Rules, overlapping.GetRules()[0])
	many := &regov1.Set{Version: "bad", Rules: make([]*regov1.Rule, policy.MaxRules+1)}
	for i := range many.GetRules() {
		many.Rules[i] = &regov1.Rule{Methods: []string{"*"}}
	}
	wrong := set("bad").Proto()
	for i := range 1000 {
		wrong.Rules = append(wrong.Rules, &regov1.Rule{Methods: []string{fmt.Sprint(i, strings.Repeat("x", 2000))}})
	}
	old := set("old").Proto()
	old.Revision = 6

	for name, r := range map[string]struct {
		set  *regov1.Set
		want string
	}{
		"unknown field":       {future, "field 99 of Set is not known to this version"},
		"negative duration":   {with(func(p *regov1.Policy) { p.Timeout = durationpb.New(-1) }), `rules[0]: policy "bad": timeout: must be between 0 and 24h0m0s, got -1ns`},
		"huge duration":       {with(func(p *regov1.Policy) { p.Timeout = &durationpb.Duration{Seconds: math.MaxInt64} }), `rules[0]: policy "bad": timeout: must be between 0`},
		"NaN":                 {backoff(math.NaN()), "must be above 0 and at most 100, got NaN"},
		"infinite multiplier": {backoff(math.Inf(1)), "must be above 0 and at most 100, got +Inf"},
		"overlapping rules":   {overlapping, `rules[1].methods[0]: "*" is already named by rules[0]`},
		"too many rules":      {many, "the set has more than 100000 rules"},
		"too many faults":     {wrong, "must be /pkg.Service/Method"},
		"backwards":           {old, "revision: must not be below 7, which is in force, got 6"},
		"no set":              {nil, "the response has no set"},
	} {
		bubble(t, func(t *testing.T, n *network) {
			st := new(policy.Store)
			good := set("good")
			good.Revision = 7
			require.NoError(t, st.Source("control plane passthrough:///control").Update(good))
			answers := make(chan *regov1.StreamPoliciesRequest, 9)
			next := set("next")
			next.Revision = 8
			n.serve(sends(answers, response("a", r.set), response("b", next.Proto())))
			defer n.watch(t, st, payments).Close()
			synctest.Wait()
			assert.Equal(t, "good", st.Current().Version(), name)
			status := st.Status()
			assert.Equal(t, policy.StateRefused, status.State(), name)
			require.ErrorContains(t, status.Refusal.Err, r.want, name)
			virtual.Sleep(2 * time.Second)
			assert.Equal(t, "next", st.Current().Version(), name)

			nack, ack := <-answers, <-answers
			assert.Equal(t, "a", nack.GetNonce(), name)
			assert.Equal(t, "good", nack.GetVersion(), name)
			assert.Equal(t, uint64(7), nack.GetRevision(), name)
			require.NotEmpty(t, nack.GetFaults(), name)
			assert.LessOrEqual(t, len(nack.GetFaults()), 101, name)
			assert.Equal(t, "b", ack.GetNonce(), name)
			assert.Equal(t, "next", ack.GetVersion(), name)
			assert.Empty(t, ack.GetFaults(), name)
		})
	}
}

// TestBadServers: servers that do not do what they should. The client keeps what it
// has, says why, and has the set of the good server within the longest wait once that
// takes over.
func TestBadServers(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		serve func(serverStream) error
		want  string
	}{
		"never answers": {func(s serverStream) error { <-s.Context().Done(); return nil }, "no answer within 15s"},
		"ends at once":  {func(serverStream) error { return nil }, "EOF"},
		"fails":         {func(serverStream) error { return status.Error(codes.PermissionDenied, "who are you") }, "who are you"},
		"only a header": {func(s serverStream) error { _ = s.SendHeader(nil); <-s.Context().Done(); return nil }, "no answer within 15s"},
		"a huge message": {
			func(s serverStream) error {
				return s.Send(response("a", &regov1.Set{Version: strings.Repeat("x", policy.MaxSize)}))
			}, "larger than max",
		},
		"huge, compressed": {
			func(s serverStream) error {
				if err := grpc.SetSendCompressor(s.Context(), gzip.Name); err != nil {
					return err
				}
				return s.Send(response("a", &regov1.Set{Version: strings.Repeat("x", policy.MaxSize)}))
			}, "larger than max",
		},
	} {
		bubble(t, func(t *testing.T, n *network) {
			st := newStore(t, set("built in"))
			n.serve(scripted{serve: r.serve})
			defer n.watch(t, st, payments).Close()
			virtual.Sleep(time.Minute)
			assert.Equal(t, "built in", st.Current().Version(), name)
			require.ErrorContains(t, st.Status().Lost, r.want, name)
			assert.Equal(t, policy.StateStale, st.Status().State(), name)
			assert.Less(t, len(n.dialed()), 8, "%s: it is not stormed", name)
			n.serve(controlplane.NewServer(newStore(t, set("good")), nil))
			virtual.Sleep(46 * time.Second) // an answer that is waited for, and the longest wait
			assert.Equal(t, "good", st.Current().Version(), name)
		})
	}
}

// TestEndlessUpdates: a server that sends as fast as it can, and does not read.
func TestEndlessUpdates(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		n.serve(scripted{serve: func(s serverStream) error {
			for sent := range 20_000 {
				if err := s.Send(response(fmt.Sprint(sent), set(fmt.Sprint(sent)).Proto())); err != nil {
					return err
				}
			}
			<-s.Context().Done()
			return nil
		}})
		st := new(policy.Store)
		defer n.watch(t, st, payments).Close()
		virtual.Sleep(time.Second)
		assert.Equal(t, "19999", st.Current().Version())
	})
}

// TestLastWordCounts: what a server has sent before it goes is taken.
func TestLastWordCounts(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		n.serve(scripted{serve: func(s serverStream) error {
			if err := s.Send(response("a", set("1").Proto())); err != nil {
				return err
			}
			virtual.Sleep(10 * time.Millisecond) // the client rests
			return s.Send(response("b", set("2").Proto()))
		}})
		st := new(policy.Store)
		defer n.watch(t, st, payments).Close()
		virtual.Sleep(500 * time.Millisecond)
		assert.Equal(t, "2", st.Current().Version())
		require.ErrorContains(t, st.Status().Lost, "EOF")
	})
}

// raw is a client's stream to the server, without what Watch does.
func (n *network) raw(ctx context.Context, t *testing.T) regov1.PolicyDiscoveryService_StreamPoliciesClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///control", grpc.WithContextDialer(n.dial), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	require.NoError(t, err)
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	s, err := regov1.NewPolicyDiscoveryServiceClient(conn).StreamPolicies(ctx)
	require.NoError(t, err)
	return s
}

// TestBadClients: the server tells them what is wrong, and forgets them.
func TestBadClients(t *testing.T) {
	t.Parallel()
	labels := map[string]string{}
	for i := range 65 {
		labels[fmt.Sprint(i)] = ""
	}
	for _, r := range []struct {
		hello *regov1.StreamPoliciesRequest // nil if there is none
		want  string
		code  codes.Code
	}{
		{nil, "no request within 10s", codes.DeadlineExceeded},
		{&regov1.StreamPoliciesRequest{}, "the first request must have a node with a service", codes.InvalidArgument},
		{&regov1.StreamPoliciesRequest{Node: &regov1.Node{Service: "x", Labels: labels}}, "a node may have 64 labels, got 65", codes.InvalidArgument},
		{&regov1.StreamPoliciesRequest{Node: &regov1.Node{Service: strings.Repeat("x", 257)}}, "a word of a node may have 256 bytes", codes.InvalidArgument},
		{&regov1.StreamPoliciesRequest{Node: &regov1.Node{Service: "x", Labels: map[string]string{"a": strings.Repeat("x", 257)}}}, "a word of a node may have 256 bytes", codes.InvalidArgument},
	} {
		bubble(t, func(t *testing.T, n *network) {
			n.serve(controlplane.NewServer(newStore(t, set("1")), nil))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := n.raw(ctx, t)
			if r.hello != nil {
				require.NoError(t, s.Send(r.hello))
			}
			_, err := s.Recv()
			assert.Equal(t, r.code, status.Code(err), r.want)
			require.ErrorContains(t, err, r.want)
			assert.Empty(t, n.list(t, ""))
		})
	}
}

// TestSlowClients: those that do not read, do not answer, or answer what nobody asked,
// hold up nobody.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		source := newStore(t, set("0"))
		n.serve(controlplane.NewServer(source, nil))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for i := range 20 { // that never read
			s := n.raw(ctx, t)
			require.NoError(t, s.Send(&regov1.StreamPoliciesRequest{Node: &regov1.Node{Service: "slow", Instance: fmt.Sprint(i)}}))
		}
		wrong := n.raw(ctx, t)
		require.NoError(t, wrong.Send(&regov1.StreamPoliciesRequest{Node: &regov1.Node{Service: "wrong"}}))
		for range 100 {
			require.NoError(t, wrong.Send(&regov1.StreamPoliciesRequest{Nonce: "x", Version: "lie", Faults: []*regov1.Fault{{Text: "no"}}}))
		}
		st := new(policy.Store)
		defer n.watch(t, st, payments).Close()
		synctest.Wait()

		large := policy.Set{Rules: make([]policy.Rule, 2000)}
		for i := range large.Rules {
			large.Rules[i] = policy.Rule{Methods: []string{fmt.Sprintf("/company.team.v1.Service/Method%d", i)}}
		}
		for i := range 5 { // more than the windows of those who do not read
			virtual.Sleep(time.Second)
			large.Version = fmt.Sprint(i)
			require.NoError(t, source.Update(large))
			synctest.Wait()
			require.Equal(t, large.Version, st.Current().Version(), "at once")
		}
		for _, c := range n.list(t, "slow") {
			assert.Equal(t, regov1.ClientState_CLIENT_STATE_PENDING, c.GetState())
			assert.GreaterOrEqual(t, c.GetPending().AsDuration(), 3*time.Second)
		}
		lie := n.list(t, "wrong")[0]
		assert.Equal(t, regov1.ClientState_CLIENT_STATE_PENDING, lie.GetState(), "an answer to nothing is none")
		assert.Nil(t, lie.GetRefusal())
		assert.Equal(t, "lie", lie.GetVersion())
		cancel()
		synctest.Wait()
		assert.Len(t, n.list(t, ""), 1)
	})
}
