package policy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rego-go/rego/policy"
)

// What does a policy lead to in the worst case? Explain says it in words.
func ExamplePolicy_Explain() {
	p := policy.Policy{
		Timeout: 2 * time.Second,
		Retry:   policy.Retry{Backoff: policy.Backoff{Initial: 100 * time.Millisecond, Jitter: policy.JitterNone}},
	}
	e := p.Explain(nil)
	for _, s := range e.Steps {
		fmt.Println("attempt", s.Number, s.Begins)
	}
	fmt.Println("at most", e.Attempts, "attempts and", e.Longest)

	// Output:
	// attempt 1 at once
	// attempt 2 100ms after number 1 has failed
	// attempt 3 200ms after number 2 has failed
	// at most 3 attempts and 2s
}

// What keeps a source from going too far? Limits that the owner of the program sets. Each store asks
// them of every set, whoever sends it.
func ExampleLimits() {
	limits := policy.Limits{MaxAttempts: 4, MinTimeout: 100 * time.Millisecond, Forbidden: []string{"retry.codes"}}
	store := new(policy.Store)
	if err := store.Guard(limits.Check); err != nil {
		fmt.Println(err)
		return
	}
	source := store.Source("somewhere else")
	fmt.Println(source.Update(policy.Set{Version: "1", Rules: []policy.Rule{{
		Methods: []string{"/shop.v1.Cart/*"},
		Policy:  policy.Policy{Name: "cart", Timeout: time.Nanosecond},
	}}}))
	fmt.Println(store.Status().State(), store.Status().Refusals)

	// Output:
	// rules[0]: policy "cart": timeout: must not be below the limit 100ms, got 1ns
	// refused 1
}

// Which policies does a program have that starts while its source is away? Those of its snapshot:
// the last good set that a source has brought.
func ExampleSnapshot() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "policies.snapshot")

	before, err := policy.NewStore(policy.Set{}, policy.Snapshot(path))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(before.Source("control plane").Update(policy.Set{Version: "7"}))
	untilThere(path) // it is written in the background

	after, err := policy.NewStore(policy.Set{Version: "built in"}, policy.Snapshot(path))
	fmt.Println(after.Current().Version(), after.Status().State(), after.Status().Source, err)

	// Output:
	// <nil>
	// 7 stale snapshot <nil>
}

// untilThere waits until there is a file. In real time: a store does not tell when it has written its
// snapshot.
func untilThere(path string) {
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
