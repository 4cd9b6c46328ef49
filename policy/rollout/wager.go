package rollout

import "math"

// A wager is an e-process: what one unit of money has become that was bet against the arms
// being alike. If they are alike the bets are fair at best, so the money reaches 1/alpha with a
// probability of at most alpha, whenever one looks (Ville's inequality). Its zero value is
// one unit, not yet bet.
//
// Each expert bets on one odds ratio: that an event is that many times as likely in the canary.
// Most of the money is staked on the experts at first. The rest is staked little by little, as
// events happen, on the same experts as if they began then. Without that, each hour in which the
// arms are alike would have to be made up for by harm that comes later, with more load or in
// the next step.
type wager struct {
	grown  [experts]float64 // logarithm of what is on an expert, over what was staked at first
	events float64          // that happened so far, in both arms
}

const experts = 9

// expert is an odds ratio, with its part of the stake.
type expert struct{ odds, part float64 }

// field is what the experts bet on. The parts add up to 1. The large ratios find a canary in which
// every call fails: for such, each event multiplies the money by up to one over the canary's
// share. The small ones find what doubles the failures.
var field = [experts]expert{
	{1.4, 0.04}, {2, 0.12}, {3, 0.2}, {4.5, 0.24}, {7, 0.18}, {12, 0.08}, {30, 0.04}, {150, 0.04}, {2000, 0.06},
}

// logs of the field: of the odds, and of the stakes.
var logOdds, logStakes = func() (odds, stakes [experts]float64) {
	for k, x := range field {
		odds[k], stakes[k] = math.Log(x.odds), math.Log((1-reserved)*x.part)
	}
	return odds, stakes
}()

const (
	reserved = 0.07 // of the money is not staked at first
	slowness = 50.0 // events until the reserve has been staked to half, about
)

// reserve returns how much money is not staked after a number of events. It falls like one over a
// logarithm, so that there is something left to stake at any time: what is found after a
// million events takes evidence of some thousands to one more, and not of e to the thousands.
func reserve(events float64) float64 { return reserved / (1 + math.Log1p(events/slowness)) }

// comparison is what happened to both arms in the same time and stratum. Events are calls, or
// parts of calls: numbers between 0 and 1 that the calls add up to.
type comparison struct {
	canary, rest float64 // calls, above 0
	hits, all    float64 // events of the canary, and of both
	ceiling      float64 // events per call of the canary that are no harm in any case; 0 for none
	odds         float64 // that are no harm
}

// play settles the bets on a comparison, and stakes some of the reserve for the next one. The
// order matters: what is staked must not depend on what is bet on.
func (w *wager) play(c comparison) {
	if c.all == 0 && c.ceiling == 0 {
		return // nothing was bet on
	}
	for k, x := range field {
		w.grown[k] = bound(w.grown[k] + c.gain(x.odds, logOdds[k]))
	}
	before := reserve(w.events)
	w.events = math.Min(w.events+c.all, most)
	staked := before - reserve(w.events)
	if staked <= 0 {
		return
	}
	each := math.Log(staked / (1 - reserved))
	for k := range w.grown {
		w.grown[k] = addLogs(w.grown[k], each)
	}
}

// log returns the logarithm of the money.
func (w *wager) log() float64 {
	idle := math.Log(reserve(w.events))
	highest := idle
	for k := range w.grown {
		highest = math.Max(highest, w.grown[k]+logStakes[k])
	}
	sum := math.Exp(idle - highest)
	for k := range w.grown {
		sum += math.Exp(w.grown[k] + logStakes[k] - highest)
	}
	return highest + math.Log(sum)
}

// gain returns the logarithm of what a unit becomes that is bet on an odds ratio: odds^hits over a
// bound of what is expected of that if the arms are alike.
//
// The expectation is taken over the ways in which the events that happened can fall on the calls
// that were made. Whatever their number, each falls into the canary with the canary's share of the
// calls, and no two on the same call. So hits is hypergeometric. That is a sum of independent
// yes-or-no variables (Vatutin and Mikhailov 1982): as many as events or calls of the canary, the
// fewer, and less by as many hits as there must be because the rest has too few calls. Of such sums
// with the same mean, that with equal probabilities expects the most of odds^hits (Hoeffding
// 1956), and this is the bound. It is exact if there is one event, or one call of an arm, or if
// all calls fail; then nothing can be learned, and nothing is lost. The binomial on the events
// (Lindon and Malek, arXiv 2011.03567) is what it becomes if events are rare. It would hold too, but
// an outage that hits both arms would cost it all that it has.
//
// For parts of calls it holds since the indicators of a sample are negatively associated, and
// odds^part is at most linear in the part.
//
// With odds that are no harm, hits is the noncentral hypergeometric of Fisher, which is such a sum too.
// Its mean is at most what the share is by these odds, since the canary runs out of calls to
// fall on sooner than the rest.
//
// With a ceiling, the bound is the larger one of that and of what a canary at the ceiling
// expects. Then the bet is fair at best if either is so: the arms are alike, or the canary is
// below the ceiling.
func (c comparison) gain(odds, logOdds float64) float64 {
	more := odds - 1
	share := c.odds * c.canary / (c.odds*c.canary + c.rest)
	must := math.Max(0, c.all-c.rest)
	free := math.Min(c.all, c.canary) - must
	expected := logOdds * must
	if free > 0 {
		expected += free * math.Log1p(clamp((c.all*share-must)/free, 0, 1)*more)
	}
	if c.ceiling > 0 {
		expected = math.Max(expected, c.canary*math.Log1p(math.Min(c.ceiling, 1)*more))
	}
	return logOdds*c.hits - expected
}

// most is the largest number that is counted. Sums of it stay far from overflow.
const most = 1e15

// bound keeps a logarithm finite, whatever it is made of.
func bound(log float64) float64 { return clamp(log, -most, most) }

func clamp(x, low, high float64) float64 { return math.Max(low, math.Min(x, high)) }

// addLogs returns the logarithm of e^a + e^b.
func addLogs(a, b float64) float64 {
	if math.Abs(a-b) > 40 { // less than a float64 can tell
		return math.Max(a, b)
	}
	return math.Max(a, b) + math.Log1p(math.Exp(-math.Abs(a-b)))
}
