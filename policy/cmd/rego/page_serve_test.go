package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// fetch asks the page of a server.
func (s *running) fetch(at string) (code int, body string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.page+at, nil)
	require.NoError(s.t, err)
	w, err := http.DefaultClient.Do(r)
	require.NoError(s.t, err)
	defer w.Body.Close()
	text, err := io.ReadAll(w.Body)
	require.NoError(s.t, err)
	return w.StatusCode, string(text)
}

// TestPageAgrees: the numbers of the page are those of the services.
func TestPageAgrees(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policies.yaml")
	put(t, path, "version: '1'\n")
	s := serving(t, "--file", path, "--page", "127.0.0.1:0", "--report-every", "1s")
	var calls atomic.Int64
	for i := range 12 {
		st := new(policy.Store)
		w, err := controlplane.Watch(s.addr, controlplane.Node{Service: fmt.Sprint("shop-", i%3), Instance: fmt.Sprint(i)}, st,
			controlplane.WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials())), controlplane.WithLogger(slog.New(slog.DiscardHandler)),
			controlplane.WithReports(func() []policy.MethodCounts {
				n := calls.Add(100)
				return []policy.MethodCounts{{Method: "/shop.v1.Basket/Add", Retries: n / 2, Hedges: n / 4, Ends: []policy.EndCount{
					{Code: codes.OK, Reason: "succeeded", Calls: n}, {Code: codes.Unavailable, Reason: "attempts-exhausted", Calls: n / 10},
					{Code: codes.Canceled, Reason: "caller-cancelled", Calls: n / 10},
				}, Denials: []policy.DenialCount{{Kind: "retry", Reason: "budget-denied", Count: n / 50}}}}
			}))
		require.NoError(t, err)
		t.Cleanup(func() { _ = w.Close() })
		wait(st, has("1"))
	}
	put(t, path, "nonsense: '2'\n")
	s.until("rego: audit", "event", "refused")
	conn := s.dial(insecure.NewCredentials())
	fleet, admin := regov1.NewFleetServiceClient(conn), regov1.NewPolicyAdminServiceClient(conn)
	type told struct {
		Server, Summary object
		Traffic         traffic
		Services        []object
	}
	ask := func() told {
		state, err := fleet.GetServerState(t.Context(), new(regov1.GetServerStateRequest))
		require.NoError(t, err)
		sum, err := fleet.SummarizeClients(t.Context(), new(regov1.SummarizeClientsRequest))
		require.NoError(t, err)
		calls, err := fleet.ListTraffic(t.Context(), new(regov1.ListTrafficRequest))
		require.NoError(t, err)
		services, err := admin.ListServices(t.Context(), new(regov1.ListServicesRequest))
		require.NoError(t, err)
		of := told{Server: objectOf(state), Summary: objectOf(sum), Traffic: traffic{0, calls.GetReporting(), calls.GetLeftOut(), rowsOf(calls)}}
		sortRows(of.Traffic.Methods, "trouble")
		for _, m := range services.GetServices() {
			of.Services = append(of.Services, objectOf(m))
		}
		return of
	}
	timeless := func(v any) string { // what changes while nothing happens
		b, err := json.Marshal(v)
		require.NoError(t, err)
		var of struct {
			Server            map[string]any
			Summary, Services any
			Traffic           map[string]any
		}
		require.NoError(t, json.Unmarshal(b, &of))
		for _, st := range of.Server["stores"].([]any) {
			st.(map[string]any)["age"] = nil
		}
		of.Traffic["over_seconds"] = 0
		if of.Services == nil {
			of.Services = []any{}
		}
		b, err = json.MarshalIndent(of, "", " ")
		require.NoError(t, err)
		return string(b)
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for range look.C { // reports come in between now and then
		before := timeless(ask())
		code, body := s.fetch("/?format=json")
		require.Equal(t, http.StatusOK, code)
		if after := timeless(ask()); before != after || !strings.Contains(before, "attempts-exhausted") {
			continue
		}
		assert.JSONEq(t, before, timeless(json.RawMessage(body)))
		break
	}
	_, page := s.fetch("/")
	assert.Contains(t, wordsOf(page), "Refused what came then: nonsense: unknown field")

	m, err := fleet.ListClients(t.Context(), &regov1.ListClientsRequest{Service: "shop-1"})
	require.NoError(t, err)
	var want []any
	for _, c := range m.GetClients() {
		b, err := json.Marshal(objectOf(c))
		require.NoError(t, err)
		var o any
		require.NoError(t, json.Unmarshal(b, &o))
		want = append(want, o)
	}
	var got struct{ Clients []any }
	_, body := s.fetch("/clients?service=shop-1&format=json")
	require.NoError(t, json.Unmarshal([]byte(body), &got))
	assert.Equal(t, want, got.Clients)
	assert.Len(t, got.Clients, 4)
}

// TestPageHasRights: what certificates may does not matter to the page, and it is no denial.
func TestPageHasRights(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	audited := filepath.Join(t.TempDir(), "audit.jsonl")
	s := serving(t, append(a.server(), "--clients", "spiffe://shop.example/sa/{service}", "--audit", audited, "--page", "localhost:0")...)
	wait(s.client("shop", a.client("spiffe://shop.example/sa/shop")), has("built in"))
	code, body := s.fetch("/")
	assert.Equal(t, http.StatusOK, code)
	assert.Contains(t, body, ">shop</a>")
	assert.NotContains(t, body, "cannot be told")
	code, body = s.fetch("/clients")
	assert.Equal(t, http.StatusOK, code)
	assert.Contains(t, body, "built in")
	text, err := os.ReadFile(audited)
	require.NoError(t, err)
	assert.NotContains(t, string(text), "denied")
}

// TestPagesOfClients: every client of a state is on one page, and on one alone.
func TestPagesOfClients(t *testing.T) {
	t.Parallel()
	const all = 11_000
	s := stubFleet(t, "shop")
	s.clients = func(r *regov1.ListClientsRequest) *regov1.ListClientsResponse {
		var at int
		_, _ = fmt.Sscan(r.GetPageToken(), &at)
		m := new(regov1.ListClientsResponse)
		for ; at < all && len(m.GetClients()) < int(r.GetPageSize()); at++ {
			m.Clients = append(m.Clients, &regov1.Client{Node: &regov1.Node{Service: "shop", Instance: fmt.Sprint(at)}, Canary: at%97 == 0})
		}
		if at < all {
			m.NextPageToken = fmt.Sprint(at)
		}
		return m
	}
	p := newPages(s, s, nil)
	for _, r := range []struct {
		state string
		want  int
		pages int
	}{{"", all, 55}, {"canary", 114, 2}, {"refused", 0, 2}} {
		var seen []string
		next, pages := "", 0
		for ok := true; ok; ok = next != "" {
			page := seenJSON(t, p, "/"+clientsURL("shop", r.state, next)+"&format=json")
			for _, c := range page["clients"].([]any) {
				seen = append(seen, c.(map[string]any)["node"].(map[string]any)["instance"].(string))
			}
			next, _ = page["next"].(string)
			pages++
		}
		assert.Len(t, seen, r.want, r.state)
		slices.Sort(seen)
		assert.Len(t, slices.Compact(seen), r.want, r.state)
		assert.Equal(t, r.pages, pages, r.state)
	}
}

// TestPageOfRollouts: evidence and shares that make no sense stay within their scales.
func TestPageOfRollouts(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		failed, extra, share float64
		weight, width        int
	}{
		{0, 0, 0, 0, 0},
		{0.5, 0.5, 0.05, 0, 50},
		{5, 5, 0.5, 500, 500},
		{99, 1, 1, 1000, 1000},
		{1e300, 1e300, 2, 1000, 1000},
		{-1, -1, -1, 0, 0},
	} {
		ro := proto.CloneOf(trying("shop", regov1.RolloutState_ROLLOUT_STATE_BAKING))
		ro.FailedEvidence, ro.ExtraEvidence, ro.Share = r.failed, r.extra, r.share
		v := viewOf(&regov1.ServicePolicies{Rollout: ro}, time.Now())
		assert.Equal(t, r.weight, v.Weight(), "%+v", r)
		assert.Equal(t, r.width, v.Width(), "%+v", r)
	}
}
