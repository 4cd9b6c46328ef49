package policy_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/internal/testpolicy"
	"github.com/rego-go/rego/policy"
)

// limited has for each field of a set that can hurt the limits that refuse it.
var limited = map[string][]policy.Limits{
	"retries_off":                           {{Forbidden: []string{"retries_off"}}},
	"hedges_off":                            {{Forbidden: []string{"hedges_off"}}},
	"rules.policy.timeout":                  {{MaxTimeout: time.Millisecond}, {MinTimeout: time.Minute}},
	"rules.policy.attempt_timeout":          {{MaxTimeout: time.Millisecond}, {MinAttemptTimeout: time.Minute}},
	"rules.policy.retry.max_attempts":       {{MaxAttempts: 3}},
	"rules.policy.retry.backoff.initial":    {{MinBackoff: 30 * time.Millisecond}},
	"rules.policy.retry.backoff.multiplier": {{MinBackoff: 30 * time.Millisecond}},
	"rules.policy.retry.backoff.max":        {{MinBackoff: 30 * time.Millisecond}},
	"rules.policy.retry.reconnect":          {{MaxReconnect: policy.DefaultReconnect}},
	"rules.policy.hedge.max_extra_load":     {{MaxExtraLoad: 0.1}},
	"rules.policy.hedge.percentile":         {{MaxExtraLoad: 0.1}},
	"rules.policy.hedge.delay":              {{MaxExtraLoad: 0.1}},
	"rules.policy.hedge.trigger":            {{MaxExtraLoad: 0.1}},
	"budgets.name":                          {{Forbidden: []string{"budgets"}}},
	"budgets.ratio.ratio":                   {{MaxExtraLoad: 0.3}},
	"budgets.ratio.min_per_second":          {{MaxExtraLoad: 0.3, MaxExtraPerSecond: 0.3}},
	"budgets.token_bucket.per_second":       {{MaxExtraLoad: 0.3, MaxExtraPerSecond: 4.7}},
	"budgets.token_bucket.burst":            {{MaxExtraLoad: 0.3, MaxExtraPerSecond: 4.7}},
	"budgets.throttle.max_tokens":           {{MaxExtraLoad: 0.3}},
	"budgets.throttle.token_ratio":          {{MaxExtraLoad: 0.3}},
	"budgets.concurrency.share":             {{MaxExtraLoad: 0.3}},
	"budgets.concurrency.min":               {{MaxExtraLoad: 0.3}},
}

// unlimited has why the others have no limit. Each of a policy can be forbidden.
var unlimited = map[string]string{
	"version":                           "it is only shown",
	"epoch":                             "the store looks after it",
	"revision":                          "the store looks after it",
	"rules.methods":                     "limits say themselves which methods they are for",
	"rules.policy.name":                 "it is only shown",
	"rules.policy.idempotency":          "what is safe is known by the owner, who forbids the field",
	"rules.policy.wait_for_ready":       "the timeout and the caller's deadline bound the wait",
	"rules.policy.retry.off":            "it makes fewer attempts",
	"rules.policy.retry.codes":          "max_attempts and the budget bound what they lead to",
	"rules.policy.retry.stop_chain":     "it makes fewer attempts",
	"rules.policy.retry.backoff.jitter": "min_backoff counts before it",
	"rules.policy.hedge.off":            "it makes fewer attempts",
	"rules.policy.hedge.min_delay":      "it makes fewer hedges",
	"rules.policy.hedge.max_delay":      "it makes fewer hedges",
	"rules.policy.budget":               "the budgets that it can name are limited",
	"rules.policy.classifier":           "max_attempts and the budget bound what it leads to",
	"rules.policy.as_grpc":              "it makes fewer attempts",
}

// TestNoFieldIsForgottenInLimits: every field is refused by the limits in the table, or has a
// reason why there is none; and a policy's can be forbidden.
func TestNoFieldIsForgottenInLimits(t *testing.T) {
	t.Parallel()
	used := map[string]bool{"Overridable": true, "Methods": true} // which refuse nothing themselves
	for _, f := range testpolicy.Fields() {
		limits := limited[f.Path]
		assert.NotEqual(t, len(limits) == 0, unlimited[f.Path] == "",
			"%s: give it a limit (policy/limits.go, limits_wire.go and limits_check.go) and a row in limited, or a reason in unlimited: policy/forgotten_limits_test.go", f.Path)
		path, ok := f.Policy()
		if ok {
			limits = append(limits, policy.Limits{Forbidden: []string{path}})
		}
		around, err := f.Around().Compile()
		require.NoError(t, err)
		alone, err := f.Alone().Compile()
		require.NoError(t, err)
		for _, l := range limits {
			for name, is := range fieldsOf(l) {
				used[name] = used[name] || is == "set"
			}
			require.Error(t, l.Check(alone), "%s: %+v do not refuse it: policy/limits_check.go", f.Path, l)
			if !f.Budget() { // of which some are refused as a whole
				require.NoError(t, l.Check(around), "%s: %+v refuse a set without it", f.Path, l)
			}
		}
	}
	for name, is := range used {
		assert.True(t, is, "Limits.%s: refuses no field in this table", name)
	}
	assert.Len(t, used, reflect.TypeFor[policy.Limits]().NumField())
	for path := range limited {
		assert.Empty(t, unlimited[path], path)
	}
}
