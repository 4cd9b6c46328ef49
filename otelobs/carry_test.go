package otelobs

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
)

// TestCountersGoOn: a target that is back counts from zero, and so does a budget that a set has
// again. What is collected goes on, also if only some methods are called at first.
func TestCountersGoOn(t *testing.T) {
	t.Parallel()
	life := func(n int) time.Time { return time.Date(2030, 1, n, 0, 0, 0, 0, time.UTC) }
	method := func(name string, calls int64) interceptor.MethodState {
		return interceptor.MethodState{Method: "/" + name, Registered: name[0] != '~', Calls: []interceptor.CallCount{{Code: codes.OK, Count: calls}}}
	}
	budget := func(kind interceptor.BudgetKind, name string, since int, granted int64) interceptor.BudgetState {
		return interceptor.BudgetState{Kind: kind, Name: name, Registered: kind != interceptor.BudgetOfMethod || name[0] != '~', Since: life(since), Granted: granted, HasBalance: true}
	}
	const ofTarget, ofPolicies, ofMethod = interceptor.BudgetOfTarget, interceptor.BudgetOfPolicies, interceptor.BudgetOfMethod
	type (
		methods = []interceptor.MethodState
		budgets = []interceptor.BudgetState
	)
	c := newCarriedTarget()
	for i, r := range []struct {
		life    int
		methods methods
		budgets budgets
		want    []string
	}{
		{1, methods{method("Get", 50), method("Put", 40), method("~A", 30), method("~B", 20)}, nil, []string{"/Get 50", "/Put 40", "other 50"}},
		{2, methods{method("Get", 1), method("~C", 1)}, nil, []string{"/Get 51", "/Put 40", "other 51"}},                   // it is back
		{2, methods{method("Get", 2), method("Put", 1), method("~C", 1)}, nil, []string{"/Get 52", "/Put 41", "other 51"}}, // and is called again
		{3, nil, nil, []string{"/Get 52", "/Put 41", "other 51"}},                                                          // it is back, and back
		{4, methods{method("~A", 5)}, nil, []string{"/Get 52", "/Put 41", "other 56"}},

		{4, nil, budgets{budget(ofTarget, "", 4, 7), budget(ofPolicies, "b", 4, 6)}, []string{"/Get 52", "/Put 41", "other 56", "target: 7", "policy:b 6"}},
		{4, nil, budgets{budget(ofTarget, "", 4, 7)}, []string{"/Get 52", "/Put 41", "other 56", "target: 7"}}, // the set has it no more
		{4, nil, budgets{budget(ofTarget, "", 4, 7), budget(ofPolicies, "b", 5, 1)}, []string{"/Get 52", "/Put 41", "other 56", "target: 7", "policy:b 7"}},
		{5, nil, budgets{budget(ofTarget, "", 5, 1), budget(ofMethod, "~A", 5, 3), budget(ofMethod, "~B", 5, 2)}, []string{"/Get 52", "/Put 41", "other 56", "target: 8", "method:other 5, no balance"}},
		{5, nil, budgets{budget(ofMethod, "~B", 5, 2)}, []string{"/Get 52", "/Put 41", "other 56", "method:other 5, no balance"}}, // ~A is not hedged now
		{5, nil, budgets{budget(ofMethod, "~A", 5, 4), budget(ofMethod, "~B", 5, 2)}, []string{"/Get 52", "/Put 41", "other 56", "method:other 6, no balance"}},
		{6, nil, budgets{budget(ofMethod, "~A", 6, 1)}, []string{"/Get 52", "/Put 41", "other 56", "method:other 7, no balance"}},
	} {
		s := interceptor.TargetState{Since: life(r.life), Methods: r.methods, Budgets: r.budgets}
		c.carryOver(&s)
		var got []string
		for _, m := range s.Methods {
			calls, _ := m.Total()
			got = append(got, fmt.Sprint(m.Method, " ", calls))
		}
		for _, b := range s.Budgets {
			line := fmt.Sprintf("%s:%s %d", b.Kind, b.Name, b.Granted)
			if b.Name == "" {
				line = fmt.Sprintf("%s: %d", b.Kind, b.Granted)
			}
			if !b.HasBalance {
				line += ", no balance"
			}
			got = append(got, line)
		}
		assert.Equal(t, r.want, got, "collection %d", i)
	}
}

// TestCarriedBudgetsAreBounded: a set may name other budgets each time.
func TestCarriedBudgetsAreBounded(t *testing.T) {
	t.Parallel()
	c := newCarriedTarget()
	for i := range 2*maxCarried + 2 {
		c.carryOver(&interceptor.TargetState{Budgets: []interceptor.BudgetState{{Kind: interceptor.BudgetOfPolicies, Name: fmt.Sprint(i), Registered: true}}})
		assert.LessOrEqual(t, len(c.budgets), maxCarried+1)
	}
}
