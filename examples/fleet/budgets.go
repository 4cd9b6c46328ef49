package main

import (
	"strings"
	"time"

	"github.com/rego-go/rego/budget"
)

// A limit is how the calls of a client are retried.
type limit struct {
	name   string
	off    bool // they are not
	budget func() budget.Budget
}

func unlimited() budget.Budget { return nil }

var (
	off       = limit{"no retries", true, unlimited}
	none      = limit{"no budget", false, unlimited}
	floored   = limit{"20 % and 10/s", false, func() budget.Budget { return newFixed(0.2, 10) }}
	throttled = limit{"gRPC A6 10/0.1", false, newThrottle}
	byDefault = limit{"default", false, func() budget.Budget { return budget.Default() }}

	limits = []limit{off, none, floored, throttled, byDefault}
)

func allNames() string {
	names := make([]string, len(limits))
	for i, l := range limits {
		names[i] = l.name
	}
	return strings.Join(names, ",")
}

func newThrottle() budget.Budget {
	b, err := budget.NewThrottle(budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 0.1})
	if err != nil {
		panic(err) // the numbers are constants
	}
	return b
}

// fixed is a budget as Finagle and Linkerd have it: originals pay whether they succeed or
// not, a floor comes with time, ten seconds' worth is saved up, and nothing is given back.
type fixed struct {
	ratio, perSecond float64
	last             time.Time
	balance          float64
	paid             float64 // what comes in now per second, on average over ten seconds
}

func newFixed(ratio, perSecond float64) *fixed {
	return &fixed{ratio: ratio, perSecond: perSecond, last: time.Now(), balance: 10 * perSecond}
}

// Acquire implements [budget.Budget].
func (b *fixed) Acquire(k budget.Kind) bool {
	now := time.Now()
	passed := min(10, now.Sub(b.last).Seconds())
	b.last = now
	b.paid *= 1 - passed/10
	b.balance += passed * b.perSecond
	if k == budget.Original {
		b.balance += b.ratio
		b.paid += b.ratio / 10
	}
	b.balance = min(b.balance, 10*(b.perSecond+b.paid))
	if k == budget.Original {
		return true
	}
	if b.balance < 1 {
		return false
	}
	b.balance--
	return true
}

// Release implements [budget.Budget].
func (*fixed) Release(budget.Kind, budget.Result) {}
