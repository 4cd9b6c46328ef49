package budget_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
)

// Not parallel: AllocsPerRun counts those of the whole process.
func TestDecisionsDoNotAllocate(t *testing.T) {
	bucket, err := budget.NewTokenBucket(budget.TokenBucketConfig{PerSecond: 10})
	require.NoError(t, err)
	throttle, err := budget.NewThrottle(budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 0.1})
	require.NoError(t, err)
	concurrency, err := budget.NewConcurrency(budget.ConcurrencyConfig{Share: 0.2, Min: 3})
	require.NoError(t, err)

	for _, b := range []budget.Budget{
		budget.Default(),
		ratio(t, budget.RatioConfig{}), // denies
		bucket,
		throttle,
		concurrency,
		extraLoad(t, 0.02),
		budget.All(budget.Default(), bucket, throttle, concurrency),
	} {
		allocs := testing.AllocsPerRun(1000, func() {
			for _, k := range []budget.Kind{budget.Original, budget.Retry, budget.Hedge, budget.Replacement} {
				l, _ := budget.Take(b, k)
				l.Release(budget.Success)
				l, _ = budget.Take(b, k)
				l.Release(budget.Unsent)
			}
		})
		assert.Zero(t, allocs, "%T", b)
	}
}
