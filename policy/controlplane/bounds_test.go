package controlplane_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// unknown is a field that nobody knows, with as many bytes.
func unknown(n int) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), make([]byte, n))
}

// TestLongWords: every word that a client sends is bounded, in every request.
func TestLongWords(t *testing.T) {
	t.Parallel()
	long, labels := strings.Repeat("x", 257), map[string]string{}
	for i := range 20 {
		labels[fmt.Sprint(i)] = strings.Repeat("x", 250)
	}
	node := &regov1.Node{Service: "x"}
	for _, r := range []struct {
		requests []*regov1.StreamPoliciesRequest
		want     string
		code     codes.Code
	}{
		{[]*regov1.StreamPoliciesRequest{{Node: node, Version: long}}, "version and nonce may have 256 bytes", codes.InvalidArgument},
		{[]*regov1.StreamPoliciesRequest{{Node: node, Nonce: long}}, "version and nonce may have 256 bytes", codes.InvalidArgument},
		{[]*regov1.StreamPoliciesRequest{{Node: node}, {Version: long}}, "version and nonce may have 256 bytes", codes.InvalidArgument},
		{[]*regov1.StreamPoliciesRequest{{Node: node}, {Nonce: long}}, "version and nonce may have 256 bytes", codes.InvalidArgument},
		{[]*regov1.StreamPoliciesRequest{{Node: &regov1.Node{Service: "x", Labels: labels}}}, "the words of a node may have 4096 bytes, got 5031", codes.InvalidArgument},
		{[]*regov1.StreamPoliciesRequest{{Node: node, Version: strings.Repeat("x", 1<<20)}}, "larger than max (1048585 vs. 262144)", codes.ResourceExhausted},
	} {
		bubble(t, func(t *testing.T, n *network) {
			n.serve(controlplane.NewServer(newStore(t, set("1")), nil))
			s := n.raw(t.Context(), t)
			for _, r := range r.requests {
				require.NoError(t, s.Send(r))
			}
			err := error(nil)
			for err == nil { // the set may come first
				_, err = s.Recv()
			}
			assert.Equal(t, r.code, status.Code(err), r.want)
			require.ErrorContains(t, err, r.want)
			synctest.Wait()
			assert.Empty(t, n.list(t, ""))
		})
	}
}

// TestInvalidUTF8: no word that breaks the list for everybody.
func TestInvalidUTF8(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		n.serve(controlplane.NewServer(newStore(t, set("1")), nil))
		conn, err := grpc.NewClient("passthrough:///control", grpc.WithContextDialer(n.dial),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire{})))
		require.NoError(t, err)
		defer conn.Close()
		s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, regov1.PolicyDiscoveryService_StreamPolicies_FullMethodName)
		require.NoError(t, err)
		node := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "x\xff")
		require.NoError(t, s.SendMsg(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), node)))
		require.ErrorContains(t, s.RecvMsg(new(regov1.StreamPoliciesResponse)), "invalid UTF-8")
		assert.Empty(t, n.list(t, ""))
	})
}

// TestUnknownFields: what is not known is not kept.
func TestUnknownFields(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		n.serve(controlplane.NewServer(newStore(t, set("1")), nil))
		s := n.raw(t.Context(), t)
		r := &regov1.StreamPoliciesRequest{Node: &regov1.Node{Service: "x"}}
		r.GetNode().ProtoReflect().SetUnknown(unknown(100_000))
		r.ProtoReflect().SetUnknown(unknown(100_000))
		require.NoError(t, s.Send(r))
		fault := &regov1.Fault{Text: "no"}
		fault.ProtoReflect().SetUnknown(unknown(100_000))
		(&light{s, nil}).answer(t, fault)
		synctest.Wait()
		c := n.list(t, "")[0]
		assert.Equal(t, regov1.ClientState_CLIENT_STATE_REFUSED, c.GetState())
		assert.Less(t, proto.Size(c), 200)
	})
}

// TestFlood: a client that answers what nobody sent is sent away.
func TestFlood(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		n.serve(controlplane.NewServer(newStore(t, set("1")), nil))
		s := n.light(t, "x", "1")
		sent := 0
		for s.Send(&regov1.StreamPoliciesRequest{Nonce: "x"}) == nil {
			sent++
		}
		_, err := s.Recv() // the set
		require.NoError(t, err)
		_, err = s.Recv()
		assert.Equal(t, codes.ResourceExhausted, status.Code(err))
		require.ErrorContains(t, err, "more than 1000 answers to nothing")
		synctest.Wait()
		assert.Empty(t, n.list(t, ""))
	})
}

// TestMaxClients: a place is taken from the first byte of a stream on.
func TestMaxClients(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		n.serve(controlplane.NewServer(newStore(t, set("1")), nil, controlplane.MaxClients(3)))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n.raw(ctx, t) // that says nothing
		n.raw(ctx, t)
		synctest.Wait()
		first := n.light(t, "x", "1")
		first.answer(t)
		_, err := n.light(t, "x", "2").Recv()
		assert.Equal(t, codes.ResourceExhausted, status.Code(err))
		require.ErrorContains(t, err, "the server has 3 clients, which is all that it may have")
		cancel()
		synctest.Wait()
		n.light(t, "x", "2").answer(t)
		synctest.Wait()
		assert.Len(t, n.list(t, ""), 2)
	})
}
