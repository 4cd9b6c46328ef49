package interceptor_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// How is a write retried safely? A server that fails may have done the work, so a write is sent
// again only if somebody says that a second copy does no harm: its proto file, its policy or, as
// here, the call.
func ExampleWithIdempotency() {
	rego := must(interceptor.New())
	shop := shopWith(rego)
	defer shop.close()
	ctx, order := context.Background(), &testv1.PayRequest{Id: "order-7"}

	shop.server.Script(testsrv.Pay, testsrv.Fail(codes.Unavailable, "restarting"), testsrv.OK())
	_, err := shop.Pay(ctx, order)
	fmt.Println("nothing declared:", status.Code(err))

	shop.server.Script(testsrv.Pay, testsrv.Fail(codes.Unavailable, "restarting"), testsrv.OK())
	_, err = shop.Pay(ctx, order, interceptor.WithIdempotency(classify.Idempotent))
	fmt.Println("idempotent:", status.Code(err))

	// Output:
	// nothing declared: Unavailable
	// idempotent: OK
}

// How does a server know that it has done a write already? Every attempt of a call brings the
// same key, and the server looks it up before it does anything.
func ExampleWithIdempotencyKey() {
	rego := must(interceptor.New())
	shop := shopWith(rego)
	defer shop.close()
	shop.server.Script(testsrv.Pay, testsrv.Fail(codes.Unavailable, "paid, but the answer is lost"), testsrv.OK())

	_, err := shop.Pay(context.Background(), &testv1.PayRequest{Id: "order-7"}, interceptor.WithIdempotencyKey("order-7"))
	fmt.Println(status.Code(err))
	for _, a := range shop.server.Arrivals(testsrv.Pay) {
		fmt.Println("attempt", a.Attempt, "has the key", a.Metadata.Get(interceptor.IdempotencyKeyHeader))
	}

	// Output:
	// OK
	// attempt 1 has the key [order-7]
	// attempt 2 has the key [order-7]
}

// How does one call have a policy of its own? The policy takes the place of the method's own: nothing
// of that is left.
func ExampleWithPolicy() {
	rego := must(interceptor.New())
	shop := shopWith(rego)
	defer shop.close()
	shop.server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "restarting"))

	patient := policy.Policy{
		Name:  "patient",
		Retry: policy.Retry{MaxAttempts: 4, Backoff: policy.Backoff{Initial: time.Millisecond}},
	}
	var tl interceptor.Timeline
	_, err := shop.Get(context.Background(), &testv1.GetRequest{}, interceptor.WithPolicy(patient), interceptor.WithTimeline(&tl))
	fmt.Println(status.Code(err), "after", len(tl.Attempts), "attempts, policy", tl.Policy)

	// Output:
	// Unavailable after 4 attempts, policy patient
}

// How is one call made without retries? Its policy switches them off.
func ExampleWithPolicy_noRetries() {
	rego := must(interceptor.New())
	shop := shopWith(rego)
	defer shop.close()
	shop.server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "restarting"), testsrv.OK())

	once := policy.Policy{Retry: policy.Retry{Off: true}}
	_, err := shop.Get(context.Background(), &testv1.GetRequest{}, interceptor.WithPolicy(once))
	var e *interceptor.Error
	fmt.Println(status.Code(err), errors.As(err, &e), e.Reason)

	// Output:
	// Unavailable true disabled
}

// How is an attempt given up that hangs? An attempt timeout ends it when another one can take
// its place.
func ExampleNew_attemptTimeout() {
	rego := must(interceptor.New(interceptor.WithRules(policy.Rule{
		Methods: []string{testsrv.Get},
		Policy: policy.Policy{
			Timeout:        10 * time.Second,
			AttemptTimeout: 20 * time.Millisecond,
			Retry:          policy.Retry{MaxAttempts: 2},
		},
	})))
	shop := shopWith(rego)
	defer shop.close()
	shop.server.Script(testsrv.Get, testsrv.Hang(), testsrv.OK())

	var tl interceptor.Timeline
	reply, err := shop.Get(context.Background(), &testv1.GetRequest{}, interceptor.WithTimeline(&tl))
	fmt.Println(status.Code(err), "from attempt", reply.GetAttempt())
	fmt.Println("the first one:", tl.Attempts[0].Code, tl.Attempts[0].Outcome.Reason)

	// Output:
	// OK from attempt 2
	// the first one: DeadlineExceeded attempt-timeout
}

// How are calls made before the server is up? They wait for it by themselves: for five seconds,
// unless Retry.Reconnect says otherwise, and never beyond their deadlines.
func ExampleNew_serverComesUp() {
	server := must(testsrv.New())
	defer server.Close()
	_ = server.Refuse(true) // an error is for TCP only
	rego := must(interceptor.New(startWhenMissed(server)))
	conn := must(server.Dial(rego.DialOptions()...))
	defer conn.Close()

	var tl interceptor.Timeline
	_, err := testv1.NewTestServiceClient(conn).Get(context.Background(), &testv1.GetRequest{}, interceptor.WithTimeline(&tl))
	fmt.Println(status.Code(err), "attempts:", len(tl.Attempts))
	fmt.Println("it has waited for a connection:", tl.Attempts[0].Unreachable > 0)

	// Output:
	// OK attempts: 1
	// it has waited for a connection: true
}

// startWhenMissed has a server accept connections when a call has begun to wait for one.
func startWhenMissed(server *testsrv.Server) interceptor.Option {
	return interceptor.WithObserver(onEvent(func(e *interceptor.Event) {
		if e.Kind == interceptor.ReconnectWait {
			_ = server.Refuse(false) // an error is for TCP only
		}
	}))
}

// onEvent is an observer that is told of what happens, and changes nothing.
type onEvent func(e *interceptor.Event)

func (onEvent) Start(ctx context.Context, _ *interceptor.Event) context.Context { return ctx }
func (f onEvent) Observe(_ context.Context, e *interceptor.Event)               { f(e) }

// How are retries kept from a status that stands for a rule of the business? A classifier of your
// own ends the call, and leaves everything else to the default table.
func ExampleWithClassifier() {
	closed := classify.Func(func(a *classify.EndedAttempt) classify.Outcome {
		if a.Status == nil {
			return classify.Outcome{}
		}
		for _, d := range a.Status.Details() {
			if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == "SHOP_CLOSED" {
				return classify.Outcome{Class: classify.NonRetryable}
			}
		}
		return classify.Outcome{} // undecided: classify.GRPC says
	})
	rego := must(interceptor.New(
		interceptor.WithClassifier("opening hours", closed),
		interceptor.WithPolicy(policy.Policy{Classifier: "opening hours"}),
	))
	shop := shopWith(rego)
	defer shop.close()

	shop.server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "come tomorrow", &errdetails.ErrorInfo{Reason: "SHOP_CLOSED"}))
	_, err := shop.Get(context.Background(), &testv1.GetRequest{})
	fmt.Println(status.Code(err), "after", shop.server.Count(testsrv.Get), "attempt")

	shop.server.Script(testsrv.Put, testsrv.Fail(codes.Unavailable, "restarting"), testsrv.OK())
	_, err = shop.Put(context.Background(), &testv1.PutRequest{})
	fmt.Println(status.Code(err), "after", shop.server.Count(testsrv.Put), "attempts")

	// Output:
	// Unavailable after 1 attempt
	// OK after 2 attempts
}

// How does a server stream go on that breaks in the middle? The hook makes the request that
// continues it from the last message that the application has got.
func ExampleWithResume() {
	rego := must(interceptor.New(interceptor.WithPolicy(policy.Policy{Idempotency: classify.NoSideEffects})))
	shop := shopWith(rego)
	defer shop.close()
	row := func(id string) testsrv.Step { return testsrv.SendMsg(&testv1.WatchResponse{Id: id}) }
	shop.server.Script(testsrv.Watch,
		testsrv.Do(row("row-1"), row("row-2"), testsrv.Fail(codes.Unavailable, "restarting")),
		testsrv.Do(row("row-3"), testsrv.OK()))

	stream := must(shop.Watch(context.Background(), &testv1.WatchRequest{}, interceptor.WithResume(
		func(last *testv1.WatchResponse, _ *testv1.WatchRequest) (*testv1.WatchRequest, bool) {
			return &testv1.WatchRequest{Id: "after " + last.GetId()}, true
		})))
	for {
		m, err := stream.Recv()
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Println(m.GetId(), "from attempt", m.GetAttempt())
	}
	for _, a := range shop.server.Arrivals(testsrv.Watch) {
		fmt.Printf("attempt %d asked for %q\n", a.Attempt, a.Request().(*testv1.WatchRequest).GetId())
	}

	// Output:
	// row-1 from attempt 1
	// row-2 from attempt 1
	// row-3 from attempt 2
	// EOF
	// attempt 1 asked for ""
	// attempt 2 asked for "after row-2"
}

// How does a server know that it serves a retry? By grpc-previous-rpc-attempts in the request
// metadata, which grpc's own retries send, too. It is not there in a first attempt.
func ExampleNew_serverSeesRetry() {
	server := must(testsrv.New(testsrv.ServerOptions(grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			fmt.Println("attempts before this one:", metadata.ValueFromIncomingContext(ctx, "grpc-previous-rpc-attempts"))
			return next(ctx, req)
		}))))
	defer server.Close()
	server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "restarting"), testsrv.OK())
	rego := must(interceptor.New())
	conn := must(server.Dial(rego.DialOptions()...))
	defer conn.Close()

	_, err := testv1.NewTestServiceClient(conn).Get(context.Background(), &testv1.GetRequest{})
	fmt.Println(status.Code(err))

	// Output:
	// attempts before this one: []
	// attempts before this one: [1]
	// OK
}

// How is a circuit breaker used with rego? As an interceptor outside of it: given to the
// connection before rego's options, it counts calls and not attempts. While it is open nothing is
// sent.
func ExampleInterceptor_DialOptions_circuitBreaker() {
	failures := 0 // one after the other. A breaker of a program needs a lock, and a way back
	breaker := func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if failures >= 2 {
			return status.Error(codes.Unavailable, "the circuit is open")
		}
		err := invoke(ctx, method, req, reply, conn, opts...)
		if failures++; err == nil {
			failures = 0
		}
		return err
	}
	rego := must(interceptor.New(interceptor.WithPolicy(policy.Policy{Retry: policy.Retry{MaxAttempts: 2}})))
	shop := shopWith(rego, grpc.WithChainUnaryInterceptor(breaker))
	defer shop.close()
	shop.server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "down"))

	for range 4 {
		_, err := shop.Get(context.Background(), &testv1.GetRequest{})
		fmt.Println(status.Convert(err).Message())
	}
	fmt.Println("attempts:", shop.server.Count(testsrv.Get))

	// Output:
	// down
	// down
	// the circuit is open
	// the circuit is open
	// attempts: 4
}
