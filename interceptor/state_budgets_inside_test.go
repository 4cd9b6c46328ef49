package interceptor

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/policy"
)

// hedged is a policy that allows this share of extra load.
func hedged(share float64) policy.Policy {
	p := policy.Default()
	p.Hedge.MaxExtraLoad = share
	return p
}

// hedgeOnce makes calls under a plan until one hedge is granted.
func hedgeOnce(t *testing.T, p *plan) {
	t.Helper()
	for range 2 { // originals pay a little less than their share
		original, _ := budget.Take(p.hedges, budget.Original)
		original.Release(budget.Success)
	}
	hedge, ok := budget.Take(p.hedges, budget.Hedge)
	require.True(t, ok)
	hedge.Release(budget.Failure)
}

// grantedBy returns what the budgets of a target have granted, by kind and name.
func grantedBy(tg *target) map[string]int64 {
	sum := make(map[string]int64)
	for _, b := range tg.budgetStates() {
		sum[strings.TrimSpace(b.Kind.String()+" "+b.Name)] += b.Granted
	}
	return sum
}

// TestMethodBudgetLosesNothing: what a budget grants is counted as long as a plan has it, also if
// the method or the target has forgotten it.
func TestMethodBudgetLosesNothing(t *testing.T) {
	t.Parallel()
	var st policy.Store
	it, err := New(WithPolicy(hedged(0.9)), WithPolicies(&st), WithTargetBudget(func(string) budget.Budget { return nil }))
	require.NoError(t, err)
	tg := it.target(nil)
	plans := []*plan{tg.plan(benchMethod)}
	for i := range 3 * maxHedgings {
		p := hedged(0.9 - float64(i+1)/1000)
		made, err := tg.ownPlan(&p, benchMethod)
		require.NoError(t, err)
		plans = append(plans, made)
	}
	for _, r := range []struct {
		name   string
		before func()
	}{
		{"plans that calls find", func() {}},
		{"plans of calls that have begun under another set", func() { require.NoError(t, st.Update(policy.Set{Version: "2"})) }},
	} {
		r.before()
		tg.plan(benchMethod)
		before := grantedBy(tg)["method "+benchMethod]
		for i, p := range plans {
			hedgeOnce(t, p)
			assert.Equal(t, before+int64(i+1), grantedBy(tg)["method "+benchMethod], r.name)
		}
	}
	assert.LessOrEqual(t, len(tg.learned[benchMethod].hedgings), maxHedgings)
}

// TestBudgetsOfCallsAreShown: of a policy that a call brings, its budgets are in the state, and stay
// there when there is another set.
func TestBudgetsOfCallsAreShown(t *testing.T) {
	t.Parallel()
	const ofMethod = "method " + benchMethod
	with := func(share float64, name string) policy.Policy {
		p := hedged(share)
		p.Budget = name
		return p
	}
	for _, r := range []struct {
		name    string
		inForce policy.Policy
		own     policy.Policy
		want    map[string]int64
	}{
		{"no policy but the call's", policy.Policy{}, with(0.9, "mine"), map[string]int64{"target": 0, "policy mine": 1, ofMethod: 1}},
		{"without MaxExtraLoad", policy.Policy{}, with(0, "mine"), map[string]int64{"target": 0, "policy mine": 0}},
		{"without a budget", policy.Policy{}, with(0.9, ""), map[string]int64{"target": 1, ofMethod: 1}},
		{"another budget", with(0, "other"), with(0.9, "mine"), map[string]int64{"target": 0, "policy mine": 1, "policy other": 0, ofMethod: 1}},
		{"the same budgets", with(0.9, "mine"), with(0.8, "mine"), map[string]int64{"target": 0, "policy mine": 1, ofMethod: 1}},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			var st policy.Store
			it, err := New(WithPolicy(r.inForce), WithPolicies(&st), WithBudget("mine", budget.Default()), WithBudget("other", budget.Default()))
			require.NoError(t, err)
			tg := it.target(nil)
			p, err := tg.ownPlan(&r.own, benchMethod)
			require.NoError(t, err)
			if p.hedging != nil {
				hedgeOnce(t, p)
			}
			for range 2 {
				tg.plan(benchMethod)
				assert.Equal(t, r.want, grantedBy(tg))
				require.NoError(t, st.Update(policy.Set{Version: "2"}))
			}
		})
	}
}
