package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/otelobs"
)

const (
	endpointVar = "OTEL_EXPORTER_OTLP_ENDPOINT"
	serviceName = "rego-quickstart"
)

// telemetry returns an observer that sends spans over OTLP gRPC to the endpoint
// that the environment names, and a flush that sends the last of them and says
// where to look. Without an endpoint the observer is nil and flush does nothing.
func telemetry(ctx context.Context) (spans interceptor.Observer, flush func(context.Context, io.Writer) error, err error) {
	endpoint := os.Getenv(endpointVar)
	if endpoint == "" {
		return nil, func(context.Context, io.Writer) error { return nil }, nil
	}
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, nil, err
	}
	provider := trace.NewTracerProvider(
		// The outage makes thousands of spans within seconds; a full queue drops.
		trace.WithBatcher(exporter, trace.WithMaxQueueSize(1<<14)),
		trace.WithResource(resource.NewSchemaless(semconv.ServiceName(serviceName))),
	)
	flush = func(ctx context.Context, out io.Writer) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			return fmt.Errorf("export to %s: %w", endpoint, err)
		}
		_, err := fmt.Fprintf(out, "\nThe spans are at %s, service %q. Jaeger shows them on port 16686.\n", endpoint, serviceName)
		return err
	}
	return otelobs.New(
		otelobs.WithTracerProvider(provider),
		// So that the spans of a server that is traced too hang below the attempts.
		otelobs.WithPropagator(propagation.TraceContext{}),
	), flush, nil
}
