package otelobs

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/rego-go/rego/interceptor"
)

// other is the name of what is added up: methods that are not the program's own, and their budgets.
const other = "other"

// carriedTarget is what the counts of a target had come to at the last collection. A target that is
// gone and is back begins to count anew, and so does a budget that a set has again; but a counter
// must not go back.
type carriedTarget struct {
	since   time.Time // the target was met
	methods map[string]*carriedMethod
	budgets map[budgetSeries]*carriedBudget
	// otherBudgets are those of methods that are not the program's own, before the target came
	// back.
	otherBudgets interceptor.BudgetState
}

type budgetSeries struct {
	kind interceptor.BudgetKind
	name string
}

type (
	carriedMethod struct{ last, carried interceptor.MethodState }
	carriedBudget struct{ last, carried interceptor.BudgetState }
)

// maxCarried bounds the budgets of a target that are carried over although there are none of that
// name any more.
const maxCarried = 4096

func newCarriedTarget() *carriedTarget {
	return &carriedTarget{methods: make(map[string]*carriedMethod), budgets: make(map[budgetSeries]*carriedBudget)}
}

// carryOver makes the counts of a target go on where they were at the last collection.
func (c *carriedTarget) carryOver(t *interceptor.TargetState) {
	if !c.since.Equal(t.Since) {
		c.begin(t.Since)
	}
	t.Methods = c.carryMethods(t.Methods)
	t.Budgets = c.carryBudgets(t.Budgets)
}

// begin is for a target that is back: all that is its own counts from zero.
func (c *carriedTarget) begin(since time.Time) {
	c.since = since
	for _, m := range c.methods {
		m.carried.Add(&m.last)
		m.last = interceptor.MethodState{}
	}
	maps.DeleteFunc(c.budgets, func(_ budgetSeries, b *carriedBudget) bool {
		if b.last.Registered {
			return false
		}
		b.addTo(&c.otherBudgets)
		return true
	})
}

// carryMethods returns the methods, and those that have not been called since the target is back.
// Those that are not the program's own are one.
func (c *carriedTarget) carryMethods(methods []interceptor.MethodState) []interceptor.MethodState {
	now := make(map[string]*interceptor.MethodState, len(methods))
	var others interceptor.MethodState
	for i := range methods {
		if m := &methods[i]; m.Registered {
			now[m.Method] = m
		} else {
			others.Add(m)
		}
	}
	if calls, _ := others.Total(); calls > 0 {
		now[other] = &others
	}
	for name, m := range now {
		of := c.methods[name]
		if of == nil {
			of = new(carriedMethod)
			c.methods[name] = of
		}
		of.last = *m
	}
	list := make([]interceptor.MethodState, 0, len(c.methods))
	for name, of := range c.methods {
		sum := of.last
		sum.Add(&of.carried)
		sum.ReplayBytes = of.last.ReplayBytes // is no count
		sum.Method, sum.Registered = name, name != other
		list = append(list, sum)
	}
	slices.SortFunc(list, func(a, b interceptor.MethodState) int { return cmp.Compare(a.Method, b.Method) })
	return list
}

// carryBudgets returns the budgets. Those of methods that are not the program's own are one, which
// has no balance.
func (c *carriedTarget) carryBudgets(budgets []interceptor.BudgetState) (list []interceptor.BudgetState) {
	seen := make(map[budgetSeries]bool, len(budgets))
	for i := range budgets {
		b := &budgets[i]
		k := budgetSeries{b.Kind, b.Name}
		seen[k] = true
		of := c.budgets[k]
		if of == nil {
			of = new(carriedBudget)
			c.budgets[k] = of
		}
		of.take(b)
		if b.Registered {
			sum := *b
			sum.Granted, sum.Denied = 0, 0
			of.addTo(&sum)
			list = append(list, sum)
		}
	}
	others := c.otherBudgets
	others.Kind, others.Name = interceptor.BudgetOfMethod, other
	for _, of := range c.budgets {
		if !of.last.Registered {
			of.addTo(&others)
		}
	}
	if others.Granted+others.Denied > 0 {
		list = append(list, others)
	}
	if len(c.budgets) > len(seen)+maxCarried {
		maps.DeleteFunc(c.budgets, func(k budgetSeries, of *carriedBudget) bool { return of.last.Registered && !seen[k] })
	}
	return list
}

// take takes in what a budget has come to. One that was made anew counts from zero.
func (b *carriedBudget) take(now *interceptor.BudgetState) {
	if !b.last.Since.Equal(now.Since) {
		b.addLastTo(&b.carried)
	}
	b.last = *now
}

func (b *carriedBudget) addLastTo(sum *interceptor.BudgetState) {
	sum.Granted += b.last.Granted
	sum.Denied += b.last.Denied
}

// addTo adds all that the budget has answered.
func (b *carriedBudget) addTo(sum *interceptor.BudgetState) {
	sum.Granted += b.carried.Granted
	sum.Denied += b.carried.Denied
	b.addLastTo(sum)
}
