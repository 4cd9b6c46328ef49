package rollout

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func sum(e *Evidence) float64 {
	failed, extra := e.E()
	return failed + extra
}

func TestNoEvidence(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		arms Arms
	}{
		{"nothing", Arms{}},
		{"none of the rest", Arms{Canary: Counts{Calls: 100, Failed: 100, Extra: 100}}},
		{"none of the canary", Arms{Rest: Counts{Calls: 100, Failed: 100, Extra: 100}}},
		{"negative", Arms{Counts{-1, -1, -1}, Counts{-1, -1, -1}}},
		{"all fail, in both arms", Arms{Counts{5, 5, 20}, Counts{95, 95, 380}}},
	} {
		var e Evidence
		e.Add("a", tt.arms, 0.1)
		assert.InDelta(t, 1, sum(&e), 1e-9, tt.name)
	}
}

// TestGainIsFair adds up what a bet brings over all ways in which events can fall on calls.
func TestGainIsFair(t *testing.T) {
	t.Parallel()
	exact := func(canary, rest, all int) bool {
		return all <= 1 || canary == 1 || rest == 1 || all >= canary+rest-1
	}
	for canary := 1; canary <= 12; canary++ {
		for rest := 1; rest <= 30; rest++ {
			for all := 0; all <= canary+rest; all++ {
				for k, x := range field {
					for _, skew := range []float64{1, 3} {
						c := comparison{canary: float64(canary), rest: float64(rest), all: float64(all), odds: skew}
						ways, expected := 0.0, 0.0
						for hits := max(0, all-rest); hits <= min(all, canary); hits++ {
							c.hits = float64(hits)
							way := math.Exp(choose(canary, hits) + choose(rest, all-hits) - choose(canary+rest, all) + c.hits*math.Log(skew))
							ways += way
							expected += way * math.Exp(c.gain(x.odds, logOdds[k]))
						}
						if got := expected / ways; got > 1+1e-9 || skew == 1 && exact(canary, rest, all) && got < 1-1e-9 {
							t.Fatalf("%d events on %d and %d calls, odds %v, skew %v: a bet is worth %v", all, canary, rest, x.odds, skew, got)
						}
					}
				}
			}
		}
	}
}

// TestPartsAreFair takes each choice of calls for the canary from some that make 0 to 4 extra attempts.
func TestPartsAreFair(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 0))
		const calls = 11
		canary := 1 + r.IntN(calls-1)
		c := comparison{canary: float64(canary), rest: float64(calls - canary), odds: 1}
		var of [calls]float64
		for i := range of {
			if of[i] = float64(r.IntN(5)) / perCall; seed%2 == 0 && r.IntN(3) > 0 {
				of[i] = float64(r.IntN(2)) // many with none
			}
			c.all += of[i]
		}
		for k, x := range field {
			ways, expected := 0.0, 0.0
			for chosen := range uint(1 << calls) {
				if bits.OnesCount(chosen) != canary {
					continue
				}
				c.hits = 0
				for i := range of {
					c.hits += of[i] * float64(chosen>>i&1)
				}
				ways++
				expected += math.Exp(c.gain(x.odds, logOdds[k]))
			}
			if expected/ways > 1+1e-9 {
				t.Fatalf("seed %d: %v of %d, odds %v: a bet is worth %v", seed, of, canary, x.odds, expected/ways)
			}
		}
	}
}

// TestCeilingIsFair has a canary at the ceiling, which calls reach by 4 extra attempts each or by
// 1, and any number of extra attempts of the rest.
func TestCeilingIsFair(t *testing.T) {
	t.Parallel()
	for canary := 1; canary <= 30; canary++ {
		for _, rest := range []float64{1, 100} {
			for _, restAll := range []float64{0, 0.25, 1} {
				for _, part := range []float64{0.25, 1} {
					for k, x := range field {
						const ceiling = 0.025
						expected := 0.0
						for hits := range canary + 1 {
							c := comparison{canary: float64(canary), rest: rest, ceiling: ceiling, odds: 1}
							c.hits = float64(hits) * part
							c.all = c.hits + restAll
							p := ceiling / part
							expected += math.Exp(choose(canary, hits)+float64(hits)*math.Log(p)+float64(canary-hits)*math.Log1p(-p)) *
								math.Exp(c.gain(x.odds, logOdds[k]))
						}
						if expected > 1+1e-9 {
							t.Fatalf("%d calls, parts of %v, odds %v: a bet is worth %v", canary, part, x.odds, expected)
						}
					}
				}
			}
		}
	}
}

// choose returns the logarithm of the number of ways to choose k of n.
func choose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return a - b - c
}

func TestStakesAddUp(t *testing.T) {
	t.Parallel()
	parts := 0.0
	for _, x := range field {
		parts += x.part
	}
	assert.InDelta(t, 1, parts, 1e-12)
	var w wager
	assert.InDelta(t, 0, w.log(), 1e-12)
	methods := 0.0
	for i := range maxMethods {
		methods += onMethod(i)
	}
	assert.Less(t, methods, 1.0)
}

func TestManyMethods(t *testing.T) {
	t.Parallel()
	var e Evidence
	for i := range 1000 {
		e.Add(fmt.Sprint(i), both(5, 95), 0.1)
	}
	assert.Len(t, e.Floats(), (1+maxMethods)*methodFloats)
	for range 10 {
		e.Add("999", Arms{Counts{Calls: 10, Failed: 10}, Counts{Calls: 90}}, 0.1)
	}
	assert.Greater(t, sum(&e), 1e6, "what has no bets of its own counts with all calls")
}

func TestSkewExplains(t *testing.T) {
	t.Parallel()
	var plain, skewed Evidence
	arms := Arms{Counts{Calls: 1000, Failed: 100, Extra: 400}, Counts{Calls: 9000, Failed: 100, Extra: 400}}
	for range 10 {
		plain.Add("a", arms, 0.1)
		skewed.AddSkewed("a", arms, Skew{Failed: 10, Extra: 10}, 0.1)
	}
	assert.Greater(t, sum(&plain), 1e20)
	assert.Less(t, sum(&skewed), 1.0)
}

func TestFloats(t *testing.T) {
	t.Parallel()
	var e Evidence
	arms := Arms{Counts{Calls: 50, Failed: 2, Extra: 6}, Counts{Calls: 950, Failed: 10, Extra: 30}}
	e.Add("a", arms, 0.1)
	e.Add("b", arms, 0.1)
	stored := e.Floats()
	back, err := EvidenceFrom(stored)
	require.NoError(t, err)
	require.Equal(t, &e, back)

	back.Add("b", arms, 0.1)
	e.Add("b", arms, 0.1)
	require.Equal(t, &e, back, "goes on as if it had not been stored")

	none, err := EvidenceFrom(nil)
	require.NoError(t, err)
	assert.InDelta(t, 1, sum(none), 1e-12)

	with := func(i int, f float64) []float64 {
		fs := slices.Clone(stored)
		fs[i] = f
		return fs
	}
	for _, tt := range []struct {
		name   string
		floats []float64
		want   string
	}{
		{"one too few", stored[1:], "cannot have 62 numbers"},
		{"too many", make([]float64, (2+maxMethods)*methodFloats), "cannot have 4242 numbers"},
		{"another form", with(0, 2), "evidence of form 2, this release reads form 1"},
		{"NaN", with(3, math.NaN()), "cannot have the number NaN"},
		{"infinite", with(25, math.Inf(1)), "cannot have the number +Inf"},
		{"NaN events", with(experts+1, math.NaN()), "cannot have the number NaN"},
		{"fewer events than none", with(experts+1, -1), "cannot have -1 events"},
		{"a method without a name", with(methodFloats, 0.5), "a method that has no name"},
		{"a method twice", with(methodFloats, stored[2*methodFloats]), "has a method twice"},
	} {
		_, err := EvidenceFrom(tt.floats)
		require.ErrorContains(t, err, tt.want, tt.name)
	}
}

// FuzzRollout adds, stores and decides whatever comes. Nothing panics, nothing becomes NaN, and
// what was stored is read again.
func FuzzRollout(f *testing.F) {
	f.Add(int64(50), int64(2), int64(6), int64(950), int64(10), int64(30), 0.1, 1.0, 0.05, []byte{})
	f.Add(int64(1e15), int64(1e15), int64(1e15), int64(1), int64(0), int64(0), 0.0, 0.0, 0.5, []byte("12345678"))
	f.Add(int64(math.MinInt64), int64(math.MaxInt64), int64(-1), int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64), math.Inf(1), math.NaN(), 2.0, []byte{1})
	f.Add(int64(1), int64(1), int64(math.MaxInt64), int64(1e15), int64(1e15), int64(0), -1.0, math.Inf(1), math.NaN(), make([]byte, 8*methodFloats))
	f.Fuzz(func(t *testing.T, calls, failed, extra, restCalls, restFailed, restExtra int64, maxExtra, skew, share float64, stored []byte) {
		arms := Arms{Counts{calls, failed, extra}, Counts{restCalls, restFailed, restExtra}}
		floats := make([]float64, len(stored)/8)
		for i := range floats {
			floats[i] = math.Float64frombits(binary.BigEndian.Uint64(stored[8*i:]))
		}
		e, err := EvidenceFrom(floats)
		if err != nil {
			e = new(Evidence)
		}
		for range 3 {
			e.AddSkewed("a", arms, Skew{skew, skew}, maxExtra)
			e.Add("b", arms, maxExtra)
			e.AddSkewed("b", arms, SkewOf(arms, share), maxExtra)
			failed, extra := e.E()
			if !(failed >= 0 && extra >= 0 && failed+extra <= 2e300) {
				t.Fatalf("evidence of %v and %v", failed, extra)
			}
		}
		back, err := EvidenceFrom(e.Floats())
		require.NoError(t, err)
		require.Equal(t, e.Floats(), back.Floats())
		plan := Plan{Steps: []float64{0.05, share}, Alpha: share, MinCalls: calls, MaxExtra: maxExtra}
		d := plan.Decide(State{Started: start, Now: start, Evidence: e, InStep: arms, Seen: []Stratum{{"a", arms.Plus(arms)}}, Refusing: int(failed)})
		if d.Reason == "" || d.Verdict == Advance && (d.Step != 1 || calls <= 0) {
			t.Fatalf("decided %+v", d)
		}
	})
}
