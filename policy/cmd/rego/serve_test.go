package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// running is a server that a test has started.
type running struct {
	t    *testing.T
	logs chan map[string]any // the lines of its log
	addr string
	http string // where metrics are
	page string // where the page is
	stop context.CancelFunc
	code chan int
}

// serving starts the command and returns once it serves.
func serving(t *testing.T, args ...string) *running {
	t.Helper()
	r, w := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	s := &running{t: t, logs: make(chan map[string]any, 1000), stop: stop, code: make(chan int, 1)}
	go func() {
		root := newRootCommand(&streams{strings.NewReader(""), printer{io.Discard}, printer{w}})
		root.SetArgs(append([]string{"serve", "--addr", "127.0.0.1:0", "--log", "json"}, args...))
		if err := root.ExecuteContext(ctx); err != nil {
			_, _ = io.WriteString(w, `{"msg":"`+strings.ReplaceAll(err.Error(), `"`, `'`)+`","ended":true}`+"\n")
			s.code <- exitUsage
		} else {
			s.code <- exitOK
		}
		_ = w.Close()
	}()
	go func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			var line map[string]any
			if json.Unmarshal(lines.Bytes(), &line) == nil {
				s.logs <- line
			}
		}
		close(s.logs)
	}()
	t.Cleanup(func() {
		stop()
		for range s.logs { // until it has ended
		}
	})
	line := s.until("rego: serving policies")
	s.addr, _ = line["addr"].(string)
	s.http, _ = line["metrics"].(string)
	s.page, _ = line["page"].(string)
	return s
}

// until returns the next line of the log that says this.
func (s *running) until(msg string, with ...string) map[string]any {
	s.t.Helper()
next:
	for line := range s.logs {
		if line["ended"] != nil {
			require.Fail(s.t, "it ended", "%v", line)
		}
		if line["msg"] != msg {
			continue
		}
		for i := 0; i+1 < len(with); i += 2 {
			if line[with[i]] != with[i+1] {
				continue next
			}
		}
		return line
	}
	require.Fail(s.t, "the log has no "+msg)
	return nil
}

func (s *running) dial(creds credentials.TransportCredentials) *grpc.ClientConn {
	s.t.Helper()
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(creds))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// client watches the server with a store.
func (s *running) client(service string, creds credentials.TransportCredentials) *policy.Store {
	s.t.Helper()
	st := new(policy.Store)
	w, err := controlplane.Watch(s.addr, controlplane.Node{Service: service, Instance: "1"}, st,
		controlplane.WithDialOptions(grpc.WithTransportCredentials(creds)), controlplane.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = w.Close() })
	return st
}

// wait waits until the status of a store is as it should be.
func wait(st *policy.Store, ok func(policy.Status) bool) policy.Status {
	for {
		changed := st.Changed()
		if s := st.Status(); ok(s) {
			return s
		}
		<-changed
	}
}

func has(version string) func(policy.Status) bool {
	return func(s policy.Status) bool { return s.Version == version && s.State() == policy.StateCurrent }
}

func put(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// TestServe starts without flags on what is built in, and serves a file and its changes.
func TestServe(t *testing.T) {
	t.Parallel()
	s := serving(t)
	wait(s.client("shop", insecure.NewCredentials()), has("built in"))

	path := filepath.Join(t.TempDir(), "policies.yaml")
	own := filepath.Join(t.TempDir(), "payments.yaml")
	put(t, path, "version: '1'\n")
	put(t, own, "version: p1\n")
	s = serving(t, "--file", path, "--service", "payments="+own)
	shop, payments := s.client("shop", insecure.NewCredentials()), s.client("payments", insecure.NewCredentials())
	wait(shop, has("1"))
	wait(payments, has("p1"))
	put(t, path, "version: '2'\nrules: [{methods: [/shop.v1.Basket/*]}]\nhedges_off: true\n")
	wait(shop, has("2"))
	assert.Equal(t, "p1", payments.Current().Version())
	line := s.until("rego: audit", "event", "changed")
	assert.Equal(t, "file "+path, line["source"])
	assert.Equal(t, []any{`version "1" -> "2"; hedges_off false -> true`, "/shop.v1.Basket/*: added: the default policy"}, line["changes"])
	before, _ := line["before"].(map[string]any)
	after, _ := line["after"].(map[string]any)
	assert.Equal(t, "1", before["version"])
	assert.Equal(t, "2", after["version"])
	assert.NotEqual(t, before["sha256"], after["sha256"])

	put(t, path, "version: '3'\ntimeout: 1s\n")
	line = s.until("rego: audit", "event", "refused")
	assert.Equal(t, []any{"2:1: timeout: unknown field, must be one of version, epoch, revision, retries_off, hedges_off, budgets, rules"}, line["faults"])
	assert.Equal(t, "2", shop.Current().Version())

	fleet := regov1.NewFleetServiceClient(s.dial(insecure.NewCredentials()))
	state, err := fleet.GetServerState(t.Context(), new(regov1.GetServerStateRequest))
	require.NoError(t, err)
	assert.Equal(t, regov1.Standing_STANDING_REFUSED, state.GetStores()[0].GetStanding())
	assert.Equal(t, "payments", state.GetStores()[1].GetService())
	assert.Equal(t, uint64(2), state.GetClients())
}

// TestServeEnds: a server with clients ends within seconds of being told, with exit code 0.
func TestServeEnds(t *testing.T) {
	t.Parallel()
	s := serving(t)
	st := s.client("shop", insecure.NewCredentials())
	wait(st, has("built in"))
	s.stop()
	assert.Equal(t, exitOK, <-s.code)
	wait(st, func(s policy.Status) bool { return s.State() == policy.StateStale })
}

// TestServeLimits: a set beyond the limits is refused by the server already, with reasons.
func TestServeLimits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, limits := filepath.Join(dir, "policies.yaml"), filepath.Join(dir, "limits.yaml")
	put(t, limits, "max_attempts: 3\n")
	put(t, path, "rules: [{methods: ['*'], policy: {retry: {max_attempts: 9}}}]\n")
	s := serving(t, "--file", path, "--limits", limits)
	s.until("rego: audit", "event", "refused")
	health := healthv1.NewHealthClient(s.dial(insecure.NewCredentials()))
	r, err := health.Check(t.Context(), new(healthv1.HealthCheckRequest))
	require.NoError(t, err)
	assert.Equal(t, healthv1.HealthCheckResponse_NOT_SERVING, r.GetStatus(), "it has no policies yet")
	watch, err := health.Watch(t.Context(), new(healthv1.HealthCheckRequest))
	require.NoError(t, err)

	put(t, path, "version: '2'\n")
	for r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		r, err = watch.Recv()
		require.NoError(t, err)
	}
	put(t, path, "version: '3'\nrules: [{methods: ['*'], policy: {retry: {max_attempts: 9}}}]\n")
	line := s.until("rego: audit", "event", "refused", "version", "3")
	assert.Equal(t, []any{"rules[0].policy.retry.max_attempts: must not exceed the limit 3, got 9"}, line["faults"])
}

// TestServeIsSeen by Prometheus, and by whoever asks what services there are.
func TestServeIsSeen(t *testing.T) {
	t.Parallel()
	s := serving(t, "--metrics", "127.0.0.1:0")
	wait(s.client("shop", insecure.NewCredentials()), has("built in"))
	get := func() string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.http+"/metrics", nil)
		require.NoError(t, err)
		r, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		return string(text)
	}
	text := get()
	for _, want := range []string{
		`rego_server_clients{service="shop",state="`,
		`rego_server_policy_info{service="",standing="current",version="built in"} 1`,
		`rego_server_policy_age_seconds{service=""} 0`,
		`rego_server_policy_revision{service=""} 0`,
		`rego_server_policy_refusals_total{service=""} 0`,
		`rego_server_clients_warned{service="shop"} 0`,
	} {
		assert.Contains(t, text, want)
	}

	services, err := reflectionv1.NewServerReflectionClient(s.dial(insecure.NewCredentials())).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	require.NoError(t, services.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}))
	r, err := services.Recv()
	require.NoError(t, err)
	var names []string
	for _, service := range r.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	assert.Subset(t, names, []string{"rego.v1.PolicyDiscoveryService", "rego.v1.FleetService", "grpc.health.v1.Health"})
}
