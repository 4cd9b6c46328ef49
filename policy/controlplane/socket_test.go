package controlplane_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"flag"
	"fmt"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// listen serves srv over loopback TCP until the test ends, and returns its address.
func listen(t *testing.T, srv *controlplane.Server, opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := grpc.NewServer(append(controlplane.ServerOptions(), opts...)...)
	regov1.RegisterPolicyDiscoveryServiceServer(g, srv)
	regov1.RegisterFleetServiceServer(g, srv.Fleet())
	var serving sync.WaitGroup
	serving.Go(func() { assert.NoError(t, g.Serve(l)) })
	t.Cleanup(serving.Wait)
	t.Cleanup(g.Stop)
	return l.Addr().String()
}

// await waits until st has the version in force. How long that may take is go test's
// own business.
func await(st *policy.Store, version string) {
	for {
		changed := st.Changed()
		if st.Current().Version() == version {
			return
		}
		<-changed
	}
}

// authority issues certificates that are good for an hour.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	c := a.issue(t, "authority")
	a.cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

// issue returns a certificate for name; the first is the authority's own.
func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid = true, true
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, parent, &key.PublicKey, signer)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// TestMutualTLS: the channel takes any credentials; here both ends show certificates,
// and a client without one gets nothing.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	server := credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{a.issue(t, "control.example")},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: a.pool, MinVersion: tls.VersionTLS13,
	})
	source := newStore(t, set("1"))
	addr := listen(t, controlplane.NewServer(source, nil), grpc.Creds(server))
	watch := func(certs ...tls.Certificate) *policy.Store {
		st := new(policy.Store)
		w, err := controlplane.Watch(addr, payments, st, silent, controlplane.WithDialOptions(grpc.WithTransportCredentials(
			credentials.NewTLS(&tls.Config{Certificates: certs, RootCAs: a.pool, ServerName: "control.example", MinVersion: tls.VersionTLS13}))))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, w.Close()) })
		return st
	}
	st := watch(a.issue(t, "payments"))
	await(st, "1")
	require.NoError(t, source.Update(set("2")))
	await(st, "2")

	stranger := watch(newAuthority(t).issue(t, "payments"))
	for changed := stranger.Changed(); stranger.Status().Lost == nil; changed = stranger.Changed() {
		<-changed
	}
	assert.Equal(t, codes.Unavailable, status.Code(stranger.Status().Lost))
	assert.Empty(t, stranger.Current().Version())
}

var fleet = flag.Int("fleet", 100, "how many clients a set is pushed to")

// TestFleet pushes sets to many clients over loopback TCP, a connection each, and logs
// how long it takes until a set is in force in them.
func TestFleet(t *testing.T) {
	source := newStore(t, fleetSet("0"))
	addr := listen(t, controlplane.NewServer(source, nil))
	stores := make([]*policy.Store, *fleet)
	for i := range stores {
		stores[i] = new(policy.Store)
		w, err := controlplane.Watch(addr, controlplane.Node{Service: "fleet", Instance: fmt.Sprint(i)}, stores[i], silent,
			controlplane.WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials())))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, w.Close()) })
	}
	for _, st := range stores {
		await(st, "0")
	}
	var took []time.Duration
	for round := 1; round <= 10; round++ {
		version := fmt.Sprint(round)
		var mu sync.Mutex
		var waiting sync.WaitGroup
		start := time.Now()
		for _, st := range stores {
			waiting.Go(func() {
				await(st, version)
				d := time.Since(start)
				mu.Lock()
				defer mu.Unlock()
				took = append(took, d)
			})
		}
		require.NoError(t, source.Update(fleetSet(version)))
		waiting.Wait()
	}
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(time.Millisecond / 10) }
	t.Logf("%d clients, 10 sets of 100 rules: p50 %v, p99 %v, longest %v", *fleet, at(0.5), at(0.99), at(1))

	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	list := func() (current int) {
		r, err := regov1.NewFleetServiceClient(conn).ListClients(context.Background(), &regov1.ListClientsRequest{})
		require.NoError(t, err)
		for _, c := range r.GetClients() {
			if c.GetState() == regov1.ClientState_CLIENT_STATE_CURRENT && c.GetVersion() == "10" {
				current++
			}
		}
		return current
	}
	for list() < *fleet { // answers are on the way
		<-time.After(time.Millisecond)
	}
}

// fleetSet is what a company with a hundred rules has.
func fleetSet(version string) policy.Set {
	s := policy.Set{Version: version}
	for i := range 100 {
		s.Rules = append(s.Rules, policy.Rule{Methods: []string{fmt.Sprintf("/company.team%d.v1.Service/*", i)}, Policy: policy.Policy{
			Name: fmt.Sprint("team ", i), Timeout: 2 * time.Second, AttemptTimeout: time.Second,
			Retry: policy.Retry{MaxAttempts: 4, Codes: []codes.Code{codes.Unavailable, codes.Aborted}},
		}})
	}
	return s
}
