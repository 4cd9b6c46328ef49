// Package budget limits the extra load that retries and hedges put on a server. A call's
// first attempt is never denied. Every further attempt asks a [Budget] first, and is not
// sent if the budget denies it.
//
// What surprises people: with [Ratio], the default, only successes pay for extra attempts,
// and a retry that succeeds gives back what it took. So single failures can all be repaired.
// In an outage retries fail, too, so the budget is soon empty: then the server gets little
// more than its normal load, also when it comes back.
//
// Begin with [Default]; [NewRatio] takes other numbers. [TokenBucket] allows a steady rate
// whatever the traffic. [Throttle] is gRPC's own retry throttling. [Concurrency] limits
// extra attempts in flight. [ExtraLoad] has a strict bound, for hedges. [All] combines
// budgets.
//
// Every budget here is safe for concurrent use, decides without locks and without
// allocation, and has no goroutine.
package budget
