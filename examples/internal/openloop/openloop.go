// Package openloop offers load the way many independent users do: each call
// starts at its time, however the others are doing. A client that waits for an
// answer before it sends the next request offers less when the server is slow,
// and so hides what it was to measure (Tene, "How NOT to Measure Latency").
package openloop

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Poisson returns the times at which calls are to start, at random, so many per
// second on average, for as long as length. They are the same for the same r.
func Poisson(r *rand.Rand, perSecond float64, length time.Duration) (at []time.Duration) {
	for s := r.ExpFloat64() / perSecond; s < length.Seconds(); s += r.ExpFloat64() / perSecond {
		at = append(at, time.Duration(s*float64(time.Second)))
	}
	return at
}

// Offer makes each call at its time after now, on a goroutine of its own, and
// returns when all have returned. It waits for a time with [Sleep] or [Precisely].
// It tells a call which one it is, and the time at which it was to start: what
// comes after that is the caller's wait.
func Offer(at []time.Duration, wait func(until time.Time), call func(i int, due time.Time)) {
	var calls sync.WaitGroup
	start := time.Now()
	for i, d := range at {
		due := start.Add(d)
		wait(due)
		calls.Go(func() { call(i, due) })
	}
	calls.Wait()
}

// Sleep waits for a time, also in virtual time. On an idle machine it may be a
// millisecond late.
func Sleep(until time.Time) { time.Sleep(time.Until(until)) }

// Precisely waits for a time and is late by less than a tenth of a millisecond,
// where the system allows that. It is not for virtual time.
func Precisely(until time.Time) {
	Sleep(until.Add(-2 * time.Millisecond))
	pause(time.Until(until))
}
