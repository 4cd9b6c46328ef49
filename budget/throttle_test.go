package budget_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
)

func TestThrottleLedgers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		config budget.ThrottleConfig
		ledger ledger
	}{
		{"more than half must be left", budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 0.1}, ledger{
			{opened, 10},
			{granted(3, budget.Retry), 10}, // they take nothing by themselves
			{released(4, budget.Original, budget.Failure), 6},
			{granted(1, budget.Hedge), 6},
			{released(1, budget.Hedge, budget.Failure), 5},
			{denied(budget.Retry), 5},
			{denied(budget.Hedge), 5},
			{originals(1), 5},
			{released(1, budget.Original, budget.Success), 5.1},
			{granted(1, budget.Retry), 5.1},
			{released(1, budget.Retry, budget.Success), 5.2},
		}},
		{"between none and the maximum", budget.ThrottleConfig{MaxTokens: 2, TokenRatio: 0.9}, ledger{
			{released(3, budget.Original, budget.Success), 2},
			{released(5, budget.Original, budget.Failure), 0},
			{released(1, budget.Original, budget.Success), 0.9},
			{denied(budget.Retry), 0.9},
			{released(2, budget.Original, budget.Success), 2},
			{granted(1, budget.Retry), 2},
		}},
		{"an odd maximum is halved exactly", budget.ThrottleConfig{MaxTokens: 3, TokenRatio: 0.5}, ledger{
			{released(2, budget.Original, budget.Failure), 1},
			{released(1, budget.Original, budget.Success), 1.5},
			{denied(budget.Retry), 1.5},
			{released(1, budget.Original, budget.Success), 2},
			{granted(1, budget.Retry), 2},
		}},
		{"three decimals", budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 0.5466}, ledger{
			{released(2, budget.Original, budget.Failure), 8},
			{released(1, budget.Original, budget.Success), 8.546},
		}},
		{"three decimals, not fewer", budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 0.57}, ledger{
			{released(2, budget.Original, budget.Failure), 8},
			{released(1, budget.Original, budget.Success), 8.57},
		}},
		{"other results change nothing", budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 1}, ledger{
			{released(1, budget.Original, budget.Failure), 9},
			{released(1, budget.Original, budget.Neutral), 9},
			{released(1, budget.Hedge, budget.Neutral), 9},
			{released(1, budget.Retry, budget.Unsent), 9},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, err := budget.NewThrottle(tt.config)
			require.NoError(t, err)
			tt.ledger.check(t, b)
		})
	}
}
