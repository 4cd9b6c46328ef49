package budget_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/internal/virtual"
)

const ms = time.Millisecond

func TestRatioLedgers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		config budget.RatioConfig
		ledger ledger
	}{
		{"ten successes pay for a retry", budget.RatioConfig{Ratio: 0.1}, ledger{
			{opened, 0},
			{denied(budget.Retry), 0},
			{successes(9), 0.9},
			{denied(budget.Retry), 0.9},
			{successes(1), 1},
			{granted(1, budget.Retry), 0},
			{denied(budget.Retry), 0},
			{successes(100), 10},
			{granted(10, budget.Hedge), 0},
			{denied(budget.Hedge), 0},
		}},
		{"an odd ratio is exact", budget.RatioConfig{Ratio: 0.29}, ledger{
			{successes(100), 29},
			{granted(29, budget.Retry), 0},
			{denied(budget.Retry), 0},
		}},
		{"nothing else pays", budget.RatioConfig{Ratio: 1, MinPerSecond: 10}, ledger{
			{opened, 10},
			{granted(10, budget.Retry), 0},
			{originals(100), 0},
			{released(30, budget.Original, budget.Failure), 0},
			{released(30, budget.Original, budget.Neutral), 0},
			{released(30, budget.Original, budget.Unsent), 0},
			{released(5, budget.Hedge, budget.Failure), 0},
			{released(5, budget.Replacement, budget.Neutral), 0},
			{wait(time.Hour), 0},
			{released(1, budget.Original, budget.Success), 2}, // the ratio, and a whole attempt
		}},
		{"every attempt that succeeds pays", budget.RatioConfig{Ratio: 0.5}, ledger{
			{successes(8), 4},
			{granted(2, budget.Hedge), 2},
			{released(1, budget.Hedge, budget.Success), 2.5}, // of the original nothing comes: it is cancelled
			{granted(1, budget.Retry), 1.5},
			{released(1, budget.Retry, budget.Success), 3},
		}},
		{"a replacement takes two", budget.RatioConfig{Ratio: 0.5}, ledger{
			{successes(9), 4.5},
			{granted(2, budget.Replacement), 0.5},
			{denied(budget.Replacement), 0.5},
			{released(1, budget.Replacement, budget.Failure), 0.5},
			{successes(2), 1.5},
			{denied(budget.Replacement), 1.5}, // and takes nothing
			{granted(1, budget.Retry), 0.5},
			{released(1, budget.Replacement, budget.Unsent), 2.5},
			{granted(1, budget.Replacement), 0.5},
			{released(1, budget.Replacement, budget.Success), 3},
			{released(1, budget.Replacement, budget.Neutral), 3},
		}},
		{"few successes pay a whole attempt each", budget.RatioConfig{MinPerSecond: 10}, ledger{
			{opened, 10}, // a second's worth to begin with
			{granted(10, budget.Retry), 0},
			{wait(1000 * ms), 0},
			{successes(1), 1},
			{wait(100 * ms), 1},
			{successes(1), 2},
			{wait(50 * ms), 2},
			{successes(1), 2.5}, // the eleventh in a second pays what is left
			{wait(50 * ms), 2.5},
			{successes(100), 3},
			{wait(time.Hour), 3},
			{successes(1), 4},
		}},
		{"successes between two looks count as even", budget.RatioConfig{MinPerSecond: 10}, ledger{
			{granted(10, budget.Retry), 0},
			{wait(200 * ms), 0}, // but one token is all that waits for successes
			{successes(5), 1},
		}},
		{"deposits are forgotten after a second", budget.RatioConfig{Ratio: 0.1, MinPerSecond: 2}, ledger{
			{opened, 2},
			{successes(100), 12},
			{wait(1000 * ms), 12},
			{wait(125 * ms), 2}, // the second is up to an eighth longer
			{successes(100), 12},
			{granted(12, budget.Retry), 0},
			{wait(5 * time.Second), 0},
		}},
		{"those that come one by one too", budget.RatioConfig{Ratio: 0.5}, ledger{
			{steady(100, 500*ms), 1.5},
			{successes(1000), 501.5},
			{steady(100, 500*ms), 1.5},
		}},
		{"deposits after a pause count in full", budget.RatioConfig{Ratio: 0.1}, ledger{
			{successes(100), 10},
			{wait(time.Minute), 1},
			{successes(10), 1},
			{successes(10), 2},
			{wait(2250 * ms), 1}, // the place of the last mark is taken by the next
			{successes(20), 2},
		}},
		{"one attempt can be saved up even by little traffic", budget.RatioConfig{Ratio: 0.02}, ledger{
			{successes(25), 0.5},
			{wait(time.Minute), 0.5},
			{successes(25), 1},
			{wait(time.Minute), 1},
			{successes(25), 1},
			{granted(1, budget.Hedge), 0},
		}},
		{"what was not sent is given back", budget.RatioConfig{Ratio: 1}, ledger{
			{successes(3), 3},
			{granted(2, budget.Retry), 1},
			{granted(1, budget.Hedge), 0},
			{released(1, budget.Retry, budget.Unsent), 1},
			{released(1, budget.Hedge, budget.Unsent), 2},
			{released(1, budget.Retry, budget.Unsent), 3},
			{released(1, budget.Original, budget.Unsent), 3},
			{granted(3, budget.Retry), 0},
			{denied(budget.Retry), 0},
		}},
		{"a retry that succeeds is given back", budget.RatioConfig{Ratio: 0.5}, ledger{
			{successes(8), 4},
			{granted(3, budget.Retry), 1},
			{released(1, budget.Retry, budget.Success), 2.5},
			{released(1, budget.Retry, budget.Failure), 2.5},
			{released(1, budget.Retry, budget.Neutral), 2.5},
		}},
		{"refunds do not lift the balance above a second's worth", budget.RatioConfig{MinPerSecond: 5}, ledger{
			{granted(5, budget.Retry), 0},
			{released(4, budget.Retry, budget.Success), 4},
			{released(4, budget.Retry, budget.Success), 5},
			{granted(5, budget.Retry), 0},
			{denied(budget.Retry), 0},
		}},
		{"zero allows nothing", budget.RatioConfig{}, ledger{
			{successes(1000), 0},
			{wait(time.Hour), 0},
			{denied(budget.Retry), 0},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tt.ledger.check(t, ratio(t, tt.config).OneCell())
			})
		})
	}
}

func TestDefault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ledger{
			{opened, 3},
			{successes(20), 5},
			{granted(1, budget.Retry), 4},
			{released(1, budget.Retry, budget.Failure), 4},
			{granted(2, budget.Replacement), 0},
			{released(2, budget.Replacement, budget.Success), 4.2},
		}.check(t, budget.Default().OneCell())
	})
}

// In a full outage only what was saved up is sent: at 2, 20 and 700 calls a second,
// for a minute after ten seconds of health, up to four attempts each.
func TestOutage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		perSecond       int
		attemptsPerCall float64
	}{{2, 1.10}, {20, 1.03}, {700, 1.02}} {
		synctest.Test(t, func(t *testing.T) {
			b, calls, attempts := budget.Default(), 60*tt.perSecond, 0
			for call := range calls + 10*tt.perSecond {
				virtual.Sleep(time.Second / time.Duration(tt.perSecond))
				if call < 10*tt.perSecond {
					successes(1)(t, b)
					continue
				}
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
			assert.LessOrEqual(t, float64(attempts)/float64(calls), tt.attemptsPerCall, "%d calls/s", tt.perSecond)
			assert.Greater(t, attempts, calls, "%d calls/s: nothing was saved up", tt.perSecond)
		})
	}
}

// When every fifth attempt fails, retries repair it all and the refund pays.
func TestScatteredFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := budget.Default()
		for call := range 4 * 700 {
			virtual.Sleep(time.Second / 700)
			original, _ := budget.Take(b, budget.Original)
			if call%5 != 4 {
				original.Release(budget.Success)
				continue
			}
			original.Release(budget.Failure)
			l, ok := budget.Take(b, budget.Retry)
			require.True(t, ok, "call %d", call)
			l.Release(budget.Success)
		}
	})
}

// What comes in while others are denied is not overlooked: who asks afterwards gets it.
func TestRatioOverlooksNothing(t *testing.T) {
	t.Parallel()
	for range 2000 {
		r := ratio(t, budget.RatioConfig{Ratio: 1})
		var wg sync.WaitGroup
		wg.Go(func() { r.Release(budget.Original, budget.Success) })
		granted := 0
		for range 20 {
			if r.Acquire(budget.Retry) {
				granted++
			}
		}
		wg.Wait()
		if granted == 0 {
			assert.True(t, r.Acquire(budget.Retry), "one was deposited")
		}
	}
}

// After a denial, what is given back is there again.
func TestRatioDeniesNothingThatWasGivenBack(t *testing.T) {
	t.Parallel()
	r := ratio(t, budget.RatioConfig{MinPerSecond: 1})
	require.True(t, r.Acquire(budget.Retry))
	require.False(t, r.Acquire(budget.Retry))
	r.Release(budget.Retry, budget.Unsent)
	require.True(t, r.Acquire(budget.Retry))
}

// A client with few calls is granted all that its successes have paid, and at once.
func TestRatioOverlooksNothingOfFewSuccesses(t *testing.T) {
	t.Parallel()
	for perSecond := 1; perSecond <= 6; perSecond++ {
		synctest.Test(t, func(t *testing.T) {
			r := ratio(t, budget.RatioConfig{MinPerSecond: float64(perSecond)}).OneCell()
			granted(perSecond, budget.Retry)(t, r)
			for range 50 {
				denied(budget.Retry)(t, r)
				virtual.Sleep(time.Second/time.Duration(perSecond) + ms)
				denied(budget.Retry)(t, r)
				successes(1)(t, r)
				granted(1, budget.Retry)(t, r)
			}
		})
	}
}

// Nor is one with many.
func TestRatioOverlooksNothingOfManySuccesses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := ratio(t, budget.RatioConfig{Ratio: 1}).OneCell()
		successes(1000)(t, r)
		granted(1000, budget.Retry)(t, r)
		for range 50 {
			denied(budget.Retry)(t, r)
			successes(1)(t, r)
			granted(1, budget.Retry)(t, r)
		}
	})
}
