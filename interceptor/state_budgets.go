package interceptor

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/rego-go/rego/budget"
)

// usedBudget is a budget, and what is known of it without asking it.
type usedBudget struct {
	BudgetState
	budget budget.Budget
	before asked // that do not count
}

// asked is how often budgets have granted and denied an extra attempt.
type asked struct{ granted, denied int64 }

// askedOf returns what a budget has answered, as far as it tells.
func askedOf(b budget.Budget) asked {
	u := usedBudget{budget: b}
	u.ask()
	return asked{u.Granted, u.Denied}
}

// budgetStates says what the budgets of a target have.
func (t *target) budgetStates() []BudgetState {
	used := t.budgets()
	states := make([]BudgetState, len(used))
	for i := range used {
		used[i].ask()
		states[i] = used[i].BudgetState
	}
	slices.SortFunc(states, func(a, b BudgetState) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return states
}

// budgets returns those that calls to a target use: by their plans, or by policies that calls have
// brought since there is the target.
func (t *target) budgets() []usedBudget {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []usedBudget{{BudgetState{Registered: true, Since: t.since}, t.budget, t.before}}
	byName, loads := maps.Clone(t.brought), make(map[*method]*budget.ExtraLoad)
	for _, m := range t.learned {
		if m.brought != nil {
			loads[m] = m.brought
		}
	}
	for _, p := range t.pending.byMethod {
		if name := p.policy.Budget; name != "" {
			byName[name] = p.budget
		}
		if h := p.hedging; h != nil && h.own != nil {
			loads[p.method] = h.own
		}
	}
	for name, b := range byName {
		list = append(list, usedBudget{BudgetState{Kind: BudgetOfPolicies, Name: name, Registered: true, Since: t.named[name].since}, b, asked{}})
	}
	for m, b := range loads {
		list = append(list, usedBudget{BudgetState{Kind: BudgetOfMethod, Name: m.name, Registered: m.registered.Load(), Since: m.bounded}, b, asked{}})
	}
	return list
}

// ask has a budget tell of itself. Those of package budget tell all; one that panics tells
// nothing.
func (u *usedBudget) ask() {
	known := u.BudgetState
	defer func() {
		if recover() != nil {
			u.BudgetState = known
		}
	}()
	if b, ok := u.budget.(interface{ Balance() float64 }); ok {
		if v := b.Balance(); !math.IsNaN(v) && !math.IsInf(v, 0) {
			u.HasBalance, u.Balance = true, v
		}
	}
	if b, ok := u.budget.(interface {
		Answers() (granted, denied int64)
	}); ok {
		u.Granted, u.Denied = b.Answers()
		u.Granted -= u.before.granted
		u.Denied -= u.before.denied
	}
}
