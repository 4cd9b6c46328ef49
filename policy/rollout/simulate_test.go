package rollout

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
)

var (
	simulate     = flag.Int("simulate", 20, "sets without harm that are simulated for each row, and five times as many with harm")
	simulateSeed = flag.Uint64("simulate-seed", 1, "seed of the simulated rollouts")
)

// arm is how the calls of an arm go.
type arm struct {
	failed  float64 // share of the calls that fail
	extra   float64 // share of the calls that make extra attempts
	cluster int64   // extra attempts of each
}

func (a arm) counts(r *rand.Rand, calls int64) Counts {
	return Counts{calls, binomial(r, calls, a.failed), a.cluster * binomial(r, calls, a.extra)}
}

// looks make what happens between two looks, the i-th ones.
type looks func(r *rand.Rand, i int) []Stratum

// steady looks come after each so many calls, of which a share is the canary's.
func steady(calls int64, share float64, canary, rest arm) looks {
	return func(r *rand.Rand, _ int) []Stratum {
		return []Stratum{{"a", arms(r, calls, share, canary, rest)}}
	}
}

func arms(r *rand.Rand, calls int64, share float64, canary, rest arm) Arms {
	n := binomial(r, calls, share)
	return Arms{canary.counts(r, n), rest.counts(r, calls-n)}
}

// binomial jumps from hit to hit, which is fast if they are rare.
func binomial(r *rand.Rand, n int64, p float64) int64 {
	switch {
	case p <= 0:
		return 0
	case p > 0.5:
		return n - binomial(r, n, 1-p)
	}
	hits, miss := int64(-1), math.Log1p(-p)
	for at := 0.0; at <= float64(n); hits++ {
		at += 1 + math.Floor(math.Log(1-r.Float64())/miss)
	}
	return hits
}

// play returns after how many calls of both arms a set is rejected, 0 if not within the horizon.
func (l looks) play(seed uint64, horizon int64) int64 {
	r := rand.New(rand.NewPCG(*simulateSeed, seed))
	var e Evidence
	calls := int64(0)
	for i := 0; calls < horizon; i++ {
		for _, s := range l(r, i) {
			e.Add(s.Method, s.Arms, 0.1)
			calls += s.Arms.Canary.Calls + s.Arms.Rest.Calls
		}
		if failed, extra := e.E(); failed+extra >= 100 {
			return calls
		}
	}
	return 0
}

var (
	onePercent  = arm{failed: 0.01}
	fivePercent = arm{failed: 0.05}
	allFail     = arm{failed: 1}
)

// TestHarmIsFound bounds how many calls of both arms a harm takes until it is found, with alpha
// 1 %. The bounds of 93 and 3,648 calls are what a mixture over a beta distribution takes with a
// share that is known beforehand. The others are a tenth and more above the mean of many rollouts.
func TestHarmIsFound(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		looks   looks
		mean    float64
		horizon int64
	}{
		{"all fail, of none; 5 %, looks of 10", steady(10, 0.05, allFail, arm{}), 93, 1e4},
		{"all fail, of none; 5 %, looks of 20", steady(20, 0.05, allFail, arm{}), 93, 1e4},
		{"all fail, of 1 %; 5 %, looks of 10", steady(10, 0.05, allFail, onePercent), 93, 1e4},
		{"all fail, of 1 %; 5 %, looks of 20", steady(20, 0.05, allFail, onePercent), 93, 1e4},
		{"1 % to 5 %; 5 %, looks of 20", steady(20, 0.05, fivePercent, onePercent), 4000, 1e5},
		{"1 % to 5 %; 5 %, looks of 100", steady(100, 0.05, fivePercent, onePercent), 3648, 1e5},
		{"1 % to 5 %; 5 %, looks of 1000", steady(1000, 0.05, fivePercent, onePercent), 4700, 1e5},
		{"1 % to 5 %; 1 %, looks of 100", steady(100, 0.01, fivePercent, onePercent), 18000, 1e6},
		{"1 % to 5 %; 1 %, looks of 20", steady(20, 0.01, fivePercent, onePercent), 26000, 1e6},
		{"1 % to 5 %; 20 %, looks of 100", steady(100, 0.2, fivePercent, onePercent), 1300, 1e5},
		{"1 % to 5 %; 50 %, looks of 100", steady(100, 0.5, fivePercent, onePercent), 1000, 1e5},
		{"1 % to 2 %; 5 %, looks of 1000", steady(1000, 0.05, arm{failed: 0.02}, onePercent), 42000, 1e6},
		{"0.1 % to 1 %; 5 %, looks of 100", steady(100, 0.05, onePercent, arm{failed: 0.001}), 12500, 1e6},
		{"30 % to 60 %; 5 %, looks of 100", steady(100, 0.05, arm{failed: 0.6}, arm{failed: 0.3}), 1400, 1e5},
		{"extra 0 to 2 of each call; 5 %, looks of 20", steady(20, 0.05, arm{extra: 1, cluster: 2}, arm{}), 250, 1e5},
		{"extra 0 to 2 of each call; 5 %, looks of 100", steady(100, 0.05, arm{extra: 1, cluster: 2}, arm{}), 250, 1e5},
		{"extra 0 to 2 of each tenth call; 5 %, looks of 100", steady(100, 0.05, arm{extra: 0.1, cluster: 2}, arm{}), 25000, 1e6},
		{"all fail in one method of 100; 5 %, looks of 1000", oneOf(100, 10), 18000, 1e6},
		{"1 % to 5 % after 1,000 looks alike; 5 %, of 100", later(1000), 111000, 1e6},
		{"1 % to 5 % after 200 looks in which all fail; 5 %, of 100", afterOutage(200), 26000, 1e6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var found []float64
			sum := 0.0
			rollouts := 5 * *simulate
			if tt.mean < 5000 { // they are short, and some bounds are close
				rollouts *= 10
			}
			for seed := range rollouts {
				n := float64(tt.looks.play(uint64(seed), tt.horizon))
				if n == 0 {
					n = math.Inf(1)
				}
				found, sum = append(found, n), sum+n
			}
			slices.Sort(found)
			mean := sum / float64(len(found))
			t.Logf("seed %d: median %.0f, mean %.0f, nine in ten %.0f", *simulateSeed,
				found[len(found)/2], mean, found[len(found)*9/10])
			assert.LessOrEqual(t, mean, tt.mean)
		})
	}
}

// oneOf looks at many methods with the same few calls each, one of which is broken by the set.
func oneOf(methods int, calls int64) looks {
	return func(r *rand.Rand, _ int) []Stratum {
		strata := make([]Stratum, methods)
		for i := range strata {
			canary := onePercent
			if i == methods/2 {
				canary = allFail
			}
			strata[i] = Stratum{fmt.Sprint(i), arms(r, calls, 0.05, canary, onePercent)}
		}
		return strata
	}
}

// later begins to do harm after so many looks.
func later(looks int) looks {
	return func(r *rand.Rand, i int) []Stratum {
		canary := onePercent
		if i >= looks {
			canary = fivePercent
		}
		return []Stratum{{"a", arms(r, 100, 0.05, canary, onePercent)}}
	}
}

// afterOutage does the same, and until then all calls of both arms fail.
func afterOutage(outage int) looks {
	return func(r *rand.Rand, i int) []Stratum {
		canary, rest := fivePercent, onePercent
		if i < outage {
			canary, rest = allFail, allFail
		}
		return []Stratum{{"a", arms(r, 100, 0.05, canary, rest)}}
	}
}

// TestFalseAlarms looks at sets that do no harm, after each increment of 100,000 calls.
func TestFalseAlarms(t *testing.T) {
	t.Parallel()
	alike := func(calls int64, share float64, a arm) looks { return steady(calls, share, a, a) }
	for _, tt := range []struct {
		name  string
		looks looks
	}{
		{"1 % fail; 5 %, looks of 20", alike(20, 0.05, onePercent)},
		{"1 % fail; 5 %, looks of 100", alike(100, 0.05, onePercent)},
		{"1 % fail; 5 %, looks of 1000", alike(1000, 0.05, onePercent)},
		{"0.1 % fail; 5 %, looks of 100", alike(100, 0.05, arm{failed: 0.001})},
		{"30 % fail; 5 %, looks of 100", alike(100, 0.05, arm{failed: 0.3})},
		{"1 % fail; 1 %, looks of 100", alike(100, 0.01, onePercent)},
		{"1 % fail; 20 %, looks of 100", alike(100, 0.2, onePercent)},
		{"1 % fail; 50 %, looks of 100", alike(100, 0.5, onePercent)},
		{"30 % fail; 50 %, looks of 10", alike(10, 0.5, arm{failed: 0.3})},
		{"bursts while the share drifts from 1 % to 50 %", drifting},
		{"outages of both arms", outages},
		{"2 extra of the 5 % that fail", alike(100, 0.05, arm{0.05, 0.05, 2})},
		{"4 extra of the 5 % that fail", alike(100, 0.05, arm{0.05, 0.05, 4})},
		{"4 extra of the 30 % that fail; looks of 20", alike(20, 0.05, arm{0.3, 0.3, 4})},
		{"4 extra in bad moments", badMoments(0.02, 0.5)},
		{"4 extra of 2.5 %, at the ceiling; none of the rest", steady(100, 0.05, arm{extra: 0.025, cluster: 4}, arm{})},
		{"1 extra of 10 %, at the ceiling; none of the rest", steady(100, 0.05, arm{extra: 0.1, cluster: 1}, arm{})},
		{"methods with 30 % and 0.1 % failures, more of the first in the canary", mixed},
		{"methods above the ceiling in both arms, and below it in the canary alone", eachItsNull},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			alarms := 0
			for seed := range *simulate {
				if tt.looks.play(uint64(seed), 1e5) > 0 {
					alarms++
				}
			}
			t.Logf("seed %d: %d of %d (%.2f %%)", *simulateSeed, alarms, *simulate, 100*float64(alarms)/float64(*simulate))
			assert.LessOrEqual(t, float64(alarms), math.Max(2, 0.01*float64(*simulate)))
		})
	}
}

// drifting has most failures while the canary is small, and then again while it is large.
func drifting(r *rand.Rand, i int) []Stratum {
	a := arm{failed: 0.002}
	if i%100 < 10 {
		a.failed = 0.4
	}
	return []Stratum{{"a", arms(r, 100, 0.01+0.49*float64(i)/1000, a, a)}}
}

func outages(r *rand.Rand, i int) []Stratum {
	a := onePercent
	if i%50 < 10 {
		a = arm{failed: 0.99, extra: 0.99, cluster: 2}
	}
	return []Stratum{{"a", arms(r, 100, 0.05, a, a)}}
}

// badMoments come with a probability, and then calls retry with another.
func badMoments(moments, retries float64) looks {
	return func(r *rand.Rand, _ int) []Stratum {
		a := arm{failed: 0.01, extra: 0.01, cluster: 4}
		if r.Float64() < moments {
			a.extra = retries
		}
		return []Stratum{{"a", arms(r, 100, 0.05, a, a)}}
	}
}

// mixed calls: to compare the arms without telling methods apart would find harm (Simpson).
func mixed(r *rand.Rand, _ int) []Stratum {
	bad, good := arm{failed: 0.3}, arm{failed: 0.001}
	return []Stratum{{"bad", arms(r, 20, 0.3, bad, bad)}, {"good", arms(r, 80, 0.01, good, good)}}
}

// eachItsNull is harmless in each method for another reason.
func eachItsNull(r *rand.Rand, _ int) []Stratum {
	bad := arm{extra: 0.5, cluster: 2}
	return []Stratum{{"bad", arms(r, 50, 0.05, bad, bad)}, {"good", arms(r, 50, 0.05, arm{extra: 0.04, cluster: 2}, arm{})}}
}
