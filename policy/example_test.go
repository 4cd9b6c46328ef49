package policy_test

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

// A policy says only what differs from the default.
func ExamplePolicy() {
	p := policy.Policy{
		Name:           "users",
		Idempotency:    classify.Idempotent,
		Timeout:        2 * time.Second,
		AttemptTimeout: 500 * time.Millisecond,
		Retry: policy.Retry{
			MaxAttempts: 4,
			Backoff:     policy.Backoff{Initial: 20 * time.Millisecond},
		},
	}
	fmt.Println(p.Validate())

	p.Retry.MaxAttempts = -4
	p.AttemptTimeout = 5 * time.Second
	fmt.Println(p.Validate())
	// Output:
	// <nil>
	// attempt_timeout: must not exceed timeout 2s, got 5s; retry.max_attempts: must be between 1 and 100 (0 means 3), got -4
}

func ExampleBackoff_Delay() {
	b := policy.Backoff{Initial: 100 * time.Millisecond, Max: time.Second, Jitter: policy.JitterNone}
	for n := range 5 {
		fmt.Print(b.Delay(n, nil), " ")
	}
	// Output: 100ms 200ms 400ms 800ms 1s
}

// The more specific rule decides, whatever the order.
func ExampleSet() {
	set := policy.Set{
		Version: "2",
		Rules: []policy.Rule{
			{Methods: []string{"*"}, Policy: policy.Policy{Name: "everything"}},
			{Methods: []string{"/shop.v1.Cart/*"}, Policy: policy.Policy{Name: "cart"}},
			{
				Methods: []string{"/shop.v1.Cart/Pay", "/shop.v1.Cart/Refund"},
				Policy:  policy.Policy{Name: "money", Retry: policy.Retry{Codes: []codes.Code{codes.Aborted}}},
			},
		},
	}
	table, err := set.Compile()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range []string{"/shop.v1.Cart/Pay", "/shop.v1.Cart/List", "/shop.v1.Stock/List"} {
		p := table.Lookup(m)
		fmt.Println(m, p.Name, p.Retry.MaxAttempts)
	}
	// Output:
	// /shop.v1.Cart/Pay money 3
	// /shop.v1.Cart/List cart 3
	// /shop.v1.Stock/List everything 3
}

// A store takes a set whole or not at all.
func ExampleStore() {
	good := policy.Set{Version: "1", Rules: []policy.Rule{
		{Methods: []string{"/shop.v1.Cart/*"}, Policy: policy.Policy{Name: "cart"}},
	}}
	store, err := policy.NewStore(good)
	if err != nil {
		fmt.Println(err)
		return
	}

	bad := policy.Set{Version: "2", Rules: []policy.Rule{
		{Methods: []string{"shop.v1.Cart.Pay"}, Policy: policy.Policy{Name: "money", Timeout: -time.Second}},
	}}
	fmt.Println(store.Update(bad))
	fmt.Println("in force:", store.Current().Version())

	good.Version, good.RetriesOff = "3", true // an incident: no retries for now
	fmt.Println(store.Update(good))
	fmt.Println("in force:", store.Current().Version(), "retries off:", store.Current().RetriesOff())
	// Output:
	// rules[0]: policy "money": timeout: must be between 0 and 24h0m0s, got -1s; rules[0].methods[0]: must be /pkg.Service/Method, /pkg.Service/* or *, got "shop.v1.Cart.Pay"
	// in force: 1
	// <nil>
	// in force: 3 retries off: true
}
