// Package hedge says when a second attempt should be started while the first one runs, to
// cut the tail of a method's latency (Dean and Barroso, "The Tail at Scale", CACM 2013).
//
// What surprises people: nobody has to guess how slow is too slow. The delay follows from
// the extra load that is acceptable. If two percent are acceptable, the delay is the time
// that two percent of the attempts exceed. It changes when the latency of the method
// changes.
//
// A [Tracker] records how long the attempts of a method take. [Tracker.Quantile] returns a
// [Delay] that follows it; [Fixed] returns one that does not. Both are triggers. If
// something other than latency should decide, write a [Trigger] of your own. No trigger
// bounds the extra load: while everything gets slower, nearly all attempts exceed the time
// that only two percent exceeded before. A budget has to bound it, such as budget.ExtraLoad.
//
// Interceptors use this package. The Hedge part of a policy says what they need to know.
package hedge
