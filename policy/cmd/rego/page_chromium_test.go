package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/chromium"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	"github.com/rego-go/rego/policy/etcd/etcdtest"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// did is what the calls of a method do in a second, in each client.
type did struct {
	method                 string
	calls, retries, hedges float64
	failed                 float64
	code                   codes.Code
	why                    string
	denied                 float64
}

// script returns totals that grow as it says, from now on.
func script(of ...did) func() []policy.MethodCounts {
	began := time.Now()
	return func() (all []policy.MethodCounts) {
		t := time.Since(began).Seconds()
		for _, d := range of {
			m := policy.MethodCounts{Method: d.method, Retries: int64(t * d.retries), Hedges: int64(t * d.hedges)}
			m.Ends = append(m.Ends, policy.EndCount{Code: codes.OK, Reason: "succeeded", Calls: int64(t * (d.calls - d.failed))})
			if d.failed > 0 {
				m.Ends = append(m.Ends, policy.EndCount{Code: d.code, Reason: d.why, Calls: int64(t * d.failed)})
			}
			if d.denied > 0 {
				m.Denials = append(m.Denials, policy.DenialCount{Kind: "retry", Reason: "budget-denied", Count: int64(t * d.denied)})
			}
			all = append(all, m)
		}
		return all
	}
}

// busyFleet is a control plane of two replicas, and the clients of some services.
type busyFleet struct {
	t        *testing.T
	replicas []*replica
	page     string // where it is
}

func newBusyFleet(t *testing.T) *busyFleet {
	t.Helper()
	cluster, err := etcdtest.Start(t.TempDir(), 1)
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &busyFleet{t: t, page: "http://" + l.Addr().String() + "/"}
	require.NoError(t, l.Close())
	f.replicas = []*replica{
		startReplica(t, "rego-0", "--etcd", cluster.Endpoints()[0], "--page", l.Addr().String()),
		startReplica(t, "rego-1", "--etcd", cluster.Endpoints()[0]),
	}
	return f
}

// put puts a set in force that allows so many attempts.
func (f *busyFleet) put(service, version, message string, attempts int, plan *regov1.RolloutPlan) {
	f.t.Helper()
	admin := f.replicas[0].admin()
	base, err := admin.GetPolicies(f.t.Context(), &regov1.GetPoliciesRequest{Service: service})
	if err != nil {
		base = nil // there is none yet
	}
	_, err = admin.PutPolicies(f.t.Context(), &regov1.PutPoliciesRequest{
		Service: service, Set: oneRule(version, policy.Policy{Retry: policy.Retry{MaxAttempts: attempts}}), Base: base.GetRevision().GetRevision(),
		Message: message, Rollout: plan,
	})
	require.NoError(f.t, err)
}

// client starts an instance of a service, which has the set of that version or a later one when it
// returns.
func (f *busyFleet) client(service string, i int, st *policy.Store, version string, counts func() []policy.MethodCounts) *controlplane.Watcher {
	f.t.Helper()
	node := controlplane.Node{
		Service: service, Instance: fmt.Sprintf("%s-7d9f8b6c4-%02d", service, i), Labels: map[string]string{"zone": string(rune('a' + i%3)), "build": "4711"},
	}
	w, err := controlplane.Watch(f.replicas[i%len(f.replicas)].addr, node, st, controlplane.WithReports(counts), controlplane.WithLogger(slog.New(slog.DiscardHandler)),
		controlplane.WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials())))
	require.NoError(f.t, err)
	f.t.Cleanup(func() { _ = w.Close() })
	wait(st, has(version))
	return w
}

func (f *busyFleet) clients(service string, n int, version string, of ...did) {
	f.t.Helper()
	for i := range n {
		f.client(service, i, new(policy.Store), version, script(of...))
	}
}

// begin has the fleet do what an operator may have to see.
func (f *busyFleet) begin() {
	f.t.Helper()
	f.put("", "2026-11-20", "the beginning", 2, nil)
	f.put("shop", "shop-31", "two attempts", 2, nil)
	f.put("search", "search-8", "", 4, nil)
	f.put("payments", "payments-14", "three attempts", 3, nil)

	f.clients("shop", 24, "shop-31",
		did{method: "/shop.v1.Basket/Add", calls: 12, retries: 0.1, failed: 0.02, code: codes.Unavailable, why: "attempts-exhausted"},
		did{method: "/shop.v1.Catalog/List", calls: 40, hedges: 0.8})
	f.clients("search", 8, "search-8", did{
		method: "/search.v1.Index/Query", calls: 25, retries: 21, failed: 6, code: codes.Unavailable, why: "attempts-exhausted", denied: 1.5,
	})
	f.clients("inventory", 6, "2026-11-20", did{
		method: "/inventory.v2.Stock/Reserve", calls: 9, retries: 0.4, failed: 0.9, code: codes.DeadlineExceeded, why: "budget-denied", denied: 0.9,
	})
	f.clients("mail", 3, "2026-11-20")
	pays := did{method: "/payments.v1.Ledger/Pay", calls: 3, failed: 0.03, code: codes.FailedPrecondition, why: "non-retryable"}
	f.clients("payments", 3, "payments-14", pays)
	limited := new(policy.Store)
	require.NoError(f.t, limited.Guard(policy.Limits{MaxAttempts: 3}.Check))
	f.client("payments", 3, limited, "payments-14", script(pays))

	own := new(policy.Store)
	_, err := interceptor.New(interceptor.WithPolicies(own), interceptor.WithRules(policy.Rule{Methods: []string{"/inventory.v2.Stock/*"}}),
		interceptor.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(f.t, err)
	f.client("inventory", 6, own, "2026-11-20", nil)
	require.NoError(f.t, f.client("mail", 3, new(policy.Store), "2026-11-20", nil).Close())

	f.put("payments", "payments-15", "five attempts", 5, nil)
	plan := &regov1.RolloutPlan{Steps: []float64{0.25, 0.5}, Bake: durationpb.New(10 * time.Minute), MinCalls: 50_000}
	f.put("search", "search-9", "no retries", 1, plan)
	_, err = f.replicas[0].admin().RollBackPolicies(f.t.Context(), &regov1.RollBackPoliciesRequest{Service: "search", Message: "not during the sale"})
	require.NoError(f.t, err)
	f.put("shop", "shop-32", "three attempts for the basket", 3, plan)
}

// until waits until the page says that there is enough to see.
func (f *busyFleet) until(seconds float64) {
	f.t.Helper()
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	for range look.C {
		var got struct {
			Traffic struct {
				Over      float64 `json:"over_seconds"`
				Reporting int     `json:"reporting"`
			} `json:"traffic"`
			Services []struct {
				Rollout *struct {
					Canary struct{ Calls float64 } `json:"canary"`
				} `json:"rollout"`
			} `json:"services"`
			Summary struct {
				Counts []struct{ State string } `json:"counts"`
			} `json:"summary"`
		}
		f.get("?format=json", &got)
		judged, refused := false, false
		for _, s := range got.Services {
			judged = judged || s.Rollout != nil && s.Rollout.Canary.Calls > 0
		}
		for _, c := range got.Summary.Counts {
			refused = refused || c.State == "CLIENT_STATE_REFUSED"
		}
		if got.Traffic.Over >= seconds && judged && refused {
			return
		}
	}
}

// get asks for a page, and takes it as JSON unless v is nil.
func (f *busyFleet) get(at string, v any) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.page+at, nil)
	require.NoError(f.t, err)
	w, err := http.DefaultClient.Do(r)
	require.NoError(f.t, err)
	defer w.Body.Close()
	require.Equal(f.t, http.StatusOK, w.StatusCode)
	if v != nil {
		require.NoError(f.t, json.NewDecoder(w.Body).Decode(v))
	}
}

// TestInChromium loads the pages of a busy fleet, narrow and wide, light and dark. With REGO_SCREENSHOTS,
// pictures of all go into that folder, and with REGO_PICTURES those of the documentation into that.
func TestInChromium(t *testing.T) {
	b := chromium.New(t)
	f := newBusyFleet(t)
	f.begin()
	f.until(20)
	b.Deadline(2 * time.Minute)
	b.Look("fleet", f.page)
	b.Look("clients", f.page+"clients")
	b.Look("refused", f.page+clientsURL("payments", "refused", ""))
	b.Look("disconnected", f.page+clientsURL("", "disconnected", ""))
	if folder := os.Getenv("REGO_PICTURES"); folder != "" {
		const width = 1280
		for name, at := range map[string]string{"fleet-overview": "", "fleet-clients": clientsURL("payments", "", "")} {
			b.Load(f.page+at, width, "light")
			var height int
			b.Evaluate(`Math.ceil(document.querySelector("main").getBoundingClientRect().bottom)`, &height)
			require.NoError(t, os.WriteFile(filepath.Join(folder, name+".png"), b.Screenshot(width, height), 0o644)) //nolint:gosec // a picture for all
		}
	}
	var links []string
	b.Load(f.page, 1600, "light")
	b.Evaluate(`Array.from(document.querySelectorAll("a"), a => a.href)`, &links)
	assert.Greater(t, len(links), 20)
	for _, at := range links {
		assert.Contains(t, at, f.page)
		f.get(strings.TrimPrefix(at, f.page), nil)
	}
}
