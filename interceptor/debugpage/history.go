package debugpage

import (
	"context"
	"maps"
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
	maxSeries = 1000 // methods, and as many budgets
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
	last interceptor.BudgetState

	points [samples]budgetPoint
	seen   int
}

type budgetPoint struct {
	balance         float32
	granted, denied uint32
}

// key names a method of a target, and budgetKey a budget.
type (
	key       struct{ target, name string }
	budgetKey struct {
		key
		kind interceptor.BudgetKind
	}
)

// history is what is kept of an interceptor's past. Sample n is at n modulo samples.
type history struct {
	it *interceptor.Interceptor

	mu      sync.Mutex
	n       int // the last sample, from 0
	times   [samples]time.Time
	sum     [samples]point // of all methods, those that are gone included
	methods map[key]*series
	others  map[key]int64 // calls of methods that have no place
	budgets map[budgetKey]*budgetSeries
}

func newHistory(it *interceptor.Interceptor) *history {
	h := &history{it: it, n: -1, methods: make(map[key]*series), budgets: make(map[budgetKey]*budgetSeries)}
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
	h.takeLocked(&s)
}

// takeLocked takes in the counters of the next sample.
func (h *history) takeLocked(s *interceptor.State) {
	before := h.timeLocked()
	h.n++
	h.times[h.n%samples], h.sum[h.n%samples] = s.Time, point{}
	var newcomers []newcomer
	for i := range s.Targets {
		t := &s.Targets[i]
		for j := range t.Methods {
			k, m := key{t.Name, t.Methods[j].Method}, &t.Methods[j]
			if of := h.methods[k]; of != nil {
				h.addLocked(of, m)
			} else {
				newcomers = append(newcomers, newcomer{k, m})
			}
		}
		for j := range t.Budgets {
			h.sampleBudgetLocked(budgetKey{key{t.Name, t.Budgets[j].Name}, t.Budgets[j].Kind}, &t.Budgets[j], before)
		}
	}
	maps.DeleteFunc(h.methods, func(_ key, of *series) bool { return of.seen != h.n })
	maps.DeleteFunc(h.budgets, func(_ budgetKey, of *budgetSeries) bool { return of.seen != h.n })
	h.placeLocked(newcomers, before)
}

// newcomer is a method that has no history yet.
type newcomer struct {
	key
	*interceptor.MethodState
}

// placeLocked begins histories. If there are as many as may be, it does for those that were
// called since the last sample, in the place of some that have no calls to tell of.
func (h *history) placeLocked(newcomers []newcomer, before time.Time) {
	var idle []key
	if len(h.methods)+len(newcomers) > maxSeries {
		for k, of := range h.methods {
			if h.n-of.busy >= samples {
				idle = append(idle, k)
			}
		}
	}
	others := make(map[key]int64)
	for _, c := range newcomers {
		calls, attempts := c.Total()
		was, known := h.others[c.key]
		if len(h.methods) >= maxSeries {
			if len(idle) == 0 || known && was == calls+attempts {
				others[c.key] = calls + attempts
				continue
			}
			delete(h.methods, idle[0])
			idle = idle[1:]
		}
		of := &series{since: c.Since, busy: h.n}
		if before.IsZero() || !c.Since.After(before) {
			of.last = totalsOf(c.MethodState) // else all of it is new
		}
		h.methods[c.key] = of
		h.addLocked(of, c.MethodState)
	}
	h.others = others
}

// timeLocked returns when the last sample was taken, zero if none was.
func (h *history) timeLocked() time.Time {
	if h.n < 0 {
		return time.Time{}
	}
	return h.times[h.n%samples]
}

// addLocked adds what has become of a method since the last sample.
func (h *history) addLocked(s *series, m *interceptor.MethodState) {
	now := totalsOf(m)
	if !s.since.Equal(m.Since) {
		s.since, s.last = m.Since, totals{}
	}
	d := now
	d.add(&s.last, -1)
	s.last, s.seen = now, h.n
	if d.calls > 0 || d.attempts > 0 {
		s.busy = h.n
	}
	p := d.point()
	s.points[h.n%samples] = p
	h.sum[h.n%samples].add(p)
	of := &s.details[h.n%recently]
	of.attempts = small(d.attempts)
	for i := range reasons {
		of.ends[i], of.denials[i] = small(d.ends[i]), small(d.denials[i])
	}
}

func (p *point) add(o point) {
	p.calls += o.calls
	p.failed += o.failed
	p.retries += o.retries
	p.hedges += o.hedges
	p.denied += o.denied
}

func (h *history) sampleBudgetLocked(k budgetKey, b *interceptor.BudgetState, before time.Time) {
	s, ok := h.budgets[k]
	if !ok {
		if len(h.budgets) >= maxSeries {
			return
		}
		s = &budgetSeries{last: interceptor.BudgetState{Since: b.Since}}
		if before.IsZero() || !b.Since.After(before) {
			s.last = *b // else all that it has answered is new
		}
		h.budgets[k] = s
	}
	granted, denied := s.open(b)
	s.points[h.n%samples] = budgetPoint{float32(b.Balance), small(granted), small(denied)}
	s.last, s.seen = *b, h.n
}

// open returns what a budget has answered since the last sample.
func (s *budgetSeries) open(b *interceptor.BudgetState) (granted, denied int64) {
	if !s.last.Since.Equal(b.Since) {
		return b.Granted, b.Denied
	}
	return b.Granted - s.last.Granted, b.Denied - s.last.Denied
}

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

// keepsLocked reports whether a method has a history, or is newer than the last sample.
func (h *history) keepsLocked(s *series, m *interceptor.MethodState) bool {
	return s != nil || m.Since.After(h.timeLocked())
}

// openLocked returns what has happened since the last sample.
func (h *history) openLocked(s *series, m *interceptor.MethodState) totals {
	now := totalsOf(m)
	switch {
	case !h.keepsLocked(s, m):
		return totals{}
	case s != nil && s.since.Equal(m.Since):
		now.add(&s.last, -1)
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
