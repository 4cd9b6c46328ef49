// Package budget limits the extra load that retries and hedges put on a
// server. A call's first attempt is never denied; every further attempt asks a
// [Budget] first, and is not sent when the answer is no.
//
// What surprises people: with [Ratio], the default, only what succeeds pays for
// extra attempts, and a retry that succeeds costs nothing in the end. So
// scattered failures can all be repaired, while in an outage, where retries
// fail too, the budget is soon spent and the server sees little more than its
// normal load, also when it comes back.
//
// Begin with [Default]; [NewRatio] takes other numbers. [TokenBucket] allows a
// steady rate whatever the traffic, [Throttle] is gRPC's own retry throttling,
// [Concurrency] limits extra attempts in flight, [ExtraLoad] is the strict one,
// for hedges, and [All] combines them.
//
// Every budget here is safe for concurrent use, decides without locks and
// without allocation, and keeps no goroutine.
package budget
