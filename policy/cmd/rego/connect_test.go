package main

import (
	"log/slog"
	"net"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	"github.com/rego-go/rego/policy/repository"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// controlled is a control plane in this process, behind a port.
type controlled struct {
	addr string
	repo *repository.Repository
}

// limited refuses sets with more than 9 attempts, as the limits of an owner would.
func limited(_ string, t *policy.Table) error {
	for i, r := range t.Set().Rules {
		if n := r.Policy.Retry.MaxAttempts; n > 9 {
			return policy.Faults{{Path: "rules[" + string(rune('0'+i)) + "].policy.retry.max_attempts", Text: "must be at most 9"}}
		}
	}
	return nil
}

// control starts a control plane without policies.
func control(t *testing.T, opts ...controlplane.ServeOption) *controlled {
	t.Helper()
	repo := repository.New(repository.Memory(), limited)
	r, err := controlplane.NewReplica(repo, "test", append(opts, controlplane.LogTo(slog.New(slog.DiscardHandler)))...)
	require.NoError(t, err)
	g := grpc.NewServer(controlplane.ServerOptions()...)
	regov1.RegisterPolicyDiscoveryServiceServer(g, r)
	regov1.RegisterFleetServiceServer(g, r.Fleet())
	regov1.RegisterPolicyAdminServiceServer(g, r.Admin())
	t.Cleanup(func() { _ = r.Close() })
	return &controlled{addr: listening(t, g), repo: repo}
}

// listening serves g at a port of this machine until the test ends.
func listening(t *testing.T, g *grpc.Server) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = g.Serve(l) }() // until it is stopped
	t.Cleanup(g.Stop)
	return l.Addr().String()
}

// call runs a command against the server.
func (c *controlled) call(stdin string, args ...string) (code int, stdout, stderr string) {
	return call(stdin, append(args, "--server", c.addr)...)
}

// ok runs a command that has to end well.
func (c *controlled) ok(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	code, out, errs := c.call(stdin, args...)
	require.Equal(t, exitOK, code, "%q: %s%s", args, out, errs)
	return out
}

// client starts a client of a service, and returns once it has answered for the first time.
func (c *controlled) client(t *testing.T, service, instance string) *policy.Store {
	t.Helper()
	st := new(policy.Store)
	w, err := controlplane.Watch(c.addr, controlplane.Node{Service: service, Instance: instance}, st,
		controlplane.WithLogger(slog.New(slog.DiscardHandler)), controlplane.WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials())))
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.Close() })
	return st
}

// arrives waits until a client has a version in force.
func arrives(t *testing.T, st *policy.Store, version string) {
	t.Helper()
	for {
		next := st.Changed()
		if st.Current().Set().Version == version {
			return
		}
		select {
		case <-next:
		case <-t.Context().Done():
			require.Fail(t, "it has ended", "version %q", version)
		}
	}
}

// plain replaces what is another one in each run: times, addresses and ports.
func plain(text string) string {
	text = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ`).ReplaceAllString(text, "2026-01-02 03:04:05Z")
	return regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllString(text, "127.0.0.1:12345")
}

// TestTLS: what the flags about TLS do, and what is said if they are missing.
func TestTLS(t *testing.T) {
	const operator = "spiffe://shop.example/operators/alice"
	a := newAuthority(t)
	s := serving(t, append(a.server(), "--clients", "spiffe://shop.example/ns/*/sa/{service}", "--operators", operator)...)
	plain := control(t)
	a.client(operator)
	var ca, name = []string{"--ca", a.path("ca")}, []string{"--server-name", "localhost"}
	cert := []string{"--cert", a.path("client"), "--key", a.path("client-key")}
	for _, r := range []struct {
		why  string
		addr string
		args []string
		code int
		want string
	}{
		{"all of them", s.addr, slices.Concat(ca, name, cert), exitOK, "0 clients"},
		{"no TLS", s.addr, nil, exitUsage, "if it has TLS, --ca says whose certificate it has"},
		{"no certificate", s.addr, slices.Concat(ca, name), exitUsage, "if it asks for a certificate, --cert and --key show one"},
		{"no authority", s.addr, slices.Concat(name, cert), exitUsage, "--ca says whose certificate it has"},
		{"no name", s.addr, slices.Concat(ca, cert), exitUsage, "--server-name says which name it has"},
		{"TLS without need", plain.addr, slices.Concat(ca, name, cert), exitUsage, "if it has no TLS, --plaintext asks without"},
		{"neither", plain.addr, nil, exitOK, "0 clients"},
		{"plaintext", plain.addr, []string{"--plaintext"}, exitOK, "0 clients"},
	} {
		code, out, errs := call("", append([]string{"clients", "--server", r.addr}, r.args...)...)
		assert.Equal(t, r.code, code, r.why+": "+out+errs)
		assert.Contains(t, out+errs, r.want, r.why)
	}

	t.Setenv("REGO_SERVER", s.addr)
	t.Setenv("REGO_CA", a.path("ca"))
	t.Setenv("REGO_CERT", a.path("client"))
	t.Setenv("REGO_KEY", a.path("client-key"))
	code, out, errs := call("", "clients", "--server-name", "localhost")
	assert.Equal(t, exitOK, code, out+errs)
	code, out, errs = call("", "clients", "--plaintext", "--server", plain.addr)
	assert.Equal(t, exitOK, code, out+errs)
	code, _, errs = call("", "clients", "--server-name", "localhost", "--ca", a.path("none"))
	assert.Equal(t, exitUsage, code, "a flag is stronger")
	assert.Contains(t, errs, "no such file")
}

const basket = `version: "1"
rules:
  - methods: [/shop.v1.Basket/*]
    policy: {retry: {max_attempts: 3}}
`
