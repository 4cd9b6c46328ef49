package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

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
	assert.Equal(t, []any{"hedges_off is true", "added /shop.v1.Basket/*"}, line["changes"])
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
		`rego_server_policy_info{service="",standing="initial",version="built in"} 1`,
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

// TestAuditIsBounded: who is denied again and again does not fill a disk, and hides nobody else.
func TestAuditIsBounded(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	a := &audit{log: slog.New(slog.NewJSONHandler(&out, nil)), said: make(map[string]*repeated)}
	now := time.Now()
	deny := func(who, service string, at time.Time) {
		a.denied(controlplane.Denial{
			Time: at, Method: "m", Identities: []string{who}, Node: &regov1.Node{Service: service}, Err: status.Error(codes.PermissionDenied, "no"),
		})
	}
	for i := range 100_000 {
		deny("one", strconv.Itoa(i), now)
	}
	deny("two", "shop", now)
	assert.Equal(t, 2, bytes.Count(out.Bytes(), []byte("\n")))
	assert.Contains(t, out.String(), `"identities":["two"]`)
	out.Reset()
	deny("one", "shop", now.Add(repeatAfter))
	assert.Contains(t, out.String(), `"not_written_before":99999`)

	for i := range 5000 {
		deny(strconv.Itoa(i), "shop", now)
	}
	assert.LessOrEqual(t, len(a.said), maxRepeated+1)
	out.Reset()
	deny("last", "shop", now.Add(time.Hour))
	assert.Regexp(t, `"not_written_before":4\d\d\d`, out.String())
}

// TestChanges: switches and what was changed are named whatever else there is.
func TestChanges(t *testing.T) {
	t.Parallel()
	before := policy.Set{Rules: []policy.Rule{{Methods: []string{"/pay.v1.Pay/*", "/old.v1.Old/*"}}}}
	after := policy.Set{RetriesOff: true, Rules: []policy.Rule{{Methods: []string{"/pay.v1.Pay/*"}, Policy: policy.Policy{Timeout: time.Second}}}}
	for i := range 50 {
		after.Rules = append(after.Rules, policy.Rule{Methods: []string{fmt.Sprintf("/a.B/M%02d", i)}})
	}
	list := changesOf(before, after)
	assert.Equal(t, []string{"retries_off is true", "changed /pay.v1.Pay/*", "removed /old.v1.Old/*", "added /a.B/M00"}, list[:4])
	assert.Equal(t, "added 30 more", list[len(list)-1])
	assert.Empty(t, changesOf(before, before))
}
