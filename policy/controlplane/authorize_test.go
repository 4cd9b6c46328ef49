package controlplane_test

import (
	"crypto/tls"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// TestAuthorize over sockets: a node that says it is another service gets nothing,
// is not listed, and whoever keeps an audit log is told.
func TestAuthorize(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	server := credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{a.issue(t, "control.example")},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: a.pool, MinVersion: tls.VersionTLS13,
	})
	own, err := controlplane.ServiceFromCertificate("{service}.clients.internal")
	require.NoError(t, err)
	operators, err := controlplane.PeerIs("operator.internal")
	require.NoError(t, err)
	var mu sync.Mutex
	var denials []controlplane.Denial
	addr := listen(t, controlplane.NewServer(newStore(t, set("1")), nil,
		controlplane.Authorize(own), controlplane.AuthorizeFleet(operators),
		controlplane.OnDenial(func(d controlplane.Denial) {
			mu.Lock()
			defer mu.Unlock()
			denials = append(denials, d)
		})), grpc.Creds(server))
	dial := func(name string) *grpc.ClientConn {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{a.issue(t, name)}, RootCAs: a.pool, ServerName: "control.example", MinVersion: tls.VersionTLS13,
		})))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, conn.Close()) })
		return conn
	}
	ask := func(conn *grpc.ClientConn, service string) (*regov1.StreamPoliciesResponse, error) {
		s, err := regov1.NewPolicyDiscoveryServiceClient(conn).StreamPolicies(t.Context())
		require.NoError(t, err)
		require.NoError(t, s.Send(&regov1.StreamPoliciesRequest{Node: &regov1.Node{Service: service}}))
		return s.Recv()
	}
	basket, operator := dial("basket.clients.internal"), dial("operator.internal")
	r, err := ask(basket, "basket")
	require.NoError(t, err)
	assert.Equal(t, "1", r.GetSet().GetVersion())

	_, err = ask(basket, "payments")
	assert.Equal(t, codes.PermissionDenied, status.Code(err))
	require.ErrorContains(t, err, `the certificate of basket.clients.internal is not that of service "payments"`)
	_, err = ask(operator, "payments")
	assert.Equal(t, codes.PermissionDenied, status.Code(err))

	list, err := regov1.NewFleetServiceClient(operator).ListClients(t.Context(), &regov1.ListClientsRequest{Disconnected: true})
	require.NoError(t, err)
	require.Len(t, list.GetClients(), 1, "who was denied is not known")
	assert.Equal(t, "basket", list.GetClients()[0].GetNode().GetService())
	fleet := regov1.NewFleetServiceClient(basket)
	_, err = fleet.ListClients(t.Context(), &regov1.ListClientsRequest{})
	assert.Equal(t, codes.PermissionDenied, status.Code(err))
	_, err = fleet.SummarizeClients(t.Context(), &regov1.SummarizeClientsRequest{})
	assert.Equal(t, codes.PermissionDenied, status.Code(err))
	_, err = fleet.GetServerState(t.Context(), &regov1.GetServerStateRequest{})
	assert.Equal(t, codes.PermissionDenied, status.Code(err))

	mu.Lock()
	defer mu.Unlock()
	require.Len(t, denials, 5)
	assert.Equal(t, "/rego.v1.PolicyDiscoveryService/StreamPolicies", denials[0].Method)
	assert.Equal(t, []string{"basket.clients.internal"}, denials[0].Identities)
	assert.Equal(t, "payments", denials[0].Node.GetService())
	assert.Contains(t, denials[0].Peer, "127.0.0.1:")
	assert.Equal(t, codes.PermissionDenied, status.Code(denials[0].Err))
	assert.Equal(t, "/rego.v1.FleetService/ListClients", denials[2].Method)
	assert.Nil(t, denials[2].Node)
}
