package budget_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
)

func TestTokenBucketLedgers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		config budget.TokenBucketConfig
		ledger ledger
	}{
		{"burst and refill", budget.TokenBucketConfig{PerSecond: 2, Burst: 3}, ledger{
			{opened, 3},
			{originals(100), 3},
			{granted(2, budget.Retry), 1},
			{granted(1, budget.Hedge), 0},
			{denied(budget.Hedge), 0},
			{wait(499 * ms), 0.998},
			{denied(budget.Retry), 0.998},
			{wait(1 * ms), 1},
			{granted(1, budget.Retry), 0},
			{wait(time.Hour), 3},
		}},
		{"only what was not sent is given back", budget.TokenBucketConfig{PerSecond: 1, Burst: 4}, ledger{
			{granted(4, budget.Retry), 0},
			{released(1, budget.Retry, budget.Success), 0},
			{released(1, budget.Retry, budget.Failure), 0},
			{released(1, budget.Retry, budget.Unsent), 1},
			{released(1, budget.Retry, budget.Unsent), 2},
			{released(1, budget.Original, budget.Unsent), 2},
			{wait(2 * time.Second), 4},
			{released(1, budget.Retry, budget.Unsent), 4}, // full
		}},
		{"the burst is a second's worth by default", budget.TokenBucketConfig{PerSecond: 5}, ledger{
			{opened, 5},
		}},
		{"and at least one", budget.TokenBucketConfig{PerSecond: 0.1}, ledger{
			{granted(1, budget.Retry), 0},
			{wait(9999 * ms), 0.9999},
			{denied(budget.Retry), 0.9999},
			{wait(1 * ms), 1},
			{granted(1, budget.Retry), 0},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b, err := budget.NewTokenBucket(tt.config)
				require.NoError(t, err)
				tt.ledger.check(t, b)
			})
		})
	}
}
