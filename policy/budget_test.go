package policy_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/policy"
)

func TestBudgets(t *testing.T) {
	t.Parallel()
	ratio := &budget.RatioConfig{Ratio: 0.05}
	for _, r := range []struct {
		budget policy.NamedBudget
		want   string // empty if it is valid
	}{
		{policy.NamedBudget{Name: "a", Ratio: ratio}, ""},
		{policy.NamedBudget{Name: "a", TokenBucket: &budget.TokenBucketConfig{PerSecond: 1}}, ""},
		{policy.NamedBudget{Name: "a", Throttle: &budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 0.1}}, ""},
		{policy.NamedBudget{Name: "a", Concurrency: &budget.ConcurrencyConfig{Min: 3}}, ""},
		{policy.NamedBudget{Ratio: ratio}, `budgets[0].name: must not be empty`},
		{policy.NamedBudget{Name: "a"}, `budgets[0]: exactly one of ratio, token_bucket, throttle and concurrency must be set`},
		{policy.NamedBudget{Name: "a", Ratio: ratio, Concurrency: &budget.ConcurrencyConfig{}}, `budgets[0]: exactly one of ratio, token_bucket, throttle and concurrency must be set`},
		{policy.NamedBudget{Name: "a", Ratio: &budget.RatioConfig{Ratio: 2}}, `budgets[0].ratio.ratio: must be between 0 and 1, got 2`},
		{policy.NamedBudget{Name: "a", Ratio: &budget.RatioConfig{Ratio: math.NaN()}}, `budgets[0].ratio.ratio: must be a finite number, got NaN`},
		{policy.NamedBudget{Name: "a", Throttle: &budget.ThrottleConfig{MaxTokens: 10}}, `budgets[0].throttle.token_ratio: must be at least 0.001, got 0`},
	} {
		table, err := policy.Set{Budgets: []policy.NamedBudget{r.budget}}.Compile()
		if r.want != "" {
			require.EqualError(t, err, r.want)
			continue
		}
		require.NoError(t, err)
		got, ok := table.Budget("a")
		require.True(t, ok)
		assert.True(t, got.Equal(r.budget))
		b, err := got.New()
		require.NoError(t, err)
		assert.NotNil(t, b)
		_, ok = table.Budget("b")
		assert.False(t, ok)
	}
	_, err := policy.Set{Budgets: []policy.NamedBudget{{Name: "a", Ratio: ratio}, {Name: "a", Ratio: ratio}}}.Compile()
	require.EqualError(t, err, `budgets[1].name: "a" is already defined`)
}

// TestBudgetsAreNotShared: a table is immutable, its budgets too.
func TestBudgetsAreNotShared(t *testing.T) {
	t.Parallel()
	c := &budget.RatioConfig{Ratio: 0.05}
	table, err := policy.Set{Budgets: []policy.NamedBudget{{Name: "a", Ratio: c}}}.Compile()
	require.NoError(t, err)
	c.Ratio = 1
	got, _ := table.Budget("a")
	assert.InDelta(t, 0.05, got.Ratio.Ratio, 0)
	assert.False(t, got.Equal(policy.NamedBudget{Name: "a", Ratio: c}))
	assert.False(t, got.Equal(policy.NamedBudget{Name: "a"}))
}
