package main

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"testing"

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

// temporary writes a file of policies.
func temporary(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policies.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

const basket = `version: "1"
rules:
  - methods: [/shop.v1.Basket/*]
    policy: {retry: {max_attempts: 3}}
`
