package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// metrics are what Prometheus is told. docs/operations.md has a row for each.
type metrics struct {
	registry   *prometheus.Registry
	denials    *prometheus.CounterVec
	handshakes prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		denials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rego_server_denials_total", Help: "What was denied, by RPC.",
		}, []string{"method"}),
		handshakes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rego_server_handshakes_failed_total", Help: "Connections that were not made, for want of a certificate or of TLS.",
		}),
	}
	m.registry.MustRegister(m.denials, m.handshakes, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) deny(d controlplane.Denial) { m.denials.WithLabelValues(d.Method).Inc() }

// fleetMetrics asks the server when Prometheus does.
type fleetMetrics struct {
	of    regov1.FleetServiceServer
	admin regov1.PolicyAdminServiceServer
	until func() time.Time // the certificate is valid; zero without one
}

var (
	clientsDesc = prometheus.NewDesc("rego_server_clients", "Clients that are connected, by service and state.", []string{"service", "state"}, nil)
	warnedDesc  = prometheus.NewDesc("rego_server_clients_warned", "Clients in which a part of the policies has no effect.", []string{"service"}, nil)
	infoDesc    = prometheus.NewDesc("rego_server_policy_info", "Policies that are served; the value is 1.", []string{"service", "version", "standing"}, nil)
	revDesc     = prometheus.NewDesc("rego_server_policy_revision", "Revision of the policies that are served.", []string{"service"}, nil)
	ageDesc     = prometheus.NewDesc("rego_server_policy_age_seconds", "For how long the policies have not been known to be the newest of their file.", []string{"service"}, nil)
	keptDesc    = prometheus.NewDesc("rego_server_snapshot_failed", "1 if the snapshot cannot be read or written.", []string{"service"}, nil)
	certDesc    = prometheus.NewDesc("rego_server_certificate_not_after_seconds", "When the server's certificate in use ends, in Unix time.", nil, nil)
	shareDesc   = prometheus.NewDesc("rego_server_rollout_share", "Share of the clients that a set is tried out on; not there without a rollout.", []string{"service", "version"}, nil)
	failedDesc  = prometheus.NewDesc("rego_server_rollout_evidence", "Evidence that the set which is tried out does harm, as an e-value: it is rejected from 1/alpha.", []string{"service", "version"}, nil)
	refusedDesc = prometheus.NewDesc("rego_server_policy_refusals_total", "Files that were refused.", []string{"service"}, nil)
)

// Describe is that of prometheus.Collector.
func (f fleetMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{clientsDesc, warnedDesc, infoDesc, revDesc, ageDesc, refusedDesc, keptDesc, certDesc, shareDesc, failedDesc} {
		to <- d
	}
}

// Collect is that of prometheus.Collector.
func (f fleetMetrics) Collect(to chan<- prometheus.Metric) {
	ctx := context.WithValue(context.Background(), ourselves{}, true)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if end := f.until(); !end.IsZero() {
		gauge(certDesc, float64(end.Unix()))
	}
	sum, err := f.of.SummarizeClients(ctx, &regov1.SummarizeClientsRequest{Here: true})
	if err != nil {
		to <- prometheus.NewInvalidMetric(clientsDesc, err)
		return
	}
	type kind struct{ service, state string }
	clients, warned := make(map[kind]float64), make(map[string]float64)
	for _, c := range sum.GetCounts() {
		service := c.GetService()
		if _, known := warned[service]; !known && len(warned) >= maxServices {
			service = "other"
		}
		clients[kind{service, wordOf(c.GetState(), "CLIENT_STATE_")}] += float64(c.GetClients())
		warned[service] += float64(c.GetWarned())
	}
	for k, n := range clients {
		gauge(clientsDesc, n, k.service, k.state)
	}
	for service, n := range warned {
		gauge(warnedDesc, n, service)
	}
	f.collectRollouts(ctx, to)
	state, err := f.of.GetServerState(ctx, new(regov1.GetServerStateRequest))
	if err != nil {
		to <- prometheus.NewInvalidMetric(infoDesc, err)
		return
	}
	for _, s := range state.GetStores() {
		gauge(infoDesc, 1, s.GetService(), s.GetVersion(), wordOf(s.GetStanding(), "STANDING_"))
		gauge(revDesc, float64(s.GetRevision()), s.GetService())
		gauge(ageDesc, s.GetAge().AsDuration().Seconds(), s.GetService())
		failed := 0.0
		if s.GetSnapshotError() != "" {
			failed = 1
		}
		gauge(keptDesc, failed, s.GetService())
		to <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(s.GetRefusals()), s.GetService())
	}
}

// collectRollouts tells what is tried out.
func (f fleetMetrics) collectRollouts(ctx context.Context, to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	all, err := f.admin.ListServices(ctx, new(regov1.ListServicesRequest))
	if err != nil {
		return // the storage is out of reach: the rest is told nevertheless
	}
	for _, s := range all.GetServices() {
		if ro := s.GetRollout(); ro.GetState() == regov1.RolloutState_ROLLOUT_STATE_BAKING {
			version := ro.GetCandidate().GetVersion()
			to <- prometheus.MustNewConstMetric(shareDesc, prometheus.GaugeValue, ro.GetShare(), s.GetService(), version)
			to <- prometheus.MustNewConstMetric(failedDesc, prometheus.GaugeValue, ro.GetFailedEvidence()+ro.GetExtraEvidence(), s.GetService(), version)
		}
	}
}

// maxServices bounds the services that are told apart, since clients say what they are.
const maxServices = 1000

// wordOf returns a value of an enum without what all of them begin with, in lower case.
func wordOf(v fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(v.String(), prefix))
}

// serveMetrics serves them until ctx is done, and returns where; empty without --metrics.
func (v *serve) serveMetrics(ctx context.Context, m *metrics, s *controlplane.Replica) (string, error) {
	if v.metrics == "" {
		return "", nil
	}
	m.registry.MustRegister(fleetMetrics{s.Fleet(), s.Admin(), v.access.until})
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", v.metrics)
	if err != nil {
		return "", err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	h := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = h.Close() }) // scrapes come again
	go func() {
		if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			v.err.line("rego: metrics: " + err.Error())
		}
	}()
	return l.Addr().String(), nil
}
