// Jaeger makes calls to a server that does badly in six ways, so that their traces
// can be looked at.
// It exports spans over OTLP to OTEL_EXPORTER_OTLP_ENDPOINT, by default
// http://localhost:4317, where a Jaeger on this machine listens, and prints the
// timeline of each call and the ID of its trace. docs/telemetry.md says how to
// start a Jaeger.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const endpointVar = "OTEL_EXPORTER_OTLP_ENDPOINT"

func main() {
	endpoint := cmp.Or(os.Getenv(endpointVar), "http://localhost:4317")
	fmt.Printf("spans go to %s\n\n", endpoint)
	// Exporting that fails is logged by OpenTelemetry and no error.
	if _, err := run(context.Background(), endpoint, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run makes the calls and exports their spans, and returns the ID of each call's
// trace. Server and client are services of their own, as they would be.
func run(ctx context.Context, endpoint string, out io.Writer) (traces map[string]string, err error) {
	server, err := newProvider(ctx, endpoint, "rego-example-server")
	if err != nil {
		return nil, err
	}
	client, err := newProvider(ctx, endpoint, "rego-example")
	if err != nil {
		return nil, err
	}
	traces, err = makeCalls(ctx, client, server, out)
	if err != nil {
		return nil, err
	}
	// Shutdown exports what is left; without it the last spans would be lost.
	for _, p := range []*sdktrace.TracerProvider{server, client} {
		if err := p.Shutdown(ctx); err != nil {
			return nil, fmt.Errorf("export: %w", err)
		}
	}
	return traces, nil
}

func newProvider(ctx context.Context, endpoint, service string) (*sdktrace.TracerProvider, error) {
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(endpoint))
	if err != nil {
		return nil, err
	}
	return sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", service))),
	), nil
}
