package twin

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/internal/testpolicy"
	"github.com/rego-go/rego/policy"
)

// left are the fields of a policy that random programs leave at their zero, with the reason.
var left = map[string]string{
	"name":                 "is only shown",
	"retry.stop_chain":     "programs serve no calls of others",
	"hedge.off":            "is as a policy without a delay",
	"hedge.max_extra_load": "its delay follows from latency, which the bare run cannot repeat",
	"hedge.percentile":     "its delay follows from latency, which the bare run cannot repeat",
	"hedge.trigger":        "is code, which has tests of its own",
	"hedge.min_delay":      "bounds the delay that follows from latency",
	"hedge.max_delay":      "bounds the delay that follows from latency",
	"budget":               "budgets are unlimited, so that none denies",
	"as_grpc":              "says when to retry, which the twin does not judge: docs/conformance.md has the tests",
}

// TestRandomPolicies: random programs have every field of a policy, or there is a reason.
func TestRandomPolicies(t *testing.T) {
	t.Parallel()
	set := map[string]bool{}
	for seed := range uint64(2000) {
		for _, r := range Random(seed, OfAll).Rules {
			s := policy.Set{Rules: []policy.Rule{{Policy: r.policy()}}}
			for _, f := range testpolicy.Fields() {
				for _, v := range f.Values(s) {
					set[f.Path] = set[f.Path] || !v.IsZero()
				}
			}
		}
	}
	for _, f := range testpolicy.Fields() {
		if path, ok := f.Policy(); ok {
			assert.NotEqual(t, left[path] == "", !set[f.Path],
				"%s: vary it in Rules (internal/twin/program.go, random.go, and policy in check.go), or say in left of internal/twin/random_test.go why not", path)
		}
	}
}
