package rollout

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

var start = time.Date(2026, time.March, 2, 9, 0, 0, 0, time.UTC)

// both returns what so many calls of each arm did that went well.
func both(canary, rest int64) Arms { return Arms{Counts{Calls: canary}, Counts{Calls: rest}} }

func TestDecide(t *testing.T) {
	t.Parallel()
	plan := Plan{Steps: []float64{0.05, 1. / 3}, Bake: 5 * time.Minute}
	harmful := new(Evidence)
	harm := Arms{Counts{Calls: 1203, Failed: 61}, Counts{Calls: 24_001, Failed: 240}}
	harmful.Add("/users/Find", harm, 0.1)

	for _, tt := range []struct {
		name  string
		plan  Plan
		state State
		want  Decision
	}{
		{"enough", plan, State{Now: start.Add(5 * time.Minute), InStep: both(1000, 1)},
			Decision{Advance, 1, "no harm in 1,000 calls: goes to 33.33 % of the clients"}},
		{"enough in the last step", plan, State{Step: 1, Now: start.Add(time.Hour), InStep: both(1e6, 1e6)},
			Decision{Advance, 2, "no harm in 1,000,000 calls: goes to all clients"}},
		{"bakes", plan, State{Now: start.Add(time.Minute), InStep: both(1e4, 1e4)},
			Decision{Stay, 0, "bakes for another 4m"}},
		{"bakes for the last second", plan, State{Now: start.Add(5*time.Minute - 1), InStep: both(1e4, 1e4)},
			Decision{Stay, 0, "bakes for another 1s"}},
		{"too few calls", plan, State{Now: start.Add(time.Hour), InStep: both(999, 1e4)},
			Decision{Stay, 0, "999 of 1,000 calls"}},
		{"too few calls, and bakes", plan, State{Now: start, InStep: both(37, 1e4)},
			Decision{Stay, 0, "37 of 1,000 calls; bakes for another 5m"}},
		{"silence", plan, State{Now: start.Add(time.Hour), InStep: both(0, 1e4)},
			Decision{Stay, 0, "no client of the canary has reported a call"}},
		{"silence of the rest", plan, State{Now: start.Add(time.Hour), InStep: both(1e4, 0)},
			Decision{Stay, 0, "no client of the rest has reported a call to compare with"}},
		{"a client refuses", plan, State{Now: start.Add(time.Hour), InStep: both(1e4, 1e4), Refusing: 1},
			Decision{Stay, 0, "1 client of the canary refuses it"}},
		{"clients refuse", plan, State{Now: start.Add(time.Hour), InStep: both(3, 1e4), Refusing: 2},
			Decision{Stay, 0, "2 clients of the canary refuse it; 3 of 1,000 calls"}},
		{"harm, before all else", plan, State{Now: start, Refusing: 1, Evidence: harmful, Seen: []Stratum{{"/users/Find", harm}}},
			Decision{Reject, 0, "failed calls: 61 of 1,203 (5.1 %) in the canary, 240 of 24,001 (1.0 %) in the rest; " +
				"evidence 1:10^18 against their being alike (rejected from 1:100)"}},
		{"no step of the plan", plan, State{Step: 2, Now: start.Add(time.Hour), InStep: both(1e4, 1e4)},
			Decision{Stay, 2, "the plan has no step 2"}},
		{"a negative step", plan, State{Step: -1}, Decision{Stay, -1, "the plan has no step -1"}},
		{"an invalid plan", Plan{}, State{Evidence: harmful},
			Decision{Stay, 0, "the plan is invalid: steps: must be between 1 and 100 shares, got 0"}},
		{"counts that cannot be", plan, State{Now: start.Add(time.Hour), InStep: both(-5, -5)},
			Decision{Stay, 0, "no client of the canary has reported a call; no client of the rest has reported a call to compare with"}},
	} {
		tt.state.Started = start
		assert.Equal(t, tt.want, tt.plan.Decide(tt.state), tt.name)
	}
}

// TestReasons names the method that is harmed, if it is one among many.
func TestReasons(t *testing.T) {
	t.Parallel()
	plan := Plan{Steps: []float64{0.05}, MaxExtra: 0.2}
	for _, tt := range []struct {
		name string
		harm Arms
		want string
	}{
		{"failures", Arms{Counts{Calls: 20, Failed: 20}, Counts{Calls: 380}},
			`^failed calls of /b: 20 of 20 \(100\.0 %\) in the canary, 0 of 380 \(0 %\) in the rest; evidence 1:10\^\d+ against`},
		{"extra attempts", Arms{Counts{Calls: 20, Extra: 80}, Counts{Calls: 380}},
			`^extra attempts of /b: 80 in 20 calls \(4 per call\) in the canary, 0 in 380 calls \(0 per call\) in the rest, ` +
				`0\.2 per call are allowed; evidence 1:10\^\d+ against`},
		{"little evidence", Arms{Counts{Calls: 4, Failed: 4}, Counts{Calls: 76}},
			`^failed calls of /b: .* evidence 1:[\d,]+ against their being alike \(rejected from 1:100\)$`},
	} {
		var e Evidence
		well := Arms{Counts{Calls: 5000, Failed: 500, Extra: 500}, Counts{Calls: 95_000, Failed: 9500, Extra: 9500}}
		e.Add("/a", well, plan.MaxExtra)
		e.Add("/b", tt.harm, plan.MaxExtra)
		d := plan.Decide(State{Evidence: &e, Seen: []Stratum{{"/a", well}, {"/b", tt.harm}}})
		assert.Equal(t, Reject, d.Verdict, tt.name)
		assert.Regexp(t, tt.want, d.Reason, tt.name)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		assert.Equal(t, want, grouped(n))
	}
	for e, want := range map[float64]string{1: "1", 100: "100", 3449: "3,400", 123456: "120,000", 5e9: "10^9"} {
		assert.Equal(t, want, rounded(math.Log(e)))
	}
	for share, want := range map[float64]string{0: "0 %", 0.0507: "5.1 %", 0.00012: "0.0120 %", 1: "100.0 %"} {
		assert.Equal(t, want, percent(share))
	}
	assert.Equal(t, []string{"stay", "advance", "reject", "verdict 3"},
		[]string{Stay.String(), Advance.String(), Reject.String(), Verdict(3).String()})
}
