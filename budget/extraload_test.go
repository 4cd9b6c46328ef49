package budget_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
)

func extraLoad(tb testing.TB, share float64) *budget.ExtraLoad {
	tb.Helper()
	b, err := budget.NewExtraLoad(share)
	require.NoError(tb, err)
	return b
}

// ended is n originals that have begun and ended.
func ended(n int) op {
	return func(t *testing.T, b balanced) {
		originals(n)(t, b)
		released(n, budget.Original, budget.Success)(t, b)
	}
}

// In these an original pays 0.15 and lends 0.01 for each that is to come in ten
// seconds. The last 16 of a burst may not be known to be recent, so they lend
// nothing.
func TestExtraLoadLedgers(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name   string
		ledger ledger
	}{
		{"originals pay, and one can be saved up", ledger{
			{opened, 0},
			{ended(6), 0.9},
			{denied(budget.Hedge), 0.9},
			{ended(1), 1}, // 1.05, of which one can be saved up
			{granted(1, budget.Hedge), 0},
			{denied(budget.Hedge), 0},
			{ended(9), 1},
		}},
		{"retries are extra attempts too", ledger{
			{ended(10), 1},
			{granted(1, budget.Retry), 0},
			{denied(budget.Retry), 0},
		}},
		{"originals that will come lend", ledger{
			{ended(16), 1},
			{ended(200), 3}, // of 2000 at this rate, but there have been 200 in ten seconds
			{granted(1, budget.Hedge), 2},
			{ended(1), 2.16},
			{granted(1, budget.Hedge), 1.16},
			{ended(1), 1.32},
			{granted(1, budget.Hedge), 0.32},
			{ended(1), 0.48},
			{denied(budget.Hedge), 0.48},
		}},
		{"what was borrowed is paid back", ledger{
			{ended(216), 3},
			{granted(1, budget.Hedge), 2},
			{ended(1), 2.16},
			{granted(1, budget.Hedge), 1.16}, // 0.85 of it is lent
			{wait(10 * time.Second), -0.85},
			{ended(12), 0.95},
			{denied(budget.Hedge), 0.95},
			{ended(1), 1},
		}},
		{"15 at most", ledger{
			{ended(10_000), 16},
			{wait(800 * ms), 16},
			{wait(250 * ms), 1}, // none came in the last second, so none is expected
			{wait(time.Hour), 1},
		}},
		{"a slow second promises less than ten quick ones", ledger{
			{ended(1016), 11},
			{wait(time.Second), 1},
			{ended(20), 1.4}, // four of them are known to be recent: 40 in ten seconds
		}},
		{"a young one lends for what its age promises, but not in its first half second", ledger{
			{ended(116), 2}, // a hundred are known to be recent
			{wait(499 * ms), 2},
			{wait(1 * ms), 11}, // ten times as many in ten seconds
			{wait(400 * ms), 11},
			{wait(350 * ms), 1},        // none in the last second
			{ended(66), 6},             // fifty of them, which promise 500
			{wait(6 * time.Second), 1}, // none
			{ended(116), 4.88},         // 282 in 7.25 seconds promise 388 in ten
		}},
		{"nothing is granted while nothing ends", ledger{
			{originals(1016), 11},
			{denied(budget.Hedge), 11},
			{released(1, budget.Original, budget.Neutral), 11},
			{granted(1, budget.Hedge), 10},
			{denied(budget.Hedge), 10},
			{originals(1000), 16},
			{denied(budget.Hedge), 16},
			{released(1, budget.Original, budget.Failure), 16},
			{granted(1, budget.Hedge), 15},
		}},
		{"what was not sent is given back, what was sent is not", ledger{
			{ended(216), 3},
			{granted(1, budget.Hedge), 2},
			{released(1, budget.Hedge, budget.Unsent), 3},
			{ended(1), 3.01},
			{granted(1, budget.Hedge), 2.01},
			{released(1, budget.Hedge, budget.Success), 2.01},
			{released(1, budget.Hedge, budget.Failure), 2.01},
		}},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { r.ledger.check(t, extraLoad(t, 0.16).OneCell()) })
		})
	}
}

func TestExtraLoadConfig(t *testing.T) {
	t.Parallel()
	for share, want := range map[float64]string{
		-0.1: "share: must be between 0 and 1, got -0.1",
		2:    "share: must be between 0 and 1, got 2",
	} {
		_, err := budget.NewExtraLoad(share)
		require.EqualError(t, err, want)
	}
	nothing := extraLoad(t, 0)
	for range 1000 {
		nothing.Acquire(budget.Original)
		nothing.Release(budget.Original, budget.Success)
		require.False(t, nothing.Acquire(budget.Hedge))
	}
	all := extraLoad(t, 1)
	for range 3 {
		all.Acquire(budget.Original)
		all.Release(budget.Original, budget.Success)
	}
	assert.True(t, all.Acquire(budget.Hedge))
	assert.False(t, all.Acquire(budget.Hedge))
}

// together adds up what n goroutines get by doing something so many times each.
func together(n, times int, do func() int) int {
	var sum atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for range times {
				sum.Add(int64(do()))
			}
		})
	}
	wg.Wait()
	return int(sum.Load())
}

// Real processors: of 8 goroutines that ask all the time, no more get than there
// are originals that have ended, nor than these pay for.
func TestExtraLoadAmongProcessors(t *testing.T) {
	t.Parallel()
	const calls = 8 * 20_000
	for share, most := range map[float64]float64{0.02: 0.02*calls + 1, 1: calls} {
		b := extraLoad(t, share)
		granted := together(8, 20_000, func() (granted int) {
			b.Acquire(budget.Original)
			for range 2 {
				if b.Acquire(budget.Hedge) {
					granted++
				}
			}
			b.Release(budget.Original, budget.Success)
			return granted
		})
		assert.LessOrEqual(t, float64(granted), most, "share %v", share)
		assert.Greater(t, float64(granted), 0.5*share*calls, "share %v: hardly any", share)
	}
}

// One end of an original is good for one extra attempt, whoever asks at the same
// moment.
func TestExtraLoadGrantsOneAtATime(t *testing.T) {
	t.Parallel()
	const rounds = 20_000
	b := extraLoad(t, 1)
	var arrived, granted atomic.Int64
	meet := func(n int64) {
		arrived.Add(1)
		for spins := 1; arrived.Load() < n; spins++ {
			if spins%1000 == 0 {
				runtime.Gosched()
			}
		}
	}
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			for i := range int64(rounds) {
				if g == 0 {
					b.Acquire(budget.Original) // two begin for each that ends, so that there is enough to grant
					b.Acquire(budget.Original)
					b.Release(budget.Original, budget.Success)
				}
				meet(4*i + 2)
				if b.Acquire(budget.Hedge) {
					granted.Add(1)
				}
				meet(4*i + 4)
			}
		})
	}
	wg.Wait()
	assert.LessOrEqual(t, granted.Load(), int64(rounds))
	assert.Greater(t, granted.Load(), int64(rounds/2))
}

// TestExtraLoadWithShare: each has a balance of its own, and all have the same answers.
func TestExtraLoadWithShare(t *testing.T) {
	t.Parallel()
	_, err := extraLoad(t, 1).WithShare(2)
	require.ErrorContains(t, err, "share")

	first := extraLoad(t, 1)
	second, err := first.WithShare(0)
	require.NoError(t, err)
	third, err := second.WithShare(0.5)
	require.NoError(t, err)
	for range 2 {
		first.Acquire(budget.Original)
		first.Release(budget.Original, budget.Success)
	}
	for i, r := range []struct {
		asked *budget.ExtraLoad
		want  [2]int64 // granted and denied, by all of them
	}{
		{first, [2]int64{1, 0}},
		{first, [2]int64{1, 1}}, // no original has ended since
		{second, [2]int64{1, 2}},
		{third, [2]int64{1, 3}}, // what was paid into the first one is not in it
	} {
		assert.Equal(t, r.want[0] > 0 && i == 0, r.asked.Acquire(budget.Hedge), "step %d", i)
		for _, b := range []*budget.ExtraLoad{first, second, third} {
			granted, denied := b.Answers()
			assert.Equal(t, r.want, [2]int64{granted, denied}, "step %d", i)
		}
	}
}
