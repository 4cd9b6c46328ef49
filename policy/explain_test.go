package policy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

// TestExplain: what policies lead to. The command's golden files have the rest.
func TestExplain(t *testing.T) {
	t.Parallel()
	few := &policy.NamedBudget{Name: "few", TokenBucket: &budget.TokenBucketConfig{PerSecond: 2, Burst: 4}}
	const defaultLoad = "what each client has saved up in a second, 10 % of its calls and 3 attempts (the default budget, unless its code has another)"
	const (
		pushback = "the server's pushback takes the place of these waits"
		asks     = "; an overloaded server (RESOURCE_EXHAUSTED) is tried again only if it asks for it"
		deadline = " (all attempts and waits, without pushback) of a call that has no deadline, and else until its deadline"
		caller   = "as long as the caller's deadline"
		timeout  = " (timeout), or the caller's deadline if that is earlier"
		alone    = "that of the calls: there are no extra attempts"
	)
	begins := func(after ...string) []policy.Step {
		steps := []policy.Step{{Number: 1, Begins: "at once"}}
		for i, wait := range after {
			steps = append(steps, policy.Step{Number: i + 2, Begins: fmt.Sprintf("%s after number %d has failed", wait, i+1)})
		}
		return steps
	}
	exactly := func(initial time.Duration) policy.Backoff {
		return policy.Backoff{Initial: initial, Jitter: policy.JitterNone}
	}
	exhausted, either := []codes.Code{codes.ResourceExhausted}, []codes.Code{codes.Aborted, codes.ResourceExhausted}
	for name, r := range map[string]struct {
		policy policy.Policy
		budget *policy.NamedBudget
		want   policy.Explanation
	}{
		"default": {policy.Policy{}, nil, policy.Explanation{
			Attempts: 3, Steps: begins("0s to 50ms", "0s to 100ms"), Waits: pushback + asks, Time: caller, Load: defaultLoad,
		}},
		"no retries": {policy.Policy{Retry: policy.Retry{Off: true}, Timeout: time.Second}, nil, policy.Explanation{
			Attempts: 1, Steps: begins(), Longest: time.Second, Time: "1s" + timeout, Load: alone,
		}},
		"every failure is final": {policy.Policy{Classifier: policy.ClassifierNone}, nil, policy.Explanation{
			Attempts: 1, Steps: begins(), Time: caller, Load: alone,
		}},
		"hedges alone, with a budget": {
			policy.Policy{Retry: policy.Retry{Off: true, MaxAttempts: 2}, Hedge: policy.Hedge{MaxExtraLoad: 0.02}, Budget: "few"}, few, policy.Explanation{
				Attempts: 2, Hedging: "hedged, if the method is known to be idempotent: the next attempt begins when one takes longer than all but 2 % lately, after 1ms at least, and at once when one fails that may be repeated",
				Steps: begins(), Time: caller, Load: `2 attempts per second more of each client, and 4 that it has saved up (budget "few"); hedges 2 % of it`,
			}},
		"hedges of what is not idempotent": {
			policy.Policy{Idempotency: classify.NotIdempotent, Retry: policy.Retry{Off: true}, Hedge: policy.Hedge{Delay: 1}}, nil, policy.Explanation{
				Attempts: 1, Hedging: "not hedged: the method is not known to be idempotent", Steps: begins(), Time: caller, Load: alone,
			}},
		"hedges after the timeout": {
			policy.Policy{Idempotency: classify.Idempotent, Timeout: time.Second, Retry: policy.Retry{Off: true}, Hedge: policy.Hedge{Delay: time.Second}}, nil, policy.Explanation{
				Attempts: 3, Hedging: "hedged: none begins because an attempt is slow, since the timeout of 1s comes first, and at once when one fails that may be repeated",
				Steps: begins(), Longest: time.Second, Time: "1s" + timeout, Load: defaultLoad,
			}},
		"hedges after the timeout, and every failure is final": {
			policy.Policy{Idempotency: classify.Idempotent, Timeout: time.Second, Classifier: policy.ClassifierNone, Hedge: policy.Hedge{Delay: time.Second}}, nil, policy.Explanation{
				Attempts: 1, Hedging: "hedged: none begins because an attempt is slow, since the timeout of 1s comes first", Steps: begins(),
				Longest: time.Second, Time: "1s" + timeout, Load: alone,
			}},
		"a budget in code": {
			policy.Policy{Retry: policy.Retry{MaxAttempts: 2}, AttemptTimeout: time.Second, Budget: "mine"}, nil, policy.Explanation{
				Attempts: 2, Steps: begins("0s to 50ms"), Waits: pushback + asks, Longest: 2050 * time.Millisecond,
				Time: "2.05s" + deadline + "; up to 5s more while there is no connection (retry.reconnect)", Load: `as the client's budget "mine" allows`,
			}},
		"an overloaded server alone": {
			policy.Policy{AttemptTimeout: 100 * time.Millisecond, Retry: policy.Retry{Codes: exhausted}}, nil, policy.Explanation{
				Attempts: 3, Steps: begins("0s to 1s", "0s to 2s"), Waits: pushback, Longest: 3300 * time.Millisecond, Time: "3.3s" + deadline, Load: defaultLoad,
			}},
		"and another failure": {
			policy.Policy{AttemptTimeout: 100 * time.Millisecond, Retry: policy.Retry{Codes: either}}, nil, policy.Explanation{
				Attempts: 3, Steps: begins("0s to 50ms", "0s to 100ms"), Overloaded: begins("0s to 1s", "0s to 2s"), Waits: pushback,
				Longest: 3300 * time.Millisecond, Time: "450ms, and 3.3s if the server is overloaded" + deadline, Load: defaultLoad,
			}},
		"waits longer than for an overloaded server": {
			policy.Policy{Retry: policy.Retry{Codes: either, Backoff: exactly(2 * time.Second)}}, nil, policy.Explanation{
				Attempts: 3, Steps: begins("2s", "4s"), Waits: pushback, Time: caller, Load: defaultLoad,
			}},
		"a wait that the timeout has no place for": {
			policy.Policy{Timeout: time.Second, Retry: policy.Retry{MaxAttempts: 5, Backoff: exactly(2 * time.Second)}}, nil, policy.Explanation{
				Attempts: 1, Steps: begins(), Waits: "no more than 1 can begin within the timeout, but 5 if the server's pushback takes the place of the waits" + asks,
				Longest: time.Second, Time: "1s" + timeout, Load: alone,
			}},
		"only an overloaded server's has none": {
			policy.Policy{Timeout: time.Second, Retry: policy.Retry{Codes: either, Backoff: exactly(100 * time.Millisecond)}}, nil, policy.Explanation{
				Attempts: 3, Steps: begins("100ms", "200ms"), Overloaded: begins(), Waits: pushback, Longest: time.Second, Time: "1s" + timeout, Load: defaultLoad,
			}},
		"half of the waits have": {
			policy.Policy{Timeout: time.Second, Retry: policy.Retry{Codes: exhausted, Backoff: policy.Backoff{Jitter: policy.JitterEqual}}}, nil, policy.Explanation{
				Attempts: 2, Steps: begins("500ms to 1s"), Waits: "no more than 2 can begin within the timeout, but 3 if the server's pushback takes the place of the waits",
				Longest: time.Second, Time: "1s" + timeout, Load: defaultLoad,
			}},
	} {
		assert.Equal(t, r.want, r.policy.Explain(r.budget), name)
	}
}
