package interceptor_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// Why did the call stop? The error of a failed call says it, and has the error of each attempt.
// Its text and its status are those of a call without rego.
func ExampleError() {
	rego := must(interceptor.New(interceptor.WithPolicy(policy.Policy{Retry: policy.Retry{MaxAttempts: 2}})))
	shop := shopWith(rego)
	defer shop.close()
	shop.server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "restarting"), testsrv.Fail(codes.NotFound, "no such user"))

	_, err := shop.Get(context.Background(), &testv1.GetRequest{})
	fmt.Println(err)
	var e *interceptor.Error
	if errors.As(err, &e) {
		fmt.Println("why it stopped:", e.Reason)
		for _, a := range e.Attempts {
			fmt.Println(a.Number, a.Kind, a.Outcome.Reason, "-", a.Err)
		}
	}

	// Output:
	// rpc error: code = NotFound desc = no such user
	// why it stopped: non-retryable
	// 1 original unavailable - rpc error: code = Unavailable desc = restarting
	// 2 retry fatal-code - rpc error: code = NotFound desc = no such user
}

// What happened to this call? The timeline has its attempts, with what each waited for, and what
// was denied. Print it to see a picture of it.
func ExampleWithTimeline() {
	rego := must(interceptor.New())
	shop := shopWith(rego)
	defer shop.close()
	shop.server.Script(testsrv.Get,
		testsrv.Fail(codes.Unavailable, "restarting"),
		testsrv.Do(testsrv.Pushback("2"), testsrv.Fail(codes.Unavailable, "still restarting")),
		testsrv.OK())

	var tl interceptor.Timeline
	_, err := shop.Get(context.Background(), &testv1.GetRequest{}, interceptor.WithTimeline(&tl))
	for _, a := range tl.Attempts {
		fmt.Printf("%d %v, waited for %q: %v, %v\n", a.Number, a.Kind, a.WaitedOn, a.Code, a.Result)
	}
	fmt.Println(tl.Reason, "denied:", len(tl.Denials), err)

	// Output:
	// 1 original, waited for "": Unavailable, failed
	// 2 retry, waited for "backoff": Unavailable, failed
	// 3 retry, waited for "pushback": OK, won
	// succeeded denied: 0 <nil>
}

// What has been retried, over all calls? A recorder is told of each call when it has ended: for
// logs and metrics of your own. Package slogobs has one that logs, and otelobs one for metrics.
func ExampleWithRecorder() {
	rego := must(interceptor.New(interceptor.WithRecorder(eachCall(func(s interceptor.Summary) {
		if s.Retries+s.Hedges > 0 || len(s.Denials) > 0 {
			fmt.Println(s.Method, s.Code, s.Reason, "retries:", s.Retries)
		}
	}))))
	shop := shopWith(rego)
	defer shop.close()
	shop.server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "restarting"), testsrv.OK())

	for range 3 {
		_ = must(shop.Get(context.Background(), &testv1.GetRequest{}))
	}

	// Output:
	// /rego.test.v1.TestService/Get OK succeeded retries: 1
}

// eachCall is a recorder that is a function.
type eachCall func(s interceptor.Summary)

func (f eachCall) Record(_ context.Context, s interceptor.Summary) { f(s) }

// What is going on inside of a call? An observer is told while the call runs: here, of the waits.
func ExampleWithObserver() {
	exact := policy.Backoff{Initial: 2 * time.Millisecond, Jitter: policy.JitterNone}
	rego := must(interceptor.New(
		interceptor.WithPolicy(policy.Policy{Retry: policy.Retry{Backoff: exact}}),
		interceptor.WithObserver(onEvent(func(e *interceptor.Event) {
			switch e.Kind {
			case interceptor.RetryWait:
				fmt.Println("waits for", e.Wait, e.WaitReason)
			case interceptor.CallEnd:
				fmt.Println("over:", e.Timeline.Reason)
			default: // kinds will be added
			}
		})),
	))
	shop := shopWith(rego)
	defer shop.close()
	shop.server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "restarting"))

	_, err := shop.Get(context.Background(), &testv1.GetRequest{})
	fmt.Println(err)

	// Output:
	// waits for 2ms backoff
	// waits for 4ms backoff
	// over: attempts-exhausted
	// rpc error: code = Unavailable desc = restarting
}

// What has an interceptor counted since it was made? State tells it, for each method of each
// target.
func ExampleInterceptor_State() {
	rego := must(interceptor.New())
	shop := shopWith(rego)
	defer shop.close()
	shop.server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "restarting"), testsrv.OK())
	shop.server.Script(testsrv.Pay, testsrv.Fail(codes.Unavailable, "restarting"))
	for range 10 {
		_ = must(shop.Get(context.Background(), &testv1.GetRequest{}))
	}
	_, _ = shop.Pay(context.Background(), &testv1.PayRequest{})

	for _, target := range rego.State().Targets {
		for _, m := range target.Methods {
			calls, attempts := m.Total()
			fmt.Println(m.Method, "calls:", calls, "attempts:", attempts)
			for _, c := range m.Calls {
				fmt.Println("  ", c.Count, c.Code, c.Reason)
			}
		}
	}

	// Output:
	// /rego.test.v1.TestService/Get calls: 10 attempts: 11
	//    10 OK succeeded
	// /rego.test.v1.TestService/Pay calls: 1 attempts: 1
	//    1 Unavailable not-idempotent
}

// Which attempt does an interceptor below serve? Given to the connection after rego's options, it
// sees each attempt as a call of its own.
func ExampleAttemptFromContext() {
	below := func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		number, kind := interceptor.AttemptFromContext(ctx)
		fmt.Println("attempt", number, kind)
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	server := must(testsrv.New())
	defer server.Close()
	server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "restarting"), testsrv.OK())
	rego := must(interceptor.New())
	conn := must(server.Dial(append(rego.DialOptions(), grpc.WithChainUnaryInterceptor(below))...))
	defer conn.Close()

	_ = must(testv1.NewTestServiceClient(conn).Get(context.Background(), &testv1.GetRequest{}))

	// Output:
	// attempt 1 original
	// attempt 2 retry
}
