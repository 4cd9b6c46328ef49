package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/debugpage"
	"github.com/rego-go/rego/otelobs"
)

// What a client shows of itself over HTTP, and how an operator reads it.

const pagePath = "/debug/rego/"

// show serves the debug page and the metrics of an interceptor on a port of this machine, and
// returns where. They live as long as the program.
func show(it *interceptor.Interceptor, metrics *otelobs.Metrics, registry *prometheus.Registry) (base string, err error) {
	if _, err := metrics.Watch(it); err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	mux := http.NewServeMux()
	mux.Handle(pagePath, http.StripPrefix(pagePath[:len(pagePath)-1], debugpage.New(it)))
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(l) }() // until the program ends
	return "http://" + l.Addr().String(), nil
}

// newMetrics returns metrics, and what Prometheus reads them from.
func newMetrics() (*otelobs.Metrics, *prometheus.Registry, error) {
	registry := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, nil, err
	}
	m, err := otelobs.NewMetrics(otelobs.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(exporter))))
	return m, registry, err
}

// shown is what the debug page says of a client: docs/debugpage.md has the fields.
type shown struct {
	Policies struct{ State, Version, Source, Lost string }
	Methods  []struct{ Target, Method string }

	// Of the page of its one method.
	Total  struct{ Calls, Attempts, Failed int }
	Policy struct {
		Version     string
		MaxAttempts int `json:"max_attempts"`
		Fields      []field
	}
	Hedging *struct{} // null if there is none
}

// field is one of a policy, and the source that says it.
type field struct{ Name, Value, From string }

// look reads the page of a client.
func (p *process) look() (s shown, err error) {
	page := p.last().Shows + pagePath
	if err := get(page+"?format=json", &s); err != nil {
		return s, err
	}
	if len(s.Methods) != 1 {
		return s, fmt.Errorf("%s: %d methods instead of one", page, len(s.Methods))
	}
	q := url.Values{"target": {s.Methods[0].Target}, "method": {s.Methods[0].Method}, "format": {"json"}}
	return s, get(page+"method?"+q.Encode(), &s)
}

func get(page string, into any) error {
	resp, err := http.Get(page)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", page, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// amplification is how many attempts a client makes for a call, by its metrics.
func (p *process) amplification() (float64, error) {
	resp, err := http.Get(p.last().Shows + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return 0, err
	}
	sum := func(name string) (sum float64) {
		for _, m := range families[name].GetMetric() {
			sum += m.GetCounter().GetValue()
		}
		return sum
	}
	return sum("rego_client_attempts_total") / sum("rego_client_calls_total"), nil
}
