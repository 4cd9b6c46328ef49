package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// shows returns the context of a peer whose certificate has these names.
func shows(t *testing.T, verified bool, dns []string, uris ...string) context.Context {
	t.Helper()
	c := &x509.Certificate{DNSNames: dns}
	for _, text := range uris {
		u, err := url.Parse(text)
		require.NoError(t, err, text)
		c.URIs = append(c.URIs, u)
	}
	info := credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}}
	if verified {
		info.State.VerifiedChains = [][]*x509.Certificate{{c}}
	}
	return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{}, AuthInfo: info})
}

// TestServiceFromCertificate: a client is what its certificate says.
func TestServiceFromCertificate(t *testing.T) {
	t.Parallel()
	rule, err := ServiceFromCertificate("spiffe://shop.example/ns/*/sa/{service}", "{service}.Clients.internal")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		dns     []string
		uris    []string
		service string
		want    codes.Code
	}{
		"SPIFFE ID":             {nil, []string{"spiffe://shop.example/ns/prod/sa/basket"}, "basket", codes.OK},
		"of another service":    {nil, []string{"spiffe://shop.example/ns/prod/sa/basket"}, "payments", codes.PermissionDenied},
		"another trust domain":  {nil, []string{"spiffe://evil.example/ns/prod/sa/basket"}, "basket", codes.PermissionDenied},
		"a domain that ends so": {nil, []string{"spiffe://x.shop.example/ns/prod/sa/basket"}, "basket", codes.PermissionDenied},
		"more segments":         {nil, []string{"spiffe://shop.example/ns/prod/sa/basket/x"}, "basket", codes.PermissionDenied},
		"* is one segment":      {nil, []string{"spiffe://shop.example/ns/a/b/sa/basket"}, "basket", codes.PermissionDenied},
		"* is not none":         {nil, []string{"spiffe://shop.example/ns//sa/basket"}, "basket", codes.PermissionDenied},
		"nothing captured":      {nil, []string{"spiffe://shop.example/ns/prod/sa/"}, "", codes.PermissionDenied},
		"upwards":               {nil, []string{"spiffe://shop.example/ns/../sa/basket"}, "basket", codes.PermissionDenied},
		"captured upwards":      {nil, []string{"spiffe://shop.example/ns/prod/sa/.."}, "..", codes.PermissionDenied},
		"an escaped slash":      {nil, []string{"spiffe://shop.example/ns/prod/sa/a%2Fb"}, "a/b", codes.PermissionDenied},
		"an escaped letter":     {nil, []string{"spiffe://shop.example/ns/prod/sa/%62asket"}, "basket", codes.PermissionDenied},
		"a query":               {nil, []string{"spiffe://shop.example/ns/prod/sa/basket?x"}, "basket", codes.PermissionDenied},
		"a fragment":            {nil, []string{"spiffe://shop.example/ns/prod/sa/basket#x"}, "basket", codes.PermissionDenied},
		"a user":                {nil, []string{"spiffe://x@shop.example/ns/prod/sa/basket"}, "basket", codes.PermissionDenied},
		"a port":                {nil, []string{"spiffe://shop.example:1/ns/prod/sa/basket"}, "basket", codes.PermissionDenied},
		"another scheme":        {nil, []string{"https://shop.example/ns/prod/sa/basket"}, "basket", codes.PermissionDenied},
		"paths have cases":      {nil, []string{"spiffe://shop.example/ns/prod/sa/Basket"}, "basket", codes.PermissionDenied},
		"two URIs":              {nil, []string{"spiffe://shop.example/ns/prod/sa/basket", "spiffe://shop.example/ns/prod/sa/payments"}, "basket", codes.PermissionDenied},
		"DNS name":              {[]string{"basket.clients.internal"}, nil, "basket", codes.OK},
		"one of several":        {[]string{"other.example", "basket.clients.internal"}, nil, "basket", codes.OK},
		"DNS has no cases":      {[]string{"Basket.CLIENTS.internal"}, nil, "basket", codes.OK},
		"but services have":     {[]string{"Basket.clients.internal"}, nil, "Basket", codes.PermissionDenied},
		"a subdomain":           {[]string{"x.basket.clients.internal"}, nil, "x.basket", codes.PermissionDenied},
		"no service":            {[]string{".clients.internal"}, nil, "", codes.PermissionDenied},
		"only the domain":       {[]string{"clients.internal"}, nil, "clients", codes.PermissionDenied},
		"a wildcard":            {[]string{"*.clients.internal"}, nil, "*", codes.PermissionDenied},
		"a dot is no joker":     {[]string{"basket.clientsxinternal"}, nil, "basket", codes.PermissionDenied},
		"a URI as a DNS name":   {[]string{"spiffe://shop.example/ns/prod/sa/basket"}, nil, "basket", codes.PermissionDenied},
		"a DNS name as a URI":   {nil, []string{"basket.clients.internal"}, "basket", codes.PermissionDenied},
		"no name at all":        {nil, nil, "basket", codes.PermissionDenied},
	} {
		err := rule(shows(t, true, c.dns, c.uris...), &regov1.Node{Service: c.service})
		assert.Equal(t, c.want, status.Code(err), "%s: %v", name, err)
		err = rule(shows(t, false, c.dns, c.uris...), &regov1.Node{Service: c.service})
		assert.Equal(t, codes.Unauthenticated, status.Code(err), "%s: nobody has verified it", name)
	}
	assert.Equal(t, codes.Unauthenticated, status.Code(rule(t.Context(), &regov1.Node{Service: "basket"})))
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                   `"" is no segment`,
		"spiffe://shop.example/sa/x":         "must have {service} for one segment",
		"{service}.{service}.internal":       "must have {service} once",
		"a-{service}.internal":               "stand for a whole segment",
		"spiffe://*/sa/{service}":            "the trust domain must be named",
		"spiffe://{service}":                 "the trust domain must be named",
		"spiffe://shop.example//{service}":   `"" is no segment`,
		"spiffe://shop.example/../{service}": `".." is no segment`,
		"spiffe://Shop.example/{service}":    `"Shop.example" is no segment`,
		"(.+).internal.{service}":            `"(" is no segment`,
		"https://shop.example/{service}":     "is no segment",
		"{service}..internal":                `"" is no segment`,
		"{service}.internal.":                `"" is no segment`,
	} {
		_, err := ServiceFromCertificate(text)
		require.ErrorContains(t, err, want, text)
	}
	_, err := ServiceFromCertificate()
	require.Error(t, err)
	_, err = PeerIs("{service}.internal")
	require.ErrorContains(t, err, "must not have {service}")
	_, err = PeerIs("spiffe://shop.example")
	require.ErrorContains(t, err, "must have a path")
}

func TestPeerIs(t *testing.T) {
	t.Parallel()
	rule, err := PeerIs("spiffe://shop.example/operators/*", "admin.internal")
	require.NoError(t, err)
	require.NoError(t, rule(shows(t, true, nil, "spiffe://shop.example/operators/ann")))
	require.NoError(t, rule(shows(t, true, []string{"Admin.internal"})))
	assert.Equal(t, codes.PermissionDenied, status.Code(rule(shows(t, true, []string{"basket.internal"}, "spiffe://shop.example/ns/prod"))))
	assert.Equal(t, codes.Unauthenticated, status.Code(rule(shows(t, false, []string{"admin.internal"}))))
	assert.Equal(t, codes.Unauthenticated, status.Code(rule(t.Context())))
	nobody, err := PeerIs()
	require.NoError(t, err)
	assert.Equal(t, codes.PermissionDenied, status.Code(nobody(shows(t, true, []string{"admin.internal"}))))
	assert.Equal(t, []string{"spiffe://shop.example/x", "a.internal"}, Identities(shows(t, true, []string{"a.internal"}, "spiffe://shop.example/x")))
	assert.Empty(t, Identities(shows(t, false, []string{"a.internal"})))
}
