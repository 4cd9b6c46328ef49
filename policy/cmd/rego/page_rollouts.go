package main

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/rego-go/rego/policy/repository"
	"github.com/rego-go/rego/policy/rollout"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// rolloutView is a rollout as a page shows it.
type rolloutView struct {
	*regov1.Rollout
	Service string

	plan rollout.Plan
	now  time.Time
}

func viewOf(s *regov1.ServicePolicies, now time.Time) rolloutView {
	return rolloutView{s.GetRollout(), s.GetService(), repository.PlanFromProto(s.GetRollout().GetPlan()).WithDefaults(), now}
}

// rolloutViews returns the rollouts that are under way, and the last ones that have ended, the
// newest first.
func rolloutViews(services []*regov1.ServicePolicies, now time.Time) (underWay, ended []rolloutView) {
	for _, s := range services {
		switch {
		case s.GetRollout() == nil || s.GetRollout().GetPlan() == nil:
		case s.GetRollout().GetState() == regov1.RolloutState_ROLLOUT_STATE_BAKING:
			underWay = append(underWay, viewOf(s, now))
		default:
			ended = append(ended, viewOf(s, now))
		}
	}
	slices.SortStableFunc(underWay, func(a, b rolloutView) int { return cmp.Compare(b.evidence(), a.evidence()) })
	slices.SortStableFunc(ended, func(a, b rolloutView) int { return b.GetEnded().AsTime().Compare(a.GetEnded().AsTime()) })
	const most, last = 50, 10
	return underWay[:min(len(underWay), most)], ended[:min(len(ended), last)]
}

// Word is the state of it.
func (r rolloutView) Word() string { return wordOf(r.GetState(), "ROLLOUT_STATE_") }

// Rejected reports whether it did harm.
func (r rolloutView) Rejected() bool {
	return r.GetState() == regov1.RolloutState_ROLLOUT_STATE_REJECTED
}

// Number is that of the step, from 1.
func (r rolloutView) Number() int32 { return r.GetStep() + 1 }

// Steps is how many steps the plan has.
func (r rolloutView) Steps() int { return len(r.plan.Steps) }

// Baked is since when the step goes on, in seconds.
func (r rolloutView) Baked() float64 { return r.now.Sub(r.GetStepStarted().AsTime()).Seconds() }

// Bake is how long a step lasts, at least, in seconds.
func (r rolloutView) Bake() float64 { return r.plan.Bake.Seconds() }

// EndedAgo is since when it has ended, in seconds.
func (r rolloutView) EndedAgo() float64 { return r.now.Sub(r.GetEnded().AsTime()).Seconds() }

// Waits reports whether the step has baked for longer than it should, and has not ended.
func (r rolloutView) Waits() bool { return r.Baked() > r.Bake()+time.Minute.Seconds() }

// evidence is that which counts: both parts together.
func (r rolloutView) evidence() float64 { return r.GetFailedEvidence() + r.GetExtraEvidence() }

// Evidence is the same in words.
func (r rolloutView) Evidence() string { return digits(max(1, r.evidence())) }

// HasEvidence reports whether there is any.
func (r rolloutView) HasEvidence() bool { return r.evidence() >= 1.1 }

// Limit is the evidence at which the set is rejected.
func (r rolloutView) Limit() string { return digits(1 / r.plan.Alpha) }

// Weight is how far the evidence has got, on a logarithmic scale from 0 to 1000.
func (r rolloutView) Weight() int {
	share := math.Log(max(1, r.evidence())) / -math.Log(r.plan.Alpha)
	return int(1000 * min(1, max(0, share)))
}

// Width is the share of the clients, from 0 to 1000.
func (r rolloutView) Width() int { return int(1000 * min(1, max(0, r.GetShare()))) }

// Marks are the shares of the steps, from 0 to 1000.
func (r rolloutView) Marks() []int {
	marks := make([]int, len(r.plan.Steps))
	for i, s := range r.plan.Steps {
		marks[i] = int(1000 * s)
	}
	return marks
}

// armRow is what the calls of some clients did.
type armRow struct {
	Name                 string
	Calls, Failed, Extra int64
}

// Arms are both of them.
func (r rolloutView) Arms() []armRow {
	row := func(name string, c *regov1.ArmCounts) armRow {
		return armRow{name, c.GetCalls(), c.GetFailed(), c.GetExtra()}
	}
	return []armRow{row("canary", r.GetCanary()), row("rest", r.GetRest())}
}

// FailedShare is that of calls.
func (a armRow) FailedShare() float64 { return float64(a.Failed) / float64(max(1, a.Calls)) }

// PerCall is how many extra attempts there are for each call.
func (a armRow) PerCall() float64 { return float64(a.Extra) / float64(max(1, a.Calls)) }
