package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
)

var update = flag.Bool("update", false, "write docs/grafana.json")

const (
	dashboardFile = "../../docs/grafana.json"
	alertsFile    = "../../docs/alerts.yml"
)

// scrape returns what Prometheus would read.
func scrape(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	require.NoError(t, err)
	return families
}

// total sums up the counters of a family whose labels have these values.
func total(f *dto.MetricFamily, labels ...string) (sum float64) {
	for _, m := range f.GetMetric() {
		has := make(map[string]bool)
		for _, l := range m.GetLabel() {
			has[l.GetName()+"="+l.GetValue()] = true
		}
		matches := true
		for _, l := range labels {
			matches = matches && has[l]
		}
		if matches {
			sum += m.GetCounter().GetValue()
		}
	}
	return sum
}

// TestScrape: what Prometheus reads over HTTP is what the interceptor has counted, and has
// every metric that the dashboard and the alerts ask for.
func TestScrape(t *testing.T) {
	load, handler, err := instrumented()
	require.NoError(t, err)
	defer load.Close()
	srv := httptest.NewServer(handler)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() { // until there was a retry and a hedge
		for range time.Tick(100 * time.Millisecond) {
			if ctx.Err() != nil || extra(load.Interceptor, budget.Retry) > 0 && extra(load.Interceptor, budget.Hedge) > 0 {
				cancel()
				return
			}
		}
	}()
	made := load.Run(ctx)
	families := scrape(t, srv.URL+"/metrics")
	assert.InDelta(t, made, total(families["rego_client_calls_total"]), 0)

	state := load.Interceptor.State()
	require.Len(t, state.Targets, 2)
	for _, target := range state.Targets {
		for _, m := range target.Methods {
			calls, attempts := m.Total()
			of := []string{"grpc_target=" + target.Name, "grpc_method=" + strings.TrimPrefix(m.Method, "/")}
			assert.InDelta(t, calls, total(families["rego_client_calls_total"], of...), 0)
			assert.InDelta(t, attempts, total(families["rego_client_attempts_total"], of...), 0)
			for _, c := range m.Calls {
				if c.Reason == interceptor.EndNotIdempotent {
					assert.InDelta(t, c.Count, total(families["rego_client_calls_total"], append(of, "rego_end_reason=not-idempotent")...), 0)
				}
			}
		}
	}
	assert.Positive(t, total(families["rego_client_attempts_total"], "rego_attempt_kind=retry"))
	assert.Positive(t, total(families["rego_client_attempts_total"], "rego_attempt_kind=hedge"))

	for _, file := range []string{dashboardFile, alertsFile} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, name := range regexp.MustCompile(`\b(rego|rpc|grpc)_[a-z_]+\b`).FindAllString(string(text), -1) {
			if !isLabel(families, name) {
				assert.Contains(t, families, strings.TrimSuffix(name, "_bucket"), "%s: %s", file, name)
			}
		}
	}
}

// extra returns how many attempts of a kind there were.
func extra(it *interceptor.Interceptor, k budget.Kind) (n int64) {
	for _, target := range it.Counters().Targets {
		for _, m := range target.Methods {
			for _, a := range m.Attempts {
				if a.Kind == k {
					n += a.Count
				}
			}
		}
	}
	return n
}

// isLabel reports whether a name is that of a label.
func isLabel(families map[string]*dto.MetricFamily, name string) bool {
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == name {
					return true
				}
			}
		}
	}
	return false
}

// TestDashboard: docs/grafana.json is what the panels say.
// TestScrapeOfMadeUpNames: a method that nobody has, under a name that is no text, neither ends a
// scrape nor is in it.
func TestScrapeOfMadeUpNames(t *testing.T) {
	load, handler, err := instrumented()
	require.NoError(t, err)
	defer load.Close()
	srv := httptest.NewServer(handler)
	defer srv.Close()
	for _, stub := range [][]grpc.CallOption{nil, {grpc.StaticMethod()}} {
		name := fmt.Sprintf("/made.up.%d/\xff\xfe", len(stub))
		err := load.Interceptor.Unary()(t.Context(), name, nil, nil, nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil },
			stub...)
		require.NoError(t, err)
	}
	text := fmt.Sprint(scrape(t, srv.URL+"/metrics"))
	assert.NotContains(t, text, "made.up.0")
	assert.Contains(t, text, "made.up.1/\ufffd")
}

func TestDashboard(t *testing.T) {
	want, err := dashboard()
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile(dashboardFile, want, 0o644))
	}
	have, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	assert.Equal(t, string(want), string(have), "go test ./metrics -update writes it")
}

// TestAlerts: promtool takes the rules for alerts, and they fire when they should.
func TestAlerts(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil && os.Getenv("REGO_PROMTOOL") == "" {
		t.Skip("there is no promtool, which Debian has in its package prometheus")
	}
	require.NoError(t, err)
	for _, args := range [][]string{{"check", "rules", alertsFile}, {"test", "rules", "testdata/alerts_test.yml"}} {
		out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

func TestRun(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var out bytes.Buffer
	require.NoError(t, run(ctx, &out, "127.0.0.1:0"))
	assert.Regexp(t, `^metrics at http://127.0.0.1:\d+/metrics\n\d+ calls\n$`, out.String())
	assert.Error(t, run(t.Context(), &out, "nowhere:x"))
}
