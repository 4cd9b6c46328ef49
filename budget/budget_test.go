package budget_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
)

// notes is a budget that writes down what it is told.
type notes struct {
	name   string
	denies bool
	log    *[]string
}

func (n notes) Acquire(k budget.Kind) bool {
	*n.log = append(*n.log, fmt.Sprintf("%s? %s", n.name, k))
	return !n.denies
}

func (n notes) Release(k budget.Kind, r budget.Result) {
	*n.log = append(*n.log, fmt.Sprintf("%s: %s %s", n.name, k, r))
}

func TestLeaseIsReleasedOnce(t *testing.T) {
	t.Parallel()
	var log []string
	l, ok := budget.Take(notes{name: "a", log: &log}, budget.Hedge)
	require.True(t, ok)
	l.Release(budget.Neutral)
	l.Release(budget.Success)
	assert.Equal(t, []string{"a? hedge", "a: hedge neutral"}, log)
}

func TestDeniedLeaseHoldsNothing(t *testing.T) {
	t.Parallel()
	var log []string
	l, ok := budget.Take(notes{name: "a", denies: true, log: &log}, budget.Retry)
	require.False(t, ok)
	l.Release(budget.Unsent)
	assert.Equal(t, []string{"a? retry"}, log)
}

func TestNilBudgetGrantsEverything(t *testing.T) {
	t.Parallel()
	l, ok := budget.Take(nil, budget.Retry)
	assert.True(t, ok)
	assert.Zero(t, l)
	l.Release(budget.Success)
}

func TestAll(t *testing.T) {
	t.Parallel()
	tests := []struct {
		budgets string // a capital denies, - is nil
		granted bool
		log     []string
	}{
		{"", true, nil},
		{"-", true, nil},
		{"ab", true, []string{"a? retry", "b? retry", "a: retry failure", "b: retry failure"}},
		{"a-b", true, []string{"a? retry", "b? retry", "a: retry failure", "b: retry failure"}},
		{"Ab", false, []string{"A? retry"}},
		{"abCd", false, []string{"a? retry", "b? retry", "C? retry", "a: retry unsent", "b: retry unsent"}},
	}
	for _, tt := range tests {
		var log []string
		var budgets []budget.Budget
		for _, c := range tt.budgets {
			if c == '-' {
				budgets = append(budgets, nil)
				continue
			}
			budgets = append(budgets, notes{string(c), c < 'a', &log})
		}
		l, ok := budget.Take(budget.All(budgets...), budget.Retry)
		l.Release(budget.Failure)
		assert.Equal(t, tt.granted, ok, tt.budgets)
		assert.Equal(t, tt.log, log, tt.budgets)
	}
}

// The budget that refuses leaves no trace in the one that would have granted.
func TestAllGivesBack(t *testing.T) {
	t.Parallel()
	shared := ratio(t, budget.RatioConfig{Ratio: 1})
	hedges := ratio(t, budget.RatioConfig{})
	both := budget.All(shared, hedges)

	require.True(t, both.Acquire(budget.Original)) // an original is never denied
	both.Release(budget.Original, budget.Success)
	require.Equal(t, 1.0, shared.Balance())
	require.False(t, both.Acquire(budget.Hedge))
	require.Equal(t, 1.0, shared.Balance())
}

// TestAllCountsWhatAllGrant: each budget counts what was sent for, and the one that denies what it
// has denied.
func TestAllCountsWhatAllGrant(t *testing.T) {
	t.Parallel()
	own, err := budget.NewConcurrency(budget.ConcurrencyConfig{Min: 100})
	require.NoError(t, err)
	bucket, err := budget.NewTokenBucket(budget.TokenBucketConfig{PerSecond: 1000, Burst: 1000})
	require.NoError(t, err)
	throttle, err := budget.NewThrottle(budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 0.1})
	require.NoError(t, err)
	shared := ratio(t, budget.RatioConfig{Ratio: 1})
	nested := budget.All(own, budget.All(bucket, throttle), shared)
	answers := func() (list [][2]int64) {
		for _, b := range []interface{ Answers() (int64, int64) }{own, bucket, throttle, shared} {
			granted, denied := b.Answers()
			list = append(list, [2]int64{granted, denied})
		}
		return list
	}
	require.True(t, nested.Acquire(budget.Original))
	require.False(t, nested.Acquire(budget.Retry)) // nothing has been paid into the last one
	require.False(t, nested.Acquire(budget.Hedge))
	assert.Equal(t, [][2]int64{{0, 0}, {0, 0}, {0, 0}, {0, 2}}, answers())
	nested.Release(budget.Original, budget.Success) // which pays for one
	require.True(t, nested.Acquire(budget.Retry))
	assert.Equal(t, [][2]int64{{1, 0}, {1, 0}, {1, 0}, {1, 2}}, answers())
	for range 10 {
		throttle.Release(budget.Original, budget.Failure)
	}
	require.False(t, nested.Acquire(budget.Retry))
	assert.Equal(t, [][2]int64{{1, 0}, {1, 0}, {1, 1}, {1, 2}}, answers())
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	inf, nan := math.Inf(1), math.NaN()
	type R = budget.RatioConfig
	type B = budget.TokenBucketConfig
	type T = budget.ThrottleConfig
	type C = budget.ConcurrencyConfig
	tests := []struct {
		config any
		want   string // empty: accepted
	}{
		{R{}, ""},
		{R{Ratio: 1, MinPerSecond: 1e6}, ""},
		{R{Ratio: -0.1}, "ratio: must be between 0 and 1, got -0.1"},
		{R{Ratio: 1.1}, "ratio: must be between 0 and 1, got 1.1"},
		{R{Ratio: nan}, "ratio: must be a finite number, got NaN"},
		{R{MinPerSecond: -1}, "min_per_second: must be between 0 and 1e+06, got -1"},
		{R{MinPerSecond: inf}, "min_per_second: must be a finite number, got +Inf"},
		{B{PerSecond: 0.1}, ""},
		{B{}, "per_second: must be at least a millionth, got 0"},
		{B{PerSecond: -inf}, "per_second: must be a finite number, got -Inf"},
		{B{PerSecond: 1, Burst: 0.5}, "burst: must be between 1 and 1e+06, got 0.5"},
		{B{PerSecond: 1, Burst: nan}, "burst: must be a finite number, got NaN"},
		{T{MaxTokens: 1000, TokenRatio: 0.001}, ""},
		{T{MaxTokens: 0, TokenRatio: 1}, "max_tokens: must be at least 0.001, got 0"},
		{T{MaxTokens: 1001, TokenRatio: 1}, "max_tokens: must be between 0 and 1000, got 1001"},
		{T{MaxTokens: 10, TokenRatio: 0.0009}, "token_ratio: must be at least 0.001, got 0.0009"},
		{T{MaxTokens: 10, TokenRatio: nan}, "token_ratio: must be a finite number, got NaN"},
		{C{}, ""},
		{C{Share: 2}, "share: must be between 0 and 1, got 2"},
		{C{Min: -3}, "min: must be between 0 and 1e+06, got -3"},
	}
	for _, tt := range tests {
		var err error
		switch c := tt.config.(type) {
		case R:
			_, err = budget.NewRatio(c)
		case B:
			_, err = budget.NewTokenBucket(c)
		case T:
			_, err = budget.NewThrottle(c)
		case C:
			_, err = budget.NewConcurrency(c)
		}
		if tt.want == "" {
			require.NoError(t, err, "%+v", tt.config)
			continue
		}
		assert.EqualError(t, err, tt.want, "%+v", tt.config)
	}
}

// pauser is a budget that counts what runs, as notes tell.
type pauser struct{ notes }

func (p pauser) Pause(k budget.Kind) { *p.log = append(*p.log, fmt.Sprintf("%s: %s waits", p.name, k)) }
func (p pauser) Resume(k budget.Kind) bool {
	*p.log = append(*p.log, fmt.Sprintf("%s: %s resumes", p.name, k))
	return !p.denies
}

// granting is a pauser that denies, if it does, only what resumes.
type granting struct{ pauser }

func (g granting) Acquire(k budget.Kind) bool { g.notes.Acquire(k); return true }

// TestPause: while an attempt waits, it holds nothing of budgets that count what runs,
// and everything of the others.
func TestPause(t *testing.T) {
	t.Parallel()
	tests := []struct {
		budgets string // p counts what runs, P does and denies after the wait, n does not count
		resume  bool
		granted bool
		log     []string
	}{
		{"n", true, true, []string{"n? retry", "n: retry failure"}},
		{"n", false, true, []string{"n? retry", "n: retry unsent"}},
		{"p", true, true, []string{"p? retry", "p: retry waits", "p: retry resumes", "p: retry failure"}},
		{"p", false, true, []string{"p? retry", "p: retry waits"}},
		{"P", true, false, []string{"P? retry", "P: retry waits", "P: retry resumes"}},
		{"np", true, true, []string{"n? retry", "p? retry", "p: retry waits", "p: retry resumes", "n: retry failure", "p: retry failure"}},
		{"np", false, true, []string{"n? retry", "p? retry", "p: retry waits", "n: retry unsent"}},
		{"pPpn", true, false, []string{
			"p? retry", "P? retry", "p? retry", "n? retry", "p: retry waits", "P: retry waits", "p: retry waits",
			"p: retry resumes", "P: retry resumes", "n: retry unsent", "p: retry unsent",
		}},
	}
	for _, tt := range tests {
		var log []string
		var budgets []budget.Budget
		for _, c := range tt.budgets {
			n := notes{string(c), c == 'P', &log}
			if c == 'n' {
				budgets = append(budgets, n)
			} else {
				budgets = append(budgets, granting{pauser{n}})
			}
		}
		b := budgets[0]
		if len(budgets) > 1 {
			b = budget.All(budget.All(budgets[:1]...), budget.All(budgets[1:]...))
		}
		l, ok := budget.Take(b, budget.Retry)
		require.True(t, ok, tt.budgets)
		l.Pause()
		l.Pause() // a second time changes nothing
		if tt.resume {
			assert.Equal(t, tt.granted, l.Resume(), tt.budgets)
			l.Release(budget.Failure)
		}
		l.Release(budget.Unsent)
		assert.Equal(t, tt.log, log, tt.budgets)
	}
}

func TestPauseOfNothing(t *testing.T) {
	t.Parallel()
	var l budget.Lease
	l.Pause()
	assert.True(t, l.Resume())
}

// panicking is a budget that panics.
type panicking struct{}

func (panicking) Acquire(budget.Kind) bool           { panic("Acquire") }
func (panicking) Release(budget.Kind, budget.Result) {}
func (panicking) Pause(budget.Kind)                  {}
func (panicking) Resume(budget.Kind) bool            { panic("Resume") }

// TestAllPanics: what others have granted before one panics is given back.
func TestAllPanics(t *testing.T) {
	t.Parallel()
	one, err := budget.NewConcurrency(budget.ConcurrencyConfig{Min: 1})
	require.NoError(t, err)
	assert.Panics(t, func() { budget.All(one, panicking{}).Acquire(budget.Retry) })
	require.True(t, one.Acquire(budget.Retry))
	one.Pause(budget.Retry)
	assert.Panics(t, func() { budget.All(one, panicking{}).(budget.Pauser).Resume(budget.Retry) })
	assert.True(t, one.Acquire(budget.Retry))
}
