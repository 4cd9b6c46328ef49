package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/policy"
)

// TestExplain: what policies lead to. The command's golden files have the rest.
func TestExplain(t *testing.T) {
	t.Parallel()
	few := &policy.Budget{Name: "few", TokenBucket: &budget.TokenBucketConfig{PerSecond: 2, Burst: 4}}
	const defaultLoad = "what each client has saved up in a second, 10 % of its calls and 3 attempts (the default budget, unless its code has another)"
	const waits = "the server's pushback takes the place of these waits; of an overloaded server they begin with 1s"
	for name, r := range map[string]struct {
		policy policy.Policy
		budget *policy.Budget
		want   policy.Explanation
	}{
		"default": {policy.Policy{}, nil, policy.Explanation{
			Attempts: 3,
			Steps:    []policy.Step{{Number: 1, Begins: "at once"}, {Number: 2, Begins: "0s to 50ms after number 1 has failed"}, {Number: 3, Begins: "0s to 100ms after number 2 has failed"}},
			Waits:    waits,
			Time:     "as long as the caller's deadline",
			Load:     defaultLoad,
		}},
		"no retries": {policy.Policy{Retry: policy.Retry{Off: true}, Timeout: time.Second}, nil, policy.Explanation{
			Attempts: 1,
			Steps:    []policy.Step{{Number: 1, Begins: "at once"}},
			Time:     "1s (timeout), or the caller's deadline if that is earlier",
			Load:     "that of the calls: there are no extra attempts",
		}},
		"hedges alone, with a budget": {policy.Policy{Retry: policy.Retry{Off: true, MaxAttempts: 2}, Hedge: policy.Hedge{MaxExtraLoad: 0.02}, Budget: "few"}, few, policy.Explanation{
			Attempts: 2,
			Hedging:  "hedged, if the method is known to be idempotent: the next attempt begins when one takes longer than all but 2 % lately, after 1ms at least",
			Steps:    []policy.Step{{Number: 1, Begins: "at once"}},
			Time:     "as long as the caller's deadline",
			Load:     `2 attempts per second more of each client (budget "few"); hedges 2 % of it`,
		}},
		"a budget in code": {policy.Policy{Retry: policy.Retry{MaxAttempts: 2}, AttemptTimeout: time.Second, Budget: "mine"}, nil, policy.Explanation{
			Attempts: 2,
			Steps:    []policy.Step{{Number: 1, Begins: "at once"}, {Number: 2, Begins: "0s to 50ms after number 1 has failed"}},
			Waits:    waits,
			Time:     "2.05s (all attempts and waits, without pushback) of a call that has no deadline, and else until its deadline",
			Load:     `as the client's budget "mine" allows`,
		}},
	} {
		assert.Equal(t, r.want, r.policy.Explain(r.budget), name)
	}
}
