package debugpage

import (
	"time"

	"github.com/rego-go/rego/interceptor"
)

// Past is what happened in an interval, for charts.
type past struct {
	Time    time.Time `json:"time"` // its end
	Seconds float64   `json:"seconds"`
	Calls   int64     `json:"calls"`
	Failed  int64     `json:"failed"`
	Retries int64     `json:"retries"`
	Hedges  int64     `json:"hedges"`
	Denied  int64     `json:"denied"`
}

// budgetPast is what a budget had at the end of an interval, and what it did in it.
type budgetPast struct {
	Time    time.Time `json:"time"`
	Seconds float64   `json:"seconds"`
	Balance float64   `json:"balance"`
	Granted int64     `json:"granted"`
	Denied  int64     `json:"denied"`
}

// eachLocked calls f for the intervals that are kept, the oldest first, with the sample that ends
// each: -1 for the one that has not ended.
func (h *history) eachLocked(now time.Time, f func(sample int, end time.Time, seconds float64)) {
	first := max(h.n-samples+2, 1)
	from := h.times[(first-1)%samples]
	for i := first; i <= h.n; i++ {
		end := h.times[i%samples]
		f(i%samples, end, end.Sub(from).Seconds())
		from = end
	}
	f(-1, now, now.Sub(from).Seconds())
}

// pastLocked returns the history of a method.
func (h *history) pastLocked(k key, m *interceptor.MethodState, now time.Time) (list []past) {
	s := h.methods[k]
	h.eachLocked(now, func(sample int, end time.Time, seconds float64) {
		p := past{Time: end, Seconds: seconds}
		switch {
		case sample < 0:
			open := h.openLocked(s, m)
			p.add(open.point())
		case s != nil:
			p.add(s.points[sample])
		}
		list = append(list, p)
	})
	return list
}

// sumLocked returns the history of all methods, those that are gone included.
func (h *history) sumLocked(s *interceptor.State) (list []past) {
	h.eachLocked(s.Time, func(sample int, end time.Time, seconds float64) {
		p := past{Time: end, Seconds: seconds}
		if sample >= 0 {
			p.add(h.sum[sample])
		}
		list = append(list, p)
	})
	last := &list[len(list)-1]
	for i := range s.Targets {
		t := &s.Targets[i]
		for j := range t.Methods {
			m := &t.Methods[j]
			open := h.openLocked(h.methods[key{t.Name, m.Method}], m)
			last.add(open.point())
		}
	}
	return list
}

func (t *totals) point() point {
	return point{small(t.calls), small(t.failed), small(t.retries), small(t.hedges), small(t.denied)}
}

func (p *past) add(o point) {
	p.Calls += int64(o.calls)
	p.Failed += int64(o.failed)
	p.Retries += int64(o.retries)
	p.Hedges += int64(o.hedges)
	p.Denied += int64(o.denied)
}

// budgetPastLocked returns the history of a budget.
func (h *history) budgetPastLocked(k budgetKey, b *interceptor.BudgetState, now time.Time) (list []budgetPast) {
	s := h.budgets[k]
	if s == nil {
		return nil
	}
	h.eachLocked(now, func(sample int, end time.Time, seconds float64) {
		p := budgetPast{Time: end, Seconds: seconds, Balance: b.Balance}
		if sample < 0 {
			p.Granted, p.Denied = s.open(b)
		} else {
			of := s.points[sample]
			p.Balance, p.Granted, p.Denied = float64(of.balance), int64(of.granted), int64(of.denied)
		}
		list = append(list, p)
	})
	return list
}

// recentBudgetLocked returns what a budget has granted and denied in the window.
func (h *history) recentBudgetLocked(k budgetKey, b *interceptor.BudgetState) (granted, denied int64) {
	s := h.budgets[k]
	switch {
	case s == nil && b.Since.After(h.timeLocked()):
		return b.Granted, b.Denied
	case s == nil:
		return 0, 0
	}
	granted, denied = s.open(b)
	_, n := h.windowLocked()
	for i := h.n - n + 1; i <= h.n; i++ {
		granted += int64(s.points[i%samples].granted)
		denied += int64(s.points[i%samples].denied)
	}
	return granted, denied
}
