package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/otelobs"
	"github.com/rego-go/rego/policy"
)

// makeCalls starts a server that does badly as it is told, makes one call for each way,
// and prints what became of it.
func makeCalls(ctx context.Context, client, server *sdktrace.TracerProvider, out io.Writer) (map[string]string, error) {
	srv, err := testsrv.New(testsrv.TCP(""), testsrv.ServerOptions(grpc.StatsHandler(otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(server), otelgrpc.WithPropagators(propagation.TraceContext{})))))
	if err != nil {
		return nil, err
	}
	defer srv.Close() // so that all server spans have ended
	conn, err := dial(srv, client)
	if err != nil {
		return nil, err
	}
	defer conn.Close()

	svc := testv1.NewTestServiceClient(conn)
	traces := make(map[string]string)
	for _, c := range calls(srv, svc) {
		c.prepare()
		ctx, span := client.Tracer("example").Start(ctx, c.name)
		var tl interceptor.Timeline
		err := c.make(ctx, interceptor.WithTimeline(&tl))
		span.End()

		traces[c.name] = span.SpanContext().TraceID().String()
		_, _ = fmt.Fprintf(out, "%s\ntrace %s, %s\n%s\n\n", c.name, traces[c.name], status.Code(err), &tl)
	}
	return traces, nil
}

func dial(srv *testsrv.Server, client *sdktrace.TracerProvider) (*grpc.ClientConn, error) {
	spent, err := budget.NewRatio(budget.RatioConfig{}) // allows nothing
	if err != nil {
		return nil, err
	}
	retry := policy.Retry{Backoff: policy.Backoff{Initial: 500 * time.Millisecond, Jitter: policy.JitterNone}}
	it, err := interceptor.New(
		interceptor.WithObserver(otelobs.New(
			otelobs.WithTracerProvider(client), otelobs.WithPropagator(propagation.TraceContext{}))),
		interceptor.WithBudget("spent", spent),
		interceptor.WithRules(
			policy.Rule{Methods: []string{testsrv.Put}, Policy: policy.Policy{Name: "out-of-budget", Retry: retry, Budget: "spent"}},
			policy.Rule{Methods: []string{"*"}, Policy: policy.Policy{Name: "patient", Retry: retry}},
		),
	)
	if err != nil {
		return nil, err
	}
	return srv.Dial(it.DialOptions()...)
}

// call is one way to do badly.
type call struct {
	name    string
	prepare func()
	make    func(ctx context.Context, opts ...grpc.CallOption) error
}

func calls(srv *testsrv.Server, svc testv1.TestServiceClient) []call {
	get := func(ctx context.Context, opts ...grpc.CallOption) error {
		_, err := svc.Get(ctx, &testv1.GetRequest{}, opts...)
		return err
	}
	put := func(ctx context.Context, opts ...grpc.CallOption) error {
		_, err := svc.Put(ctx, &testv1.PutRequest{}, opts...)
		return err
	}
	pay := func(ctx context.Context, opts ...grpc.CallOption) error {
		_, err := svc.Pay(ctx, &testv1.PayRequest{}, opts...)
		return err
	}
	hedged := func(ctx context.Context, opts ...grpc.CallOption) error {
		p := policy.Policy{Name: "hedged", Hedge: policy.Hedge{Delay: 100 * time.Millisecond}}
		return get(ctx, append(opts, interceptor.WithPolicy(p))...)
	}
	watch := func(ctx context.Context, opts ...grpc.CallOption) error {
		resume := interceptor.WithResume(func(*testv1.WatchResponse, *testv1.WatchRequest) (*testv1.WatchRequest, bool) {
			return &testv1.WatchRequest{Id: "the rest"}, true
		})
		stream, err := svc.Watch(ctx, &testv1.WatchRequest{}, append(opts, resume, interceptor.WithIdempotency(classify.Idempotent))...)
		for err == nil {
			_, err = stream.Recv()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	down := testsrv.Fail(codes.Unavailable, "down")
	work := testsrv.Delay(80 * time.Millisecond) // that the attempts which count can be seen

	return []call{
		{"refused, then recovers", func() {
			_ = srv.Refuse(true)
			time.AfterFunc(100*time.Millisecond, func() { _ = srv.Refuse(false) })
		}, get},
		{"pushback", func() {
			srv.Script(testsrv.Get, testsrv.Do(testsrv.Pushback("30"), down), testsrv.OK())
		}, get},
		{"connection killed, not idempotent", func() {
			srv.Script(testsrv.Pay, testsrv.KillConn())
		}, pay},
		{"budget spent", func() {
			srv.Script(testsrv.Put, down)
		}, put},
		{"slow, and hedged", func() {
			srv.Script(testsrv.Get, testsrv.Hang(), testsrv.Do(work, testsrv.OK()))
		}, hedged},
		{"a stream that breaks and is resumed", func() {
			srv.Script(testsrv.Watch, testsrv.Do(testsrv.Send(1), work, testsrv.Send(1), work, down), testsrv.Do(work, testsrv.Send(1), work))
		}, watch},
	}
}
