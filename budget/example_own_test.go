package budget_test

import (
	"fmt"
	"sync/atomic"

	"github.com/rego-go/rego/budget"
)

// quietHours grants nothing while a switch is on. It is safe for concurrent use, and it does not block.
type quietHours struct{ on atomic.Bool }

func (q *quietHours) Acquire(k budget.Kind) bool         { return k == budget.Original || !q.on.Load() }
func (q *quietHours) Release(budget.Kind, budget.Result) {}

// How is a budget of one's own made? It grants every original, and says of each retry and hedge
// whether it may be sent. All puts it beside another one, so that both have to agree.
func ExampleBudget() {
	quiet := new(quietHours)
	b := budget.All(quiet, budget.Default())

	retry, ok := budget.Take(b, budget.Retry)
	fmt.Println("by day:", ok)
	retry.Release(budget.Success)

	quiet.on.Store(true)
	_, ok = budget.Take(b, budget.Retry)
	fmt.Println("in quiet hours:", ok)
	_, ok = budget.Take(b, budget.Original)
	fmt.Println("an original then:", ok)

	// Output:
	// by day: true
	// in quiet hours: false
	// an original then: true
}

// How are budgets combined? All grants what every one of them grants: here a share of what succeeds,
// and not more than one extra attempt in flight.
func ExampleAll_inFlight() {
	few, err := budget.NewConcurrency(budget.ConcurrencyConfig{Min: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	share := budget.Default()
	b := budget.All(few, share)

	first, ok := budget.Take(b, budget.Retry)
	fmt.Println("first:", ok)
	_, ok = budget.Take(b, budget.Retry)
	fmt.Println("beside it:", ok, "- and the other budget still has", share.Balance())
	first.Release(budget.Failure)
	_, ok = budget.Take(b, budget.Retry)
	fmt.Println("after it:", ok)

	// Output:
	// first: true
	// beside it: false - and the other budget still has 2
	// after it: true
}
