package rollout_test

import (
	"fmt"
	"time"

	"github.com/rego-go/rego/policy/rollout"
)

// A set is tried out on a twentieth of the clients, and makes their calls fail. The control plane
// looks every five seconds.
func Example() {
	plan := rollout.Plan{Steps: []float64{0.05, 0.5}, Bake: 10 * time.Minute}
	if err := plan.Validate(); err != nil {
		fmt.Println(err)
		return
	}
	state := rollout.State{
		Started:  time.Date(2026, time.March, 2, 9, 0, 0, 0, time.UTC),
		Evidence: new(rollout.Evidence),
	}
	// What the calls of one method did in the five seconds before each look.
	increments := []rollout.Arms{
		{Canary: rollout.Counts{Calls: 40}, Rest: rollout.Counts{Calls: 760, Failed: 7}},
		{Canary: rollout.Counts{Calls: 42, Failed: 2}, Rest: rollout.Counts{Calls: 770, Failed: 8}},
		{Canary: rollout.Counts{Calls: 39, Failed: 7}, Rest: rollout.Counts{Calls: 755, Failed: 6}},
	}
	for i, increment := range increments {
		state.Now = state.Started.Add(time.Duration(i+1) * 5 * time.Second)
		state.Evidence.Add("/users.Users/Find", increment, plan.WithDefaults().MaxExtra)
		state.InStep = state.InStep.Plus(increment)
		state.Seen = []rollout.Stratum{{Method: "/users.Users/Find", Arms: state.InStep}}

		decision := plan.Decide(state)
		fmt.Println(decision.Verdict, "-", decision.Reason)
	}
	// Output:
	// stay - 40 of 1,000 calls; bakes for another 10m
	// stay - 82 of 1,000 calls; bakes for another 10m
	// reject - failed calls: 9 of 121 (7.4 %) in the canary, 21 of 2,285 (0.9 %) in the rest; evidence 1:3,400 against their being alike (rejected from 1:100)
}

func ExampleIncludes() {
	for _, instance := range []string{"users-7d9f-1", "users-7d9f-2", "users-7d9f-3"} {
		fmt.Println(instance, rollout.Includes("v18", instance, 0.05), rollout.Includes("v18", instance, 0.5))
	}
	// Output:
	// users-7d9f-1 false false
	// users-7d9f-2 false true
	// users-7d9f-3 false false
}
