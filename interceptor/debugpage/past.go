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
		f(i, end, end.Sub(from).Seconds())
		from = end
	}
	f(-1, now, now.Sub(from).Seconds())
}

// pastLocked returns the history of a method, as far as it is known.
func (h *history) pastLocked(k key, m *interceptor.MethodState, now time.Time) (list []past) {
	s := h.methods[k]
	if s == nil && !m.Since.After(h.timeLocked()) {
		return nil
	}
	h.eachLocked(now, func(sample int, end time.Time, seconds float64) {
		p := past{Time: end, Seconds: seconds}
		switch {
		case sample < 0:
			open := h.openLocked(s, m)
			p.add(open.counts())
		case s != nil && sample < s.from:
			return
		case s != nil:
			t := s.points[sample%samples].totals()
			p.add(t.counts())
		}
		list = append(list, p)
	})
	return list
}

// sumLocked returns the history of all methods, those that are gone included, and what they did in
// the window.
func (h *history) sumLocked(s *interceptor.State) (list []past, recent counts) {
	var open counts
	for i := range s.Targets {
		t := &s.Targets[i]
		var sum counts
		for j := range t.Methods {
			now := totalsOf(&t.Methods[j])
			sum.add(now.counts())
		}
		open.add(h.openSumLocked(t, sum))
	}
	_, n := h.windowLocked()
	h.eachLocked(s.Time, func(sample int, end time.Time, seconds float64) {
		p, did := past{Time: end, Seconds: seconds}, open
		if sample >= 0 {
			did = h.sum[sample%samples]
		}
		if p.add(did); sample < 0 || sample > h.n-n {
			recent.add(did)
		}
		list = append(list, p)
	})
	return list, recent
}

func (p *past) add(c counts) {
	p.Calls += c.Calls
	p.Failed += c.Failed
	p.Retries += c.Retries
	p.Hedges += c.Hedges
	p.Denied += c.Denied
}
