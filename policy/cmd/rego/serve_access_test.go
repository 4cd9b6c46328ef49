package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name+".pem") }

// sign writes a certificate and its key.
func (a *authority) sign(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	by, with := a.cert, a.key
	if by == nil {
		by, with = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), with)
	require.NoError(a.t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(a.t, err)
	require.NoError(a.t, os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(a.t, os.WriteFile(a.path(name+"-key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	c, err = x509.ParseCertificate(der)
	require.NoError(a.t, err)
	return c, key
}

// server writes a certificate for this machine and returns the flags of the server.
func (a *authority) server() []string {
	a.sign("server", &x509.Certificate{DNSNames: []string{"localhost"}})
	return []string{"--cert", a.path("server"), "--key", a.path("server-key"), "--client-ca", a.path("ca")}
}

// client returns the credentials of somebody with a SPIFFE ID; without one if it is empty.
func (a *authority) client(id string) credentials.TransportCredentials {
	a.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	c := &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	if id != "" {
		u, err := url.Parse(id)
		require.NoError(a.t, err)
		a.sign("client", &x509.Certificate{URIs: []*url.URL{u}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		pair, err := tls.LoadX509KeyPair(a.path("client"), a.path("client-key"))
		require.NoError(a.t, err)
		c.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(c)
}

// TestServeRights: a certificate says who may read what, and who may list.
func TestServeRights(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	audited := filepath.Join(t.TempDir(), "audit.jsonl")
	s := serving(t, append(a.server(), "--clients", "spiffe://shop.example/sa/{service}", "--operators", "spiffe://shop.example/sa/oncall",
		"--audit", audited)...)
	shop := a.client("spiffe://shop.example/sa/shop")
	wait(s.client("shop", shop), has("built in"))

	impostor := s.client("payments", shop)
	lost := wait(impostor, func(s policy.Status) bool { return s.Lost != nil }).Lost
	assert.Equal(t, codes.PermissionDenied, status.Code(lost), lost)
	nobody := s.client("shop", a.client(""))
	lost = wait(nobody, func(s policy.Status) bool { return s.Lost != nil }).Lost
	assert.Equal(t, codes.Unavailable, status.Code(lost), "there is no connection without a certificate")

	list := func(creds credentials.TransportCredentials) ([]*regov1.Client, error) {
		r, err := regov1.NewFleetServiceClient(s.dial(creds)).ListClients(t.Context(), new(regov1.ListClientsRequest))
		return r.GetClients(), err
	}
	clients, err := list(a.client("spiffe://shop.example/sa/oncall"))
	require.NoError(t, err)
	assert.Len(t, clients, 1)
	_, err = list(shop)
	assert.Equal(t, codes.PermissionDenied, status.Code(err))

	text, err := os.ReadFile(audited)
	require.NoError(t, err)
	var denied []map[string]any
	for line := range bytes.Lines(text) {
		var m map[string]any
		require.NoError(t, json.Unmarshal(line, &m))
		if m["event"] == "denied" {
			denied = append(denied, m)
		}
	}
	require.Len(t, denied, 2, "%s", text)
	assert.Contains(t, string(text), `"event":"no-handshake"`, "who has no certificate leaves a trace, too")
	assert.Equal(t, "payments", denied[0]["service"])
	assert.Equal(t, []any{"spiffe://shop.example/sa/shop"}, denied[0]["identities"])
	assert.Contains(t, denied[0]["why"], `is not that of service "payments"`)
	assert.Equal(t, regov1.FleetService_ListClients_FullMethodName, denied[1]["method"])
}

// TestServeRefuses what would leave a door open.
func TestServeRefuses(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	tlsFlags := strings.Join(a.server()[:4], " ")
	all := strings.Join(a.server(), " ")
	for args, want := range map[string]string{
		"--addr :0":                      "an address that others can reach needs --cert and --key, or --insecure",
		"--addr 0.0.0.0:0":               "an address that others can reach needs --cert and --key, or --insecure",
		"--cert x":                       "--cert and --key belong together",
		"--client-ca x":                  "--client-ca needs --cert and --key",
		"--clients spiffe://a/{service}": "go by certificates, which --client-ca asks for",
		tlsFlags + " --operators a.b":    "go by certificates, which --client-ca asks for",
		all:                              "--client-ca needs --clients, which says what service a certificate is",
		all + " --clients spiffe://a/b":  "must have {service} for one segment",
		all + " --clients {service}.b --operators {service}": "must not have {service}",
		"--cert missing.pem --key missing":                   "no such file",
		"--limits missing.yaml":                              "no such file",
		"--file policies.txt":                                "is none of .json",
		"--log loud":                                         "--log must be text or json",
		"--addr nowhere":                                     "--addr must be HOST:PORT",
		"--report-every -1s":                                 "--report-every must not be negative",
		"--etcd nonsense":                                    "--etcd must be HOST:PORT",
		"--etcd-prefix /x/":                                  "flags that begin with --etcd- need --etcd",
		"--max-clients 0":                                    "--max-clients must be at least 1",
		"--service =x.yaml":                                  "--service must be NAME=FILE",
		"--service shop=":                                    "--service must be NAME=FILE",
		"extra":                                              "unknown command",
	} {
		code, _, errs := call("", append([]string{"serve"}, strings.Fields(args)...)...)
		assert.NotEqual(t, exitOK, code, args)
		assert.Contains(t, errs, want, args)
	}
}
