package otelobs_test

import (
	"context"
	"fmt"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/otelobs"
)

// How do the counts of an interceptor become metrics? A recorder makes histograms of calls, and Watch
// adds what the interceptor counts anyway.
func ExampleMetrics_Watch() {
	// A reader to look at; a program exports, and leaves the option out.
	reader := sdkmetric.NewManualReader()
	metrics, err := otelobs.NewMetrics(otelobs.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
	if err != nil {
		panic(err)
	}
	it, err := interceptor.New(interceptor.WithRecorder(metrics))
	if err != nil {
		panic(err)
	}
	watching, err := metrics.Watch(it)
	if err != nil {
		panic(err)
	}
	defer func() { _ = watching.Unregister() }()

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

	fmt.Println("rego.client.calls", sum(reader, "rego.client.calls"))
	fmt.Println("rego.client.attempts", sum(reader, "rego.client.attempts"))

	// Output:
	// rego.client.calls 1
	// rego.client.attempts 2
}

// sum adds up all that a counter has counted.
func sum(reader sdkmetric.Reader, counter string) (total int64) {
	var collected metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &collected); err != nil {
		panic(err)
	}
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			if data, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == counter {
				for _, point := range data.DataPoints {
					total += point.Value
				}
			}
		}
	}
	return total
}
