package budget_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/internal/virtual"
)

// A ledger is what happens to a budget, one entry to a line, with the balance
// after it. It is read in a synctest bubble, so its times are exact.
type ledger []entry

type entry struct {
	do      op
	balance float64
}

type op func(*testing.T, balanced)

type balanced interface {
	budget.Budget
	Balance() float64
}

func (l ledger) check(t *testing.T, b balanced) {
	t.Helper()
	for i, e := range l {
		if e.do != nil {
			e.do(t, b)
		}
		require.Equal(t, e.balance, b.Balance(), "balance after line %d", i+1)
	}
}

// as built
var opened op

func wait(d time.Duration) op {
	return func(*testing.T, balanced) { virtual.Sleep(d) }
}

func originals(n int) op {
	return func(t *testing.T, b balanced) {
		for range n {
			require.True(t, b.Acquire(budget.Original))
		}
	}
}

func successes(n int) op {
	return func(t *testing.T, b balanced) {
		originals(n)(t, b)
		released(n, budget.Original, budget.Success)(t, b)
	}
}

func steady(n int, every time.Duration) op {
	return func(t *testing.T, b balanced) {
		for range n {
			virtual.Sleep(every)
			successes(1)(t, b)
		}
	}
}

func granted(n int, k budget.Kind) op {
	return func(t *testing.T, b balanced) {
		for i := range n {
			require.True(t, b.Acquire(k), "%s %d of %d", k, i+1, n)
		}
	}
}

func denied(k budget.Kind) op {
	return func(t *testing.T, b balanced) { require.False(t, b.Acquire(k), k) }
}

func released(n int, k budget.Kind, r budget.Result) op {
	return func(_ *testing.T, b balanced) {
		for range n {
			b.Release(k, r)
		}
	}
}
