package policy_test

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/policy"
)

// A service config becomes a set that means the same, and what does not show in the set
// is told.
func ExampleFromServiceConfig() {
	set, warnings, err := policy.FromServiceConfig([]byte(`{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [{"service": "shop.v1.Cart"}],
    "timeout": "2s",
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.1s",
      "maxBackoff": "1s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, w := range warnings {
		fmt.Println("warning:", w)
	}
	for _, r := range set.Rules {
		p := r.Policy
		fmt.Printf("%s: %s: %d attempts, %v, timeout %v\n", r.Methods, p.Name, p.Retry.MaxAttempts, p.Retry.Codes, p.Timeout)
	}

	_, _, err = policy.FromServiceConfig([]byte(`{
  "methodConfig": [{"name": [{"service": "shop.v1.Cart"}], "timeout": "2m"}]
}`))
	fmt.Println(err)
	// Output:
	// warning: 2:3: loadBalancingConfig: is gRPC's own, and not taken over
	// [/shop.v1.Cart/*]: methodConfig[0]: 4 attempts, [Unavailable], timeout 2s
	// [*]: no retries: 1 attempts, [], timeout 0s
	// 2:60: methodConfig[0].timeout: must be a duration such as "1.5s", got "2m"
}

// What a service config cannot say is told.
func ExampleSet_ServiceConfig() {
	set := policy.Set{Rules: []policy.Rule{{
		Methods: []string{"/shop.v1.Cart/*"},
		Policy: policy.Policy{
			Timeout:        2 * time.Second,
			AttemptTimeout: 500 * time.Millisecond,
			Retry:          policy.Retry{Codes: []codes.Code{codes.Unavailable}},
		},
	}}}
	config, missing, err := set.ServiceConfig()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(config))
	for _, m := range missing {
		fmt.Println("missing:", m)
	}
	// Output:
	// {
	//   "methodConfig": [
	//     {
	//       "name": [
	//         {
	//           "service": "shop.v1.Cart"
	//         }
	//       ],
	//       "timeout": "2s",
	//       "retryPolicy": {
	//         "maxAttempts": 3,
	//         "initialBackoff": "0.05s",
	//         "maxBackoff": "5s",
	//         "backoffMultiplier": 2,
	//         "retryableStatusCodes": [
	//           "UNAVAILABLE"
	//         ]
	//       }
	//     }
	//   ]
	// }
	// missing: rules[0].policy.retry.backoff.jitter: a service config has none but the proportional, got full
	// missing: rules[0].policy.as_grpc: is what a service config always means
	// missing: rules[0].policy.attempt_timeout: a service config has none
	// missing: rules: none is for every method: rego makes up to 3 attempts of a method without a rule, and gRPC one
}
