package main

import (
	"fmt"
	"time"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/policy"
)

// A shape says how long a run is, and when the server does badly.
type shape struct{ length, badFrom, badTo time.Duration }

var (
	full = shape{10 * time.Second, 3 * time.Second, 7 * time.Second}

	// The bad phase is as long as in full, because what a budget has saved up is
	// spent at its beginning and would weigh more in a shorter one. What comes
	// before is longer than budgets remember.
	shortened = shape{7 * time.Second, 1500 * time.Millisecond, 5500 * time.Millisecond}
)

const (
	callsPerSecond = 700

	// deadline is that of a call.
	deadline = time.Second

	// aftermath is what goodput takes in after the bad phase: the last calls
	// that start in it have ended by then.
	aftermath = deadline
)

// normal is the server outside the bad phase.
var normal = testsrv.Workers{N: 8, Work: 8 * time.Millisecond, Queue: 100 * time.Millisecond}

// retry is how calls are retried, where they are: with full jitter.
var retry = policy.Retry{
	MaxAttempts: 4,
	Backoff:     policy.Backoff{Initial: 10 * time.Millisecond, Multiplier: 2, Max: 80 * time.Millisecond},
}

// A limit is a budget to run scenarios with.
type limit struct {
	name   string
	retry  policy.Retry
	budget func(target string) budget.Budget
}

func (l limit) String() string { return l.name }

func unlimited(string) budget.Budget { return nil }

var (
	off       = limit{"off", policy.Retry{Off: true}, unlimited}
	none      = limit{"none", retry, unlimited}
	byDefault = limit{"default", retry, func(string) budget.Budget { return budget.Default() }}

	budgets = []limit{off, none, byDefault}
)

// A scenario is a way of doing badly.
type scenario struct {
	name, about string
	normal, bad testsrv.Workers
	targets     targets // of the default budget
}

func (sc scenario) String() string { return sc.name }

type targets []target

// A target is what a result should reach.
type target struct {
	text string
	met  func(result) bool
}

var (
	outage = scenario{
		"outage", "every attempt fails with UNAVAILABLE", normal, failing(1),
		targets{attemptsAtMost(1.02), serversErrors}, // that was saved up before
	}
	fail20 = scenario{
		"fail20", "20 % of attempts fail with UNAVAILABLE", normal, failing(0.2),
		targets{succeedAtLeast(0.995)},
	}
	// In one run of 60, by chance, there is a call whose four attempts all fail.
	fail5 = scenario{
		"fail5", "5 % of attempts fail with UNAVAILABLE", normal, failing(0.05),
		targets{succeedAtLeast(1)},
	}
	// Turning an attempt away takes 0.8 ms of a worker's time normally, and twice
	// that in the bad phase.
	brownout = scenario{
		"brownout", "work takes twice as long; turning an attempt away takes a worker a tenth of the work at the time",
		slow(1), slow(2),
		targets{goodputAtLeast(-0.03)},
	}

	scenarios = []scenario{outage, fail20, fail5, brownout}
)

func failing(share float64) testsrv.Workers {
	w := normal
	w.Fail = share
	return w
}

func slow(times int) testsrv.Workers {
	w := normal
	w.Work *= time.Duration(times)
	w.TurnAway = 0.1
	return w
}

func attemptsAtMost(n float64) target {
	return target{fmt.Sprintf("attempts/call ≤ %.2f", n), func(r result) bool { return r.attempts <= n }}
}

func succeedAtLeast(share float64) target {
	return target{fmt.Sprintf("succeed ≥ %.1f %%", 100*share), func(r result) bool { return r.succeeded >= share }}
}

func goodputAtLeast(against float64) target {
	return target{fmt.Sprintf("goodput ≥ %+.1f %%", 100*against), func(r result) bool { return r.against >= against }}
}

var serversErrors = target{"no other errors", func(r result) bool { return r.otherErrors == 0 }}
