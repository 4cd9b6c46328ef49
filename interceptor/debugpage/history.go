package debugpage

import (
	"context"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
)

const (
	interval  = 10 * time.Second
	samples   = 60   // that are kept: ten minutes
	recently  = 6    // samples that rates are taken from: a minute
	maxSeries = 1050 // methods, and as many budgets
	reasons   = 16   // more than there are, of either kind
)

// totals are the counters of a method that the history follows.
type totals struct {
	calls, failed, attempts, retries, hedges, denied int64

	ends, denials [reasons]int64
}

func totalsOf(m *interceptor.MethodState) (t totals) {
	for _, c := range m.Calls {
		t.calls += c.Count
		if c.Code != codes.OK {
			t.failed += c.Count
			t.ends[min(int(c.Reason), reasons-1)] += c.Count
		}
	}
	for _, a := range m.Attempts {
		t.attempts += a.Count
		switch a.Kind {
		case budget.Retry:
			t.retries += a.Count
		case budget.Hedge:
			t.hedges += a.Count
		default:
		}
	}
	for _, d := range m.Denials {
		t.denied += d.Count
		t.denials[min(int(d.Reason), reasons-1)] += d.Count
	}
	return t
}

// add adds o, so many times: once, or less than nothing.
func (t *totals) add(o *totals, times int64) {
	t.calls += times * o.calls
	t.failed += times * o.failed
	t.attempts += times * o.attempts
	t.retries += times * o.retries
	t.hedges += times * o.hedges
	t.denied += times * o.denied
	for i := range reasons {
		t.ends[i] += times * o.ends[i]
		t.denials[i] += times * o.denials[i]
	}
}

// point is what happened between two samples.
type point struct{ calls, failed, retries, hedges, denied uint32 }

// detail is what is kept of the last minute beside it.
type detail struct {
	attempts      uint32
	ends, denials [reasons]uint32
}

// series is the history of a method.
type series struct {
	since   time.Time // a target that comes back begins at zero
	last    totals
	points  [samples]point
	details [recently]detail
	busy    int // the sample that last had calls
	seen    int // the sample that last had the method
}

type budgetSeries struct {
	last struct{ granted, denied int64 }

	points [samples]budgetPoint
	seen   int
}

type budgetPoint struct {
	balance         float32
	granted, denied uint32
}

// key names a method or a budget of a target.
type key struct{ target, name string }

// history is what is kept of an interceptor's past. Sample n is at n modulo samples.
type history struct {
	it *interceptor.Interceptor

	mu      sync.Mutex
	n       int // the last sample, from 0
	times   [samples]time.Time
	methods map[key]*series
	budgets map[key]*budgetSeries
	full    bool  // some budget has no place
	idle    []key // methods that were not called for as long as the history is, at sample idleAt
	idleAt  int
}

func newHistory(it *interceptor.Interceptor) *history {
	h := &history{it: it, n: -1, methods: make(map[key]*series), budgets: make(map[key]*budgetSeries)}
	h.sample()
	return h
}

// run samples until ctx is done.
func (h *history) run(ctx context.Context) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			h.sample()
		}
	}
}

func (h *history) sample() {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.it.Counters()
	before := h.timeLocked()
	h.n++
	h.times[h.n%samples] = s.Time
	for i := range s.Targets {
		t := &s.Targets[i]
		for j := range t.Methods {
			h.sampleMethodLocked(key{t.Name, t.Methods[j].Method}, &t.Methods[j], before)
		}
		for j := range t.Budgets {
			h.sampleBudgetLocked(key{t.Name, t.Budgets[j].Name}, &t.Budgets[j])
		}
	}
	for k, m := range h.methods {
		if m.seen != h.n {
			delete(h.methods, k)
		}
	}
	for k, b := range h.budgets {
		if b.seen != h.n {
			delete(h.budgets, k)
		}
	}
}

// timeLocked returns when the last sample was taken, zero if none was.
func (h *history) timeLocked() time.Time {
	if h.n < 0 {
		return time.Time{}
	}
	return h.times[h.n%samples]
}

func (h *history) sampleMethodLocked(k key, m *interceptor.MethodState, before time.Time) {
	now := totalsOf(m)
	s, ok := h.methods[k]
	switch {
	case !ok:
		if len(h.methods) >= maxSeries && !h.makePlaceLocked() {
			return
		}
		s = &series{since: m.Since, last: now, busy: h.n}
		if !before.IsZero() && m.Since.After(before) {
			s.last = totals{} // all of it is new
		}
		h.methods[k] = s
	case !s.since.Equal(m.Since):
		s.since, s.last = m.Since, totals{}
	}
	d := now
	d.add(&s.last, -1)
	s.last, s.seen = now, h.n
	if d.calls > 0 || d.attempts > 0 {
		s.busy = h.n
	}
	s.points[h.n%samples] = point{small(d.calls), small(d.failed), small(d.retries), small(d.hedges), small(d.denied)}
	of := &s.details[h.n%recently]
	of.attempts = small(d.attempts)
	for i := range reasons {
		of.ends[i], of.denials[i] = small(d.ends[i]), small(d.denials[i])
	}
}

// makePlaceLocked gives up the history of a method that has none to tell, if there is one.
func (h *history) makePlaceLocked() bool {
	if h.idleAt != h.n { // looked for once in a sample
		h.idleAt, h.idle = h.n, h.idle[:0]
		for k, s := range h.methods {
			if h.n-s.busy >= samples {
				h.idle = append(h.idle, k)
			}
		}
	}
	last := len(h.idle) - 1
	if last < 0 {
		return false
	}
	delete(h.methods, h.idle[last])
	h.idle = h.idle[:last]
	return true
}

func (h *history) sampleBudgetLocked(k key, b *interceptor.BudgetState) {
	s, ok := h.budgets[k]
	if !ok {
		if len(h.budgets) >= maxSeries {
			h.full = true
			return
		}
		s = new(budgetSeries)
		if !h.isNewLocked() {
			s.last.granted, s.last.denied = b.Granted, b.Denied
		}
		h.budgets[k] = s
	}
	s.seen = h.n
	s.points[h.n%samples] = budgetPoint{float32(b.Balance), small(b.Granted - s.last.granted), small(b.Denied - s.last.denied)}
	s.last.granted, s.last.denied = b.Granted, b.Denied
}

// isNewLocked reports whether a budget that has no history is one that the sample before did
// not have, so that all it has answered is new.
func (h *history) isNewLocked() bool { return h.n > 0 && !h.full }

// small fits a count into a point. One below zero is of counters that began anew.
func small(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }

// look takes the counters as they are now, and calls f while the history fits them.
func (h *history) look(f func(s *interceptor.State)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.it.Counters()
	f(&s)
}

// windowLocked returns since when rates are taken, and how many samples are in it.
func (h *history) windowLocked() (since time.Time, n int) {
	n = min(h.n, recently)
	return h.times[(h.n-n)%samples], n
}

// openLocked returns what has happened since the last sample.
func (h *history) openLocked(s *series, m *interceptor.MethodState) totals {
	now := totalsOf(m)
	switch {
	case s != nil && s.since.Equal(m.Since):
		now.add(&s.last, -1)
	case !m.Since.After(h.timeLocked()):
		return totals{} // its history is not kept
	}
	return now
}

// recentLocked returns what has happened in the window.
func (h *history) recentLocked(k key, m *interceptor.MethodState) totals {
	s := h.methods[k]
	sum := h.openLocked(s, m)
	if s == nil {
		return sum
	}
	_, n := h.windowLocked()
	for i := h.n - n + 1; i <= h.n; i++ {
		p, d := &s.points[i%samples], &s.details[i%recently]
		sum.calls += int64(p.calls)
		sum.failed += int64(p.failed)
		sum.attempts += int64(d.attempts)
		sum.retries += int64(p.retries)
		sum.hedges += int64(p.hedges)
		sum.denied += int64(p.denied)
		for r := range reasons {
			sum.ends[r] += int64(d.ends[r])
			sum.denials[r] += int64(d.denials[r])
		}
	}
	return sum
}
