package main

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

func TestTelemetry(t *testing.T) {
	c := startCollector(t)
	t.Setenv(endpointVar, "http://"+c.addr)

	var out strings.Builder
	spans, flush, err := telemetry(t.Context())
	require.NoError(t, err)
	require.NoError(t, pushback(t.Context(), &stage{out: &out, spans: spans}))
	require.NoError(t, flush(t.Context(), &out))

	assert.Equal(t, []string{
		"rego-quickstart: Attempt.rego.test.v1.TestService/Get",
		"rego-quickstart: Attempt.rego.test.v1.TestService/Get",
		"rego-quickstart: rego.test.v1.TestService/Get",
	}, c.names)
	assert.Contains(t, out.String(), "http://"+c.addr+`, service "rego-quickstart"`)
}

func TestTelemetryOff(t *testing.T) {
	t.Setenv(endpointVar, "")
	var out strings.Builder
	spans, flush, err := telemetry(t.Context())
	require.NoError(t, err)
	assert.Nil(t, spans)
	require.NoError(t, flush(t.Context(), &out))
	assert.Empty(t, out.String())
}

// collector takes spans over OTLP gRPC and keeps their names, in the order in
// which they ended.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	addr string

	mu    sync.Mutex
	names []string // "service: span"
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &collector{addr: l.Addr().String()}
	server := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(server, c)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) }) // until Stop
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return c
}

func (c *collector) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range req.GetResourceSpans() {
		for _, s := range r.GetScopeSpans() {
			for _, span := range s.GetSpans() {
				c.names = append(c.names, service(r)+": "+span.GetName())
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func service(r *tracev1.ResourceSpans) string {
	for _, a := range r.GetResource().GetAttributes() {
		if a.GetKey() == "service.name" {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}
