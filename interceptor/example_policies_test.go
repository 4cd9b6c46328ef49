package interceptor_test

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// How is hedging switched off now, in a program that runs? A set with HedgesOff is put into the
// store: by the program, by a file or by a control plane. The next call goes by it.
func ExampleWithPolicies() {
	set := policy.Set{Rules: []policy.Rule{{
		Methods: []string{testsrv.Get},
		Policy:  policy.Policy{Hedge: policy.Hedge{Delay: 5 * time.Millisecond}, Retry: policy.Retry{MaxAttempts: 2}},
	}}}
	store := must(policy.NewStore(set))
	rego := must(interceptor.New(interceptor.WithPolicies(store)))
	shop := shopWith(rego)
	defer shop.close()
	shop.server.Script(testsrv.Get, testsrv.Hang(), testsrv.OK())

	reply, err := shop.Get(context.Background(), &testv1.GetRequest{})
	fmt.Println(status.Code(err), "from attempt", reply.GetAttempt(), "while the first one hangs")

	set.HedgesOff = true
	fmt.Println("taken:", store.Update(set) == nil)
	var tl interceptor.Timeline
	_, err = shop.Get(context.Background(), &testv1.GetRequest{}, interceptor.WithTimeline(&tl))
	fmt.Println(status.Code(err), "no hedge:", tl.Denials[0].Reason)

	// Output:
	// OK from attempt 2 while the first one hangs
	// taken: true
	// OK no hedge: disabled
}

// How far may a file or a control plane go? As far as the limits in code: a set that exceeds one is
// refused whole, and what was in force stays.
func ExampleWithLimits() {
	store := must(policy.NewStore(policy.Set{Version: "1"}))
	must(interceptor.New(interceptor.WithPolicies(store), interceptor.WithLimits(policy.Limits{
		MaxAttempts: 3,
		Methods: []policy.MethodLimits{{
			Methods: []string{testsrv.Pay},
			Limits:  policy.Limits{Forbidden: []string{"idempotency", "retry.codes"}},
		}},
	})))

	fmt.Println(store.Update(policy.Set{Version: "2", Rules: []policy.Rule{
		{Methods: []string{testsrv.Get}, Policy: policy.Policy{Name: "eager", Retry: policy.Retry{MaxAttempts: 5}}},
		{Methods: []string{testsrv.Pay}, Policy: policy.Policy{Name: "money", Retry: policy.Retry{Codes: []codes.Code{codes.Unavailable}}}},
	}}))
	fmt.Println("in force:", store.Current().Version())

	// Output:
	// rules[0]: policy "eager": retry.max_attempts: must not exceed the limit 3, got 5; rules[1]: policy "money": retry.codes: must not be set: the limits of /rego.test.v1.TestService/Pay forbid it
	// in force: 1
}

// How does one method get a budget of its own? The budget has a name, and policies name it.
func ExampleWithBudget() {
	rego := must(interceptor.New(
		interceptor.WithBudget("reports", must(budget.NewTokenBucket(budget.TokenBucketConfig{PerSecond: 0.001, Burst: 1}))),
		interceptor.WithRules(policy.Rule{Methods: []string{testsrv.Get}, Policy: policy.Policy{Budget: "reports"}}),
	))
	shop := shopWith(rego)
	defer shop.close()
	shop.server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "down"))

	var tl interceptor.Timeline
	_, err := shop.Get(context.Background(), &testv1.GetRequest{}, interceptor.WithTimeline(&tl))
	fmt.Println(status.Code(err), "after", len(tl.Attempts), "attempts:", tl.Reason)

	// Output:
	// Unavailable after 2 attempts: budget-denied
}

// How is the budget changed that all calls to a target share? It is made once for each target.
func ExampleWithTargetBudget() {
	rego := must(interceptor.New(interceptor.WithTargetBudget(func(string) budget.Budget {
		return must(budget.NewRatio(budget.RatioConfig{Ratio: 0.5})) // and nothing to begin with
	})))
	shop := shopWith(rego)
	defer shop.close()
	shop.server.Script(testsrv.Get, testsrv.OK(), testsrv.OK(), testsrv.Fail(codes.Unavailable, "down"))

	for range 2 {
		_ = must(shop.Get(context.Background(), &testv1.GetRequest{}))
	}
	_, err := shop.Get(context.Background(), &testv1.GetRequest{})
	fmt.Println(status.Code(err))
	fmt.Println("two calls that succeed pay for one retry:", shop.server.Count(testsrv.Get)-2, "attempts")

	// Output:
	// Unavailable
	// two calls that succeed pay for one retry: 2 attempts
}
