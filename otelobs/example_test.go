package otelobs_test

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/otelobs"
)

func Example() {
	// An exporter to look at; a program exports to a backend and sets the globals
	// of OpenTelemetry instead of giving options.
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))

	it, err := interceptor.New(interceptor.WithObserver(otelobs.New(
		otelobs.WithTracerProvider(provider),
		otelobs.WithPropagator(propagation.TraceContext{}),
	)))
	if err != nil {
		panic(err)
	}

	srv, err := testsrv.New()
	if err != nil {
		panic(err)
	}
	defer srv.Close()
	srv.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "down"), testsrv.OK())
	conn, err := srv.Dial(it.DialOptions()...)
	if err != nil {
		panic(err)
	}
	defer conn.Close()

	if _, err := testv1.NewTestServiceClient(conn).Get(context.Background(), &testv1.GetRequest{}); err != nil {
		panic(err)
	}
	for _, s := range spans.GetSpans() {
		fmt.Println(s.SpanKind, s.Name, s.Status.Code)
	}
	// Output:
	// client Attempt.rego.test.v1.TestService/Get Error
	// client Attempt.rego.test.v1.TestService/Get Unset
	// internal rego.test.v1.TestService/Get Unset
}
