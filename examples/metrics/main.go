// Metrics serves the metrics of a client to Prometheus, while it calls servers that do badly:
// calls are retried, hedged, denied and refused, streams break off.
//
// What surprises people: all but the histograms is counted whether or not anybody watches, and
// read only when Prometheus asks.
//
//	go run ./metrics
//	curl http://localhost:9464/metrics
//
// docs/grafana.json is a dashboard of it, and docs/alerts.yml has rules for alerts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/rego-go/rego/examples/internal/mixed"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/otelobs"
)

func main() {
	listen := flag.String("listen", "localhost:9464", "address of the metrics, over HTTP")
	seconds := flag.Float64("seconds", 0, "how long it runs; until it is interrupted if zero")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	if *seconds > 0 {
		time.AfterFunc(time.Duration(*seconds*float64(time.Second)), stop)
	}
	err := run(ctx, os.Stdout, *listen)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "metrics:", err)
		os.Exit(1)
	}
}

// run serves metrics until ctx is done.
func run(ctx context.Context, w io.Writer, listen string) error {
	load, handler, err := instrumented()
	if err != nil {
		return err
	}
	defer load.Close()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	fmt.Fprintf(w, "metrics at http://%s/metrics\n", l.Addr())
	fmt.Fprintf(w, "%d calls\n", load.Run(ctx))
	if err := srv.Close(); err != nil {
		return err
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// instrumented returns a load, and what serves the metrics of its interceptor.
func instrumented() (*mixed.Load, http.Handler, error) {
	registry := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, nil, err
	}
	provider := metric.NewMeterProvider(metric.WithReader(exporter))
	metrics, err := otelobs.NewMetrics(otelobs.WithMeterProvider(provider))
	if err != nil {
		return nil, nil, err
	}
	load, err := mixed.New(interceptor.WithRecorder(metrics))
	if err != nil {
		return nil, nil, err
	}
	if _, err := metrics.Watch(load.Interceptor); err != nil { // for as long as the program runs
		return nil, nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	return load, mux, nil
}
