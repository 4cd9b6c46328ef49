package debugpage

import (
	"cmp"
	"slices"

	"github.com/rego-go/rego/interceptor"
)

// budgetsPage is the page of all budgets.
type budgetsPage struct {
	head
	Budgets []budgetView `json:"budgets"`

	Shown  []budgetView `json:"-"`
	Hidden int          `json:"-"`
}

// budgetView is what there is to say of a budget.
type budgetView struct {
	Target        string                 `json:"target"`
	Kind          interceptor.BudgetKind `json:"kind"`
	Name          string                 `json:"name"`
	Balance       *float64               `json:"balance"` // null if it does not tell
	Granted       int64                  `json:"granted"`
	Denied        int64                  `json:"denied"`
	RecentGranted *int64                 `json:"recent_granted"` // null without a history
	RecentDenied  *int64                 `json:"recent_denied"`
	History       []budgetPast           `json:"history"`

	Charts []chart `json:"-"`
}

// budgets returns the budgets: those that all share first, then those that deny most.
func (h *Handler) budgets(all bool) *budgetsPage {
	p := &budgetsPage{Budgets: []budgetView{}}
	h.history.look(func(s *interceptor.State) {
		p.head = h.history.headLocked("budgets", s.Time)
		for i := range s.Targets {
			t := &s.Targets[i]
			for j := range t.Budgets {
				p.Budgets = append(p.Budgets, h.history.budgetLocked(t.Name, &t.Budgets[j], s))
			}
		}
	})
	slices.SortStableFunc(p.Budgets, func(a, b budgetView) int {
		return cmp.Or(
			cmp.Compare(b2i(a.Kind == interceptor.BudgetOfMethod), b2i(b.Kind == interceptor.BudgetOfMethod)), cmp.Compare(a.Target, b.Target),
			cmp.Compare(orZero(b.RecentDenied), orZero(a.RecentDenied)), cmp.Compare(orZero(b.RecentGranted), orZero(a.RecentGranted)), cmp.Compare(b.Denied, a.Denied))
	})
	p.Shown = p.Budgets
	if !all {
		p.Shown = p.Budgets[:min(len(p.Budgets), shown)]
		p.Hidden = len(p.Budgets) - len(p.Shown)
	}
	for i := range p.Shown {
		p.Shown[i].Charts = budgetCharts(&p.Shown[i])
	}
	return p
}

func (h *history) budgetLocked(target string, b *interceptor.BudgetState, s *interceptor.State) budgetView {
	k := budgetKey{key{target, b.Name}, b.Kind}
	v := budgetView{
		Target: target, Kind: b.Kind, Name: spell(b.Name), Granted: b.Granted, Denied: b.Denied,
		History: h.budgetPastLocked(k, b, s.Time),
	}
	if b.HasBalance {
		v.Balance = &b.Balance
	}
	if granted, denied, ok := h.recentBudgetLocked(k, b); ok {
		v.RecentGranted, v.RecentDenied = &granted, &denied
	}
	return v
}

// Denies says that it has denied something of late.
func (b budgetView) Denies() bool { return orZero(b.RecentDenied) > 0 }

func orZero(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
