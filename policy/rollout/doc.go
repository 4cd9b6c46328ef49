// Package rollout judges a change of policies. A share of the clients, the canary, tries the
// change before all get it. The package says who is in the canary ([Includes]), collects
// evidence ([Evidence]), and decides whether the set stays, advances or is rejected
// ([Plan.Decide]).
//
// The evidence may be looked at all the time: a set that does no harm is still rejected with
// a probability of at most alpha over the whole rollout. A test that is made for one look
// would in the end reject almost any set, if it were made every few seconds. For the other
// error there is no such bound: a set advances when its step has lasted long enough and no
// harm was found, and small harm takes many calls to be found.
//
// # Harm
//
// Two things are harm: more calls fail in the canary than in the rest; or its calls make
// more extra attempts than those of the rest, and more than are always allowed. Calls are
// compared with calls of the same method in the same few seconds. So methods may fail at any
// rate, rates may change, and so may the share of the canary.
//
// This table says how many calls of both arms it takes to reject a set, on average. Alpha is
// 1 %, and each look is at a hundred calls, or at ten where all calls fail:
//
//	                                                share 1 %     5 %    20 %    50 %
//	all calls fail in the canary, 1 % in the rest         410      86      30      21
//	5 % fail in the canary, 1 % in the rest            16,000   3,500   1,200     870
//	2 % fail in the canary, 1 % in the rest           170,000  39,000  11,500   7,400
//
// # Limits
//
// The set must be the only difference between the arms. If there is another difference, the
// evidence of it is real, and the set is rejected because of it:
//
//   - Some instances fail more than others whatever policies they have. Say one of ten fails
//     ten times as often as the others. Then a canary of one instance is rejected because of
//     that in one rollout of ten. [SkewOf] corrects for differences from before the set.
//   - Something may happen to one client only, such as a lost network. In a canary of few
//     clients, three or four calls that fail for this reason are enough to reject the set. So
//     a canary should have many clients. A rejected set does no harm, and can be put again.
//
// Failed calls do not show harm that the canary does to all: if its retries overload a
// server, the calls of the rest fail, too. The bound on extra attempts is for this case.
// Latency is not judged.
//
// Where calls are few, there is little to compare, because an increment without calls in one
// arm says nothing. [Evidence.Add] says how to choose increments.
//
// # The test
//
// The evidence is an e-process, made of likelihood ratios (Lindon and Malek, arXiv 2011.03567;
// Lindon, Sanden and Shirikian, arXiv 2205.14762). That it may be looked at all the time is Ville's
// inequality. The evidence of both kinds of harm, and that of all methods, is a weighted mean of
// e-values, which is an e-value too (Vovk and Wang 2021).
//
// There is no clock, goroutine or I/O here: times are arguments. Package policy/controlplane drives
// it.
package rollout
