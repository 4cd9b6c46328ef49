package budget

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAccrued(t *testing.T) {
	t.Parallel()
	tests := []struct {
		perSecond float64
		now       time.Duration
		want      float64
	}{
		{10, 0, 0},
		{10, 100 * time.Millisecond, 1},
		{10, 99999 * time.Microsecond, 0.99999},
		{0.5, 3 * time.Second, 1.5},
		{10, 24 * time.Hour, 864000},
		{1e6, 90 * 24 * time.Hour, 7776e9}, // nearly as much as an int64 holds
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, attempts(accrued(units(tt.perSecond), tt.now)), "%v per second for %v", tt.perSecond, tt.now)
	}
}

// At the highest rate sums wrap around after 107 days. Differences stay right.
func TestAccountOutlivesItsNumbers(t *testing.T) {
	t.Parallel()
	rate := units(maxPerSecond)
	a := account{cells: newCells()}
	for day := range 400 {
		earned := rate + accrued(rate, time.Duration(day)*24*time.Hour)
		require.Equal(t, rate, a.balance(earned, rate), "day %d", day)
		require.True(t, a.withdraw(earned, rate), "day %d", day)
		require.Equal(t, rate-attempt, a.balance(earned, rate), "day %d", day)
	}
}

// An attempt at hand on any processor is within reach of all.
func TestAccountSpendsWhatIsAtHandElsewhere(t *testing.T) {
	t.Parallel()
	a := account{cells: newCells()}
	for i := range a.cells {
		a.cells[i].atHand.Store(1)
		a.spent.Add(attempt)
	}
	n := int64(len(a.cells))
	for i := range n {
		assert.Equal(t, n-i, a.balance(n*attempt, n*attempt)/attempt)
		assert.True(t, a.spend() || a.withdraw(n*attempt, n*attempt), "%d of %d", i, n)
	}
	assert.False(t, a.spend() || a.withdraw(n*attempt, n*attempt))
}

func TestAccountKeepsLittleAtHand(t *testing.T) {
	t.Parallel()
	for _, balance := range []int64{1, 5, 10, 31, 100, 1000, 10_000} {
		a := account{cells: newCells()}
		for range balance / 2 {
			require.True(t, a.spend() || a.withdraw(balance*attempt, balance*attempt))
			require.LessOrEqual(t, a.cells.atHand(), balance*attempt/4, "of %d", balance)
			for i := range a.cells {
				require.Less(t, a.cells[i].atHand.Load(), int64(maxAtHand), "of %d", balance)
			}
		}
	}
}

func TestAccountKeepsOneOfThoseGivenBack(t *testing.T) {
	t.Parallel()
	a := account{cells: newCells()}
	a.spent.Store(100 * attempt)
	for n := range int64(100) {
		require.Equal(t, n, a.balance(100*attempt, 100*attempt)/attempt)
		a.giveBack()
		for i := range a.cells {
			require.LessOrEqual(t, a.cells[i].atHand.Load(), int64(1))
		}
	}
}
