package debugpage

import (
	"maps"
	"math"
	"time"

	"github.com/rego-go/rego/interceptor"
)

// budgetSeries is the history of a budget.
type budgetSeries struct {
	from   int // the first sample that has a point
	last   interceptor.BudgetState
	points [samples]budgetPoint
	busy   int // the sample that last had answers
	seen   int
}

type budgetPoint struct {
	balance         float32
	granted, denied uint32
}

// finite is a balance that can be kept, and drawn: there is none of so many attempts.
func finite(balance float64) float32 {
	return float32(min(max(balance, -math.MaxFloat32), math.MaxFloat32))
}

func (s *budgetSeries) take(sample int, b *interceptor.BudgetState) {
	granted, denied := s.open(b)
	s.points[sample%samples] = budgetPoint{finite(b.Balance), small(granted), small(denied)}
	s.last, s.seen = *b, sample
	if granted > 0 || denied > 0 {
		s.busy = sample
	}
}

// open returns what a budget has answered since the last sample.
func (s *budgetSeries) open(b *interceptor.BudgetState) (granted, denied int64) {
	if !s.last.Since.Equal(b.Since) {
		return b.Granted, b.Denied
	}
	return b.Granted - s.last.Granted, b.Denied - s.last.Denied
}

// claim returns what the budget has to say for its place at a sample.
func (s *budgetSeries) claim(k budgetKey, sample int) claim[budgetKey] {
	c := claimOf(k, s.last.Registered, 0)
	if c.class != shared && sample-s.busy >= samples {
		c.class = idle
	}
	for i := max(sample-recently+1, s.from, 0); i <= sample; i++ {
		p := &s.points[i%samples]
		c.need = max(c.need, int64(p.granted)+int64(p.denied))
	}
	return c
}

// claimOf has a budget that many share need a place also while nobody asks it.
func claimOf(k budgetKey, registered bool, need int64) claim[budgetKey] {
	if k.kind != interceptor.BudgetOfMethod {
		return claim[budgetKey]{k, shared, need + 1}
	}
	return claim[budgetKey]{k, classOf(registered), need}
}

// takeBudgetsLocked takes in the budgets of a sample, and gives places to those that need them most.
func (h *history) takeBudgetsLocked(s *interceptor.State, before time.Time) {
	newcomers := make(map[budgetKey]*interceptor.BudgetState)
	var now, next crowd[budgetKey]
	for i := range s.Targets {
		t := &s.Targets[i]
		for j := range t.Budgets {
			b := &t.Budgets[j]
			k := budgetKey{key{t.Name, b.Name}, b.Kind}
			if of := h.budgets[k]; of != nil {
				of.take(h.n, b)
			} else {
				newcomers[k] = b
				now.add(k, b.Granted+b.Denied)
			}
		}
	}
	maps.DeleteFunc(h.budgets, func(_ budgetKey, of *budgetSeries) bool { return of.seen != h.n })
	if len(newcomers) > 0 {
		claims, holders := make([]claim[budgetKey], 0, len(newcomers)), make([]claim[budgetKey], 0, len(h.budgets))
		for k, b := range newcomers {
			claims = append(claims, claimOf(k, b.Registered, now.since(&h.otherBudgets, k)))
		}
		for k, of := range h.budgets {
			holders = append(holders, of.claim(k, h.n))
		}
		out, in := contest(holders, claims, maxSeries-len(h.budgets))
		for _, k := range out {
			next.add(k, h.budgets[k].last.Granted+h.budgets[k].last.Denied)
			delete(h.budgets, k)
		}
		for _, k := range in {
			h.budgets[k] = h.beginBudgetLocked(newcomers[k], before)
			delete(newcomers, k)
		}
		for k, b := range newcomers {
			next.add(k, b.Granted+b.Denied)
		}
	}
	h.otherBudgets = next
}

// beginBudgetLocked begins the history of a budget. It has no balance before it was made.
func (h *history) beginBudgetLocked(b *interceptor.BudgetState, before time.Time) *budgetSeries {
	of := &budgetSeries{from: h.n, last: interceptor.BudgetState{Since: b.Since}, busy: h.n}
	if before.IsZero() || !b.Since.After(before) {
		of.from, of.last = h.n+1, *b // else all that it has answered is new
	}
	of.take(h.n, b)
	of.busy = h.n
	return of
}

// budgetPastLocked returns the history of a budget.
func (h *history) budgetPastLocked(k budgetKey, b *interceptor.BudgetState, now time.Time) (list []budgetPast) {
	s := h.budgets[k]
	if s == nil {
		return nil
	}
	h.eachLocked(now, func(sample int, end time.Time, seconds float64) {
		p := budgetPast{Time: end, Seconds: seconds, Balance: float64(finite(b.Balance))}
		switch {
		case sample < 0:
			p.Granted, p.Denied = s.open(b)
		case sample < s.from:
			return
		default:
			of := s.points[sample%samples]
			p.Balance, p.Granted, p.Denied = float64(of.balance), int64(of.granted), int64(of.denied)
		}
		list = append(list, p)
	})
	return list
}

// recentBudgetLocked returns what a budget has granted and denied in the window, and whether that is
// known.
func (h *history) recentBudgetLocked(k budgetKey, b *interceptor.BudgetState) (granted, denied int64, ok bool) {
	s := h.budgets[k]
	switch {
	case s == nil && b.Since.After(h.timeLocked()):
		return b.Granted, b.Denied, true
	case s == nil:
		return 0, 0, false
	}
	granted, denied = s.open(b)
	_, n := h.windowLocked()
	for i := max(h.n-n+1, s.from); i <= h.n; i++ {
		granted += int64(s.points[i%samples].granted)
		denied += int64(s.points[i%samples].denied)
	}
	return granted, denied, true
}
