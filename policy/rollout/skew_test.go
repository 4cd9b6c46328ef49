package rollout

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
)

// fleet is 20 instances, of which every tenth fails ten times as often as the others, without any
// change of policies. One of them is the canary.
type fleet struct{ rates [20]float64 }

func newFleet(r *rand.Rand) (f fleet) {
	for i := range f.rates {
		f.rates[i] = 0.01
	}
	f.rates[r.IntN(20)] = 0.1
	f.rates[r.IntN(20)] = 0.1
	return f
}

// look returns what so many calls of each instance did. With the set, a call of the canary, which is
// the first instance, fails worse times as often.
func (f fleet) look(r *rand.Rand, calls int64, worse float64) (a Arms) {
	for i, rate := range f.rates {
		if i == 0 {
			a.Canary = arm{failed: rate * worse}.counts(r, calls)
			continue
		}
		a.Rest = a.Rest.Plus(arm{failed: rate}.counts(r, calls))
	}
	return a
}

// TestSkew compares instances that were not alike before. The set does no harm, or makes the canary
// fail five times as often.
func TestSkew(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		before int64 // calls of each instance that the skew is known from, 0 for none
		worse  float64
		least  float64 // share of the rollouts that are rejected
		most   float64
	}{
		{"no skew, no harm", 0, 1, 0.03, 0.2}, // the limit that the package doc tells of
		{"no skew, harm", 0, 5, 0.98, 1},
		{"500 calls before, no harm", 500, 1, 0, 0.01},
		{"500 calls before, harm", 500, 5, 0.1, 1},
		{"5,000 calls before, no harm", 5000, 1, 0, 0.01},
		{"5,000 calls before, harm", 5000, 5, 0.95, 1},
		{"50,000 calls before, harm", 50_000, 5, 0.98, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rejected, rollouts, calls := 0.0, 2**simulate, 0
			for seed := range rollouts {
				r := rand.New(rand.NewPCG(*simulateSeed, uint64(seed)))
				f := newFleet(r)
				skew := SkewOf(f.look(r, tt.before, 1), 0.001)
				var e Evidence
				for i := range 500 { // of 100 calls
					e.AddSkewed("a", f.look(r, 5, tt.worse), skew, 0.1)
					if failed, extra := e.E(); failed+extra >= 100 {
						rejected++
						calls += 100 * (i + 1)
						break
					}
				}
			}
			t.Logf("seed %d: %.1f %% rejected, after %.0f calls in the mean", *simulateSeed, 100*rejected/float64(rollouts), float64(calls)/max(1, rejected))
			assert.GreaterOrEqual(t, rejected/float64(rollouts), tt.least)
			assert.LessOrEqual(t, rejected/float64(rollouts), tt.most)
		})
	}
}

func TestSkewOf(t *testing.T) {
	t.Parallel()
	of := func(canaryFailed, restFailed int64) Arms {
		return Arms{Counts{Calls: 50_000, Failed: canaryFailed}, Counts{Calls: 950_000, Failed: restFailed}}
	}
	for _, tt := range []struct {
		name   string
		before Arms
		want   float64
	}{
		{"nothing before", Arms{}, 1},
		{"none of the rest", Arms{Canary: Counts{Calls: 10, Failed: 10}}, 1},
		{"no failures", of(0, 0), 1},
		{"36,000 failures, alike", of(1800, 34_200), 1.09},
		{"1,000 failures, alike", of(50, 950), 1.64},
		{"100 failures, alike", of(5, 95), 3.96},
		{"the canary fails less", of(1, 20_000), 1},
		{"the canary fails ten times as often", of(5000, 9500), 10.56},
		{"only the canary fails", of(1000, 0), 1e6},
	} {
		got := SkewOf(tt.before, 0.001)
		assert.InEpsilon(t, tt.want, got.Failed, 0.02, tt.name)
		assert.InEpsilon(t, 1, got.Extra, 1e-9, tt.name)
	}
	assert.InEpsilon(t, 1, SkewOf(of(50, 950), 0).Failed, 1e-9, "a doubt of nothing")
}
