// Package rollout judges a change of policies that is tried out on a share of the clients, the
// canary, before all get it. It says who is in the canary ([Includes]), gathers evidence
// ([Evidence]), and decides whether the set stays, advances or is rejected ([Plan.Decide]).
//
// The evidence may be looked at all the time, and a set that does no harm is rejected with a
// probability of at most alpha over the whole rollout. A test that is made for one look would
// reject almost any set in the end, if it were made every few seconds.
//
// There is no clock, goroutine or I/O here: times are arguments. Package policy/controlplane drives
// it.
package rollout
