// Package hedge knows when a second attempt should be started beside a running
// one, to cut the tail of a method's latency (Dean and Barroso, "The Tail at
// Scale", CACM 2013).
//
// What surprises people: the delay is not a guess at how slow is too slow, but
// follows from how much extra load is acceptable. If two percent are, it is the
// time that two percent of the attempts exceed, whatever the method takes, and it
// moves with it.
//
// A [Tracker] counts what the attempts of a method take, and [Tracker.Quantile]
// is the [Delay] that follows it; [Fixed] is one that does not. Both are triggers,
// and what goes by something else than latency is a [Trigger] of one's own. None
// bounds the extra load: while everything gets slower all attempts exceed what two
// percent did before. That is for a budget, as budget.ExtraLoad.
//
// Interceptors use this package; policies name what it needs to know in their
// Hedge part.
package hedge
