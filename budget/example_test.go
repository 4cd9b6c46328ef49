package budget_test

import (
	"fmt"

	"github.com/rego-go/rego/budget"
)

// A thousand calls succeed. Then there is an outage, in which every attempt fails, and
// a thousand calls may send what was saved up in the last second: here, all that was
// paid.
func ExampleDefault() {
	b := budget.Default()
	for range 1000 {
		original, _ := budget.Take(b, budget.Original) // never denied
		original.Release(budget.Success)
	}
	extra := 0
	for range 1000 {
		original, _ := budget.Take(b, budget.Original)
		original.Release(budget.Failure)
		if retry, ok := budget.Take(b, budget.Retry); ok {
			retry.Release(budget.Failure)
			extra++
		}
	}
	fmt.Println("about a hundred:", 100 <= extra && extra <= 103)
	// Output: about a hundred: true
}

func ExampleNewRatio() {
	hedges, err := budget.NewRatio(budget.RatioConfig{Ratio: 0.02})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 100 {
		original, _ := budget.Take(hedges, budget.Original)
		original.Release(budget.Success)
	}
	fmt.Println(hedges.Acquire(budget.Hedge), hedges.Acquire(budget.Hedge), hedges.Acquire(budget.Hedge))

	_, err = budget.NewRatio(budget.RatioConfig{Ratio: 20})
	fmt.Println(err)
	// Output:
	// true true false
	// ratio: must be between 0 and 1, got 20
}

// Of hedges, two percent are wanted, and no wave of them when everything stalls.
func ExampleNewExtraLoad() {
	b, err := budget.NewExtraLoad(0.02)
	if err != nil {
		fmt.Println(err)
		return
	}
	hedges := 0
	for range 1000 {
		call, _ := budget.Take(b, budget.Original)
		if _, ok := budget.Take(b, budget.Hedge); ok { // every call would like one
			hedges++
		}
		call.Release(budget.Success)
	}
	fmt.Println("of 1000 calls about twenty:", 18 <= hedges && hedges <= 21)

	for range 1000 { // of which none ends
		b.Acquire(budget.Original)
	}
	fmt.Println(b.Acquire(budget.Hedge), b.Acquire(budget.Hedge), b.Acquire(budget.Hedge))
	// Output:
	// of 1000 calls about twenty: true
	// true false false
}

func ExampleTake() {
	b, err := budget.NewRatio(budget.RatioConfig{Ratio: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	call, _ := budget.Take(b, budget.Original)
	call.Release(budget.Success) // which pays one attempt

	retry, ok := budget.Take(b, budget.Retry)
	fmt.Println("retry:", ok, "balance:", b.Balance())
	retry.Release(budget.Success)
	fmt.Println("given back, and it pays one too, balance:", b.Balance())
	// Output:
	// retry: true balance: 0
	// given back, and it pays one too, balance: 2
}

func ExampleAll() {
	shared := budget.Default()
	hedges, err := budget.NewRatio(budget.RatioConfig{Ratio: 0.02})
	if err != nil {
		fmt.Println(err)
		return
	}
	b := budget.All(hedges, shared)
	fmt.Println("original:", b.Acquire(budget.Original))
	fmt.Println("hedge:", b.Acquire(budget.Hedge)) // one call has not paid for it yet
	// Output:
	// original: true
	// hedge: false
}

func ExampleNewTokenBucket() {
	b, err := budget.NewTokenBucket(budget.TokenBucketConfig{PerSecond: 0.001, Burst: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(b.Acquire(budget.Retry), b.Acquire(budget.Hedge), b.Acquire(budget.Retry))
	// Output: true true false
}

func ExampleNewThrottle() {
	b, err := budget.NewThrottle(budget.ThrottleConfig{MaxTokens: 4, TokenRatio: 0.1})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		call, _ := budget.Take(b, budget.Original)
		fmt.Println(b.Balance(), b.Acquire(budget.Retry))
		call.Release(budget.Failure)
	}
	// Output:
	// 4 true
	// 3 true
	// 2 false
}

func ExampleNewConcurrency() {
	b, err := budget.NewConcurrency(budget.ConcurrencyConfig{Share: 0.2, Min: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	first, ok := budget.Take(b, budget.Retry)
	fmt.Println("first:", ok)
	_, ok = budget.Take(b, budget.Retry)
	fmt.Println("second:", ok)
	first.Release(budget.Failure)
	_, ok = budget.Take(b, budget.Retry)
	fmt.Println("after the first:", ok)
	// Output:
	// first: true
	// second: false
	// after the first: true
}
