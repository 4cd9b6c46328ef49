// Package virtual is for tests that run in bubbles of [testing/synctest], where time is virtual.
package virtual

import "time"

// Sleep lets d of a bubble's time pass, which takes no real time. Outside of a bubble it panics, since a
// test that really sleeps is slow on every machine, and on a busy one does not sleep for long enough:
// it has to wait for a signal.
func Sleep(d time.Duration) {
	if time.Now().Year() > 2010 { // bubbles begin in 2000
		panic("virtual: not in a bubble of testing/synctest")
	}
	time.Sleep(d)
}
