package budget_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
)

const ms = time.Millisecond

func TestRatioLedgers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		config budget.RatioConfig
		ledger ledger
	}{
		{"ten originals pay for a retry", budget.RatioConfig{Ratio: 0.1}, ledger{
			{opened, 0},
			{denied(budget.Retry), 0},
			{originals(9), 0.9},
			{denied(budget.Retry), 0.9},
			{originals(1), 1},
			{granted(1, budget.Retry), 0},
			{denied(budget.Retry), 0},
			{originals(100), 10},
			{granted(10, budget.Hedge), 0},
			{denied(budget.Hedge), 0},
		}},
		{"an odd ratio is exact", budget.RatioConfig{Ratio: 0.29}, ledger{
			{originals(100), 29},
			{granted(29, budget.Retry), 0},
			{denied(budget.Retry), 0},
		}},
		{"the floor comes with time", budget.RatioConfig{MinPerSecond: 10}, ledger{
			{opened, 10}, // a second's worth to begin with
			{granted(10, budget.Retry), 0},
			{denied(budget.Retry), 0},
			{originals(1000), 0},
			{wait(99 * ms), 0.99},
			{denied(budget.Retry), 0.99},
			{wait(1 * ms), 1},
			{granted(1, budget.Retry), 0},
			{wait(500 * ms), 5},
			{wait(time.Hour), 10}, // no more than a second's worth
			{granted(10, budget.Hedge), 0},
			{denied(budget.Hedge), 0},
		}},
		{"deposits are forgotten after a second", budget.RatioConfig{Ratio: 0.1, MinPerSecond: 2}, ledger{
			{opened, 2},
			{originals(100), 12},
			{wait(1000 * ms), 12}, // 2 came, and 2 exceeded the second's worth
			{wait(125 * ms), 2},   // the second is up to an eighth longer
			{originals(100), 12},
			{granted(12, budget.Retry), 0},
			{wait(5 * time.Second), 2},
		}},
		{"deposits after a pause count in full", budget.RatioConfig{Ratio: 0.1}, ledger{
			{originals(100), 10},
			{wait(time.Minute), 1},
			{originals(10), 1},
			{originals(10), 2},
			{wait(2250 * ms), 1}, // the place of the last mark is taken by the next
			{originals(20), 2},
		}},
		{"one attempt can be saved up even by little traffic", budget.RatioConfig{Ratio: 0.02}, ledger{
			{originals(25), 0.5},
			{wait(time.Minute), 0.5},
			{originals(25), 1},
			{wait(time.Minute), 1},
			{originals(25), 1},
			{granted(1, budget.Hedge), 0},
		}},
		{"what was not sent is given back", budget.RatioConfig{Ratio: 1}, ledger{
			{originals(3), 3},
			{granted(2, budget.Retry), 1},
			{granted(1, budget.Hedge), 0},
			{released(1, budget.Retry, budget.Unsent), 1},
			{released(1, budget.Hedge, budget.Unsent), 2},
			{released(1, budget.Retry, budget.Unsent), 3},
			{released(1, budget.Original, budget.Unsent), 3},
			{granted(3, budget.Retry), 0},
			{denied(budget.Retry), 0},
		}},
		{"a retry that succeeds is given back", budget.RatioConfig{Ratio: 1}, ledger{
			{originals(4), 4},
			{granted(3, budget.Retry), 1},
			{granted(1, budget.Hedge), 0},
			{released(1, budget.Retry, budget.Success), 1},
			{released(1, budget.Retry, budget.Failure), 1},
			{released(1, budget.Retry, budget.Neutral), 1},
			{released(1, budget.Hedge, budget.Success), 1},
			{released(4, budget.Original, budget.Success), 1},
		}},
		{"unless it is not", budget.RatioConfig{Ratio: 1, NoRefund: true}, ledger{
			{originals(2), 2},
			{granted(2, budget.Retry), 0},
			{released(1, budget.Retry, budget.Success), 0},
			{released(1, budget.Retry, budget.Unsent), 1},
		}},
		{"refunds do not lift the balance above a second's worth", budget.RatioConfig{MinPerSecond: 5}, ledger{
			{granted(5, budget.Retry), 0},
			{wait(600 * ms), 3},
			{released(1, budget.Retry, budget.Success), 4},
			{released(4, budget.Retry, budget.Success), 5},
			{wait(100 * ms), 5},
			{granted(5, budget.Retry), 0},
			{denied(budget.Retry), 0},
		}},
		{"zero allows nothing", budget.RatioConfig{}, ledger{
			{originals(1000), 0},
			{wait(time.Hour), 0},
			{denied(budget.Retry), 0},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tt.ledger.check(t, ratio(t, tt.config))
			})
		})
	}
}

func TestPresets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ledger{
			{opened, 10},
			{originals(10), 11},
			{granted(1, budget.Retry), 10},
			{released(1, budget.Retry, budget.Success), 11},
		}.check(t, budget.Default())
		ledger{
			{opened, 10},
			{originals(10), 10.5},
			{granted(1, budget.Retry), 9.5},
			{released(1, budget.Retry, budget.Success), 10.5},
		}.check(t, budget.Conservative())
	})
}

// The full outage of docs/design.md: 700 calls a second for four seconds, up to
// four attempts each, of which none succeeds.
func TestOutage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name            string
		budget          func() *budget.Ratio
		attemptsPerCall float64
	}{
		{"default", budget.Default, 1.16},
		{"conservative", budget.Conservative, 1.10},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			const calls = 4 * 700
			b, attempts := tt.budget(), 0
			for range calls {
				time.Sleep(time.Second / 700) // of the bubble's time
				for n := range 4 {
					kind := budget.Retry
					if n == 0 {
						kind = budget.Original
					}
					l, ok := budget.Take(b, kind)
					if !ok {
						break
					}
					l.Release(budget.Failure)
					attempts++
				}
			}
			perCall := float64(attempts) / calls
			assert.LessOrEqual(t, perCall, tt.attemptsPerCall, tt.name)
			assert.Greater(t, perCall, tt.attemptsPerCall-0.05, "%s: far less than allowed", tt.name)
		})
	}
}

// When every fifth attempt fails, retries repair it all and the refund pays.
func TestScatteredFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := budget.Default()
		for call := range 4 * 700 {
			time.Sleep(time.Second / 700)
			require.True(t, b.Acquire(budget.Original))
			if call%5 == 0 {
				l, ok := budget.Take(b, budget.Retry)
				require.True(t, ok, "call %d", call)
				l.Release(budget.Success)
			}
		}
	})
}
