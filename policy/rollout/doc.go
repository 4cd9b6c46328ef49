// Package rollout judges a change of policies that is tried out on a share of the clients, the
// canary, before all get it. It says who is in the canary ([Includes]), gathers evidence
// ([Evidence]), and decides whether the set stays, advances or is rejected ([Plan.Decide]).
//
// The evidence may be looked at all the time, and a set that does no harm is still rejected with a
// probability of at most alpha over the whole rollout. A test that is made for one look would
// reject almost any set in the end, if it were made every few seconds. The other error has no such
// bound: a set advances when its step has baked and no harm has been found, and small harm takes many
// calls to be found.
//
// # Harm
//
// Two things are harm: that more calls fail in the canary than in the rest, and that its calls
// make more extra attempts than those of the rest and more than are allowed in any case.
// Calls are compared with calls of the same method in the same few seconds. So methods may fail at
// any rate, rates may change, and so may the share of the canary.
//
// How many calls of both arms it takes to reject a set, on average, with alpha at 1 % and looks of
// a hundred calls; of ten where all calls fail:
//
//	                                                share 1 %     5 %    20 %    50 %
//	all calls fail in the canary, 1 % in the rest         410      86      30      21
//	5 % fail in the canary, 1 % in the rest            16,000   3,500   1,200     870
//	2 % fail in the canary, 1 % in the rest           170,000  39,000  11,500   7,400
//
// # Limits
//
// The arms must be alike but for the set. If they are not, evidence of that is true, and the set is
// rejected for it:
//
//   - Instances that fail more than others whatever policies they have. If one of ten fails ten times
//     as often as the others, a canary of one instance is rejected for that in one rollout of ten.
//     [SkewOf] takes what was before the set from what is compared.
//   - What happens to one client alone, such as a network that it has lost. In a canary of few clients,
//     three or four calls that fail for that are enough to reject the set. So a canary should have
//     many clients. A set that is rejected does no harm, and can be put again.
//
// Harm that the canary does to all is not found among failed calls: if its retries overload a server,
// the calls of the rest fail too. That is what the bound on extra attempts is for. Latency is
// not judged.
//
// Where calls are few, there is little to compare, since an increment without calls in one arm
// says nothing. [Evidence.Add] says how to choose increments.
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
