package budget_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
)

// Run with -cpu 1,2: no decision may cost more on two processors than on one.

func parallel(b *testing.B, decide func()) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			decide()
		}
	})
}

func ratio(tb testing.TB, c budget.RatioConfig) *budget.Ratio {
	tb.Helper()
	r, err := budget.NewRatio(c)
	require.NoError(tb, err)
	return r
}

func BenchmarkRatioDeposit(b *testing.B) {
	r := budget.Default()
	parallel(b, func() {
		r.Acquire(budget.Original)
		r.Release(budget.Original, budget.Success)
	})
}

// Two decisions: a retry that succeeds.
func BenchmarkRatioGrantAndRefund(b *testing.B) {
	r := budget.Default()
	parallel(b, func() {
		if r.Acquire(budget.Retry) {
			r.Release(budget.Retry, budget.Success)
		}
	})
}

// As above through a Lease, as the engine does it.
func BenchmarkRatioLease(b *testing.B) {
	r := budget.Default()
	parallel(b, func() {
		l, _ := budget.Take(r, budget.Retry)
		l.Release(budget.Success)
	})
}

// A retry that fails, while there is plenty.
func BenchmarkRatioGrant(b *testing.B) {
	r := ratio(b, budget.RatioConfig{Ratio: 1, MinPerSecond: 1e6})
	parallel(b, func() {
		r.Release(budget.Original, budget.Success) // pays for the retry, so that it never runs short
		r.Acquire(budget.Retry)
		r.Release(budget.Retry, budget.Failure)
	})
}

// A retry in an outage, when all is spent.
func BenchmarkRatioDenial(b *testing.B) {
	r := ratio(b, budget.RatioConfig{Ratio: 0.1})
	parallel(b, func() { r.Acquire(budget.Retry) })
}

// A call in an outage: an original, and a retry that is mostly denied.
func BenchmarkRatioOutage(b *testing.B) {
	r := budget.Default()
	parallel(b, func() {
		r.Acquire(budget.Original)
		r.Release(budget.Original, budget.Failure)
		if r.Acquire(budget.Retry) {
			r.Release(budget.Retry, budget.Failure)
		}
	})
}

// A brownout, with half of the calls failing: a call that succeeds, and one whose retry is
// mostly denied.
func BenchmarkRatioBrownout(b *testing.B) {
	r := ratio(b, budget.RatioConfig{Ratio: 0.1})
	parallel(b, func() {
		r.Release(budget.Original, budget.Success)
		r.Acquire(budget.Retry)
	})
}

func BenchmarkTokenBucketGrantAndGiveBack(b *testing.B) {
	t, err := budget.NewTokenBucket(budget.TokenBucketConfig{PerSecond: 10})
	require.NoError(b, err)
	parallel(b, func() {
		if t.Acquire(budget.Retry) {
			t.Release(budget.Retry, budget.Unsent)
		}
	})
}

func BenchmarkThrottleHealthy(b *testing.B) {
	t, err := budget.NewThrottle(budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 0.1})
	require.NoError(b, err)
	parallel(b, func() {
		t.Acquire(budget.Original)
		t.Release(budget.Original, budget.Success)
	})
}

// The count moves with every attempt, so that it has to be shared.
func BenchmarkThrottleMixed(b *testing.B) {
	t, err := budget.NewThrottle(budget.ThrottleConfig{MaxTokens: 1000, TokenRatio: 1})
	require.NoError(b, err)
	parallel(b, func() {
		t.Release(budget.Original, budget.Failure)
		t.Release(budget.Original, budget.Success)
	})
}

func BenchmarkConcurrencyOriginal(b *testing.B) {
	c, err := budget.NewConcurrency(budget.ConcurrencyConfig{Share: 0.2, Min: 3})
	require.NoError(b, err)
	parallel(b, func() {
		c.Acquire(budget.Original)
		c.Release(budget.Original, budget.Success)
	})
}

func BenchmarkConcurrencyGrantAndRelease(b *testing.B) {
	c, err := budget.NewConcurrency(budget.ConcurrencyConfig{Share: 0.2, Min: 3})
	require.NoError(b, err)
	parallel(b, func() {
		if c.Acquire(budget.Retry) {
			c.Release(budget.Retry, budget.Success)
		}
	})
}

func BenchmarkExtraLoadOriginal(b *testing.B) {
	e := extraLoad(b, 0.02)
	parallel(b, func() {
		e.Acquire(budget.Original)
		e.Release(budget.Original, budget.Success)
	})
}

// A call that asks for a hedge, which one in fifty gets.
func BenchmarkExtraLoadAsked(b *testing.B) {
	e := extraLoad(b, 0.02)
	parallel(b, func() {
		e.Acquire(budget.Original)
		e.Acquire(budget.Hedge)
		e.Release(budget.Original, budget.Success)
	})
}

func BenchmarkAllGrantAndRefund(b *testing.B) {
	a := budget.All(budget.Default(), budget.Default(), budget.Default())
	parallel(b, func() {
		if a.Acquire(budget.Retry) {
			a.Release(budget.Retry, budget.Success)
		}
	})
}
