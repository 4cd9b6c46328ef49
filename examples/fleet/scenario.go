package main

import (
	"testing"
	"testing/synctest"
	"time"
)

const (
	callsPerSecond = 2000
	attemptTimeout = 3 * time.Second

	cutBegins = 5 * time.Second
	cutEnds   = 15 * time.Second
)

// A scenario is what clients offer to a server, and what becomes of the server.
type scenario struct {
	perSecond   float64 // calls of all clients
	clients     int
	load        float64 // the share of the server's capacity that they need without retries
	drops       bool    // the server does not work for who has gone away
	maxAttempts int

	badFrom, badTo time.Duration
	cut            float64 // what is left of the capacity in the bad phase
	failing        float64 // the share of attempts that fail in it with UNAVAILABLE
	length         time.Duration
}

// overload is a server that has a fifth of its capacity for ten seconds.
func overload(clients int, load float64, after time.Duration) scenario {
	return scenario{
		perSecond: callsPerSecond, clients: clients, load: load, maxAttempts: 3,
		badFrom: cutBegins, badTo: cutEnds, cut: 0.2,
		length: cutEnds + after,
	}
}

// ill is a server that keeps its capacity, but after ten seconds of health a share of the
// attempts fails.
func ill(rate, failing float64, length time.Duration) scenario {
	clients := max(1, int(callsPerSecond/rate/2)) // in all a thousand calls per second, or those of one client
	return scenario{
		perSecond: rate * float64(clients), clients: clients, load: 0.6, maxAttempts: 4,
		badFrom: 10 * time.Second, badTo: 10*time.Second + length, cut: 1, failing: failing,
		length: 10*time.Second + length,
	}
}

// run runs a scenario in a bubble of its own.
func run(t *testing.T, sc scenario, l limit, seed uint64) (slots []slot) {
	t.Helper()
	if l.off {
		sc.maxAttempts = 1
	}
	synctest.Test(t, func(*testing.T) { slots = simulate(sc, l.budget, seed) })
	return slots
}

// recovery is the time from the end of the cut until, to the end of the run, 95 % of
// the calls that start succeed. The second result is false if the run ended before.
func recovery(slots []slot) (time.Duration, bool) {
	healthy := len(slots)
	for healthy > int(cutEnds/slotLength) && slots[healthy-1].share() >= 0.95 {
		healthy--
	}
	return time.Duration(healthy)*slotLength - cutEnds, healthy <= len(slots)-int(5*time.Second/slotLength)
}

// total is what became of the calls of the bad phase.
func total(t *testing.T, sc scenario, l limit, seed uint64) (sum slot) {
	t.Helper()
	for _, s := range run(t, sc, l, seed)[sc.badFrom/slotLength : sc.badTo/slotLength] {
		sum.calls += s.calls
		sum.attempts += s.attempts
		sum.succeeded += s.succeeded
	}
	return sum
}
