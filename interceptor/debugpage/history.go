package debugpage

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/rego-go/rego/interceptor"
)

const (
	interval  = 10 * time.Second
	samples   = 60   // that are kept: ten minutes
	recently  = 6    // samples that rates are taken from: a minute
	maxSeries = 1000 // methods, and as many budgets
	reasons   = 16   // more than there are, of either kind
)

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
	sum     [samples]counts // of all methods, those that are gone or have no place included
	targets map[string]*targetSum
	methods map[key]*series
	others  crowd[key] // the methods that have no place
	budgets map[budgetKey]*budgetSeries

	otherBudgets crowd[budgetKey]
}

// targetSum is what the methods of a target had come to at the last sample.
type targetSum struct {
	since time.Time
	last  counts
}

func newHistory(it *interceptor.Interceptor) *history {
	h := emptyHistory()
	h.it = it
	h.sample()
	return h
}

func emptyHistory() *history {
	return &history{n: -1, targets: make(map[string]*targetSum), methods: make(map[key]*series), budgets: make(map[budgetKey]*budgetSeries)}
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

// newcomer is a method that has no history yet, or has no place for one.
type newcomer struct {
	key
	*interceptor.MethodState
	need int64 // since it was first called
}

// takeLocked takes in the counters of the next sample.
func (h *history) takeLocked(s *interceptor.State) {
	before := h.timeLocked()
	h.n++
	h.times[h.n%samples], h.sum[h.n%samples] = s.Time, counts{}
	targets := make(map[string]*targetSum, len(s.Targets))
	var newcomers []newcomer
	for i := range s.Targets {
		t := &s.Targets[i]
		var sum counts
		for j := range t.Methods {
			k, m := key{t.Name, t.Methods[j].Method}, &t.Methods[j]
			now := totalsOf(m)
			sum.add(now.counts())
			if of := h.methods[k]; of != nil {
				of.take(h.n, m, &now)
			} else {
				newcomers = append(newcomers, newcomer{k, m, now.need()})
			}
		}
		if !before.IsZero() {
			h.sum[h.n%samples].add(h.openSumLocked(t, sum))
		}
		targets[t.Name] = &targetSum{t.Since, sum}
	}
	h.targets = targets
	maps.DeleteFunc(h.methods, func(_ key, of *series) bool { return of.seen != h.n })
	h.placeLocked(newcomers, before)
	h.takeBudgetsLocked(s, before)
}

// openSumLocked returns what the methods of a target have done since the last sample, if they have
// come to sum now.
func (h *history) openSumLocked(t *interceptor.TargetState, sum counts) counts {
	if of := h.targets[t.Name]; of != nil && of.since.Equal(t.Since) {
		sum.sub(of.last)
	}
	return sum
}

// placeLocked gives places to the newcomers that need them most.
func (h *history) placeLocked(newcomers []newcomer, before time.Time) {
	if len(newcomers) == 0 {
		h.others = crowd[key]{}
		return
	}
	var now, next crowd[key]
	for _, c := range newcomers {
		now.add(c.key, c.need)
	}
	claims := make([]claim[key], len(newcomers))
	for i, c := range newcomers {
		claims[i] = claim[key]{c.key, classOf(c.Registered), now.since(&h.others, c.key)}
	}
	holders := make([]claim[key], 0, len(h.methods))
	for k, of := range h.methods {
		holders = append(holders, of.claim(k, h.n))
	}
	out, in := contest(holders, claims, maxSeries-len(h.methods))
	for _, k := range out {
		next.add(k, h.methods[k].last.need())
		delete(h.methods, k)
	}
	placed := make(map[key]bool, len(in))
	for _, k := range in {
		placed[k] = true
	}
	for _, c := range newcomers {
		if placed[c.key] {
			h.methods[c.key] = h.beginLocked(&c, before)
		} else {
			next.add(c.key, c.need)
		}
	}
	h.others = next
}

// beginLocked begins the history of a method. Of one that there was before the last sample it is not
// known what it has done since.
func (h *history) beginLocked(c *newcomer, before time.Time) *series {
	of, now := &series{since: c.Since, busy: h.n}, totalsOf(c.MethodState)
	if before.IsZero() || !c.Since.After(before) {
		of.last, of.from = now, h.n+1
	}
	of.take(h.n, c.MethodState, &now)
	of.busy = h.n
	return of
}

// timeLocked returns when the last sample was taken, zero if none was.
func (h *history) timeLocked() time.Time {
	if h.n < 0 {
		return time.Time{}
	}
	return h.times[h.n%samples]
}

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

// knownLocked returns since when in the window it is known what a method has done, and whether it is
// at all: it has a history, or is newer than the last sample.
func (h *history) knownLocked(s *series, m *interceptor.MethodState) (since time.Time, ok bool) {
	since, n := h.windowLocked()
	switch {
	case s == nil:
		return since, m.Since.After(h.timeLocked())
	case s.from > h.n-n+1:
		return h.times[(s.from-1)%samples], s.from <= h.n
	}
	return since, true
}

// openLocked returns what has happened since the last sample.
func (h *history) openLocked(s *series, m *interceptor.MethodState) totals {
	now := totalsOf(m)
	switch {
	case s == nil && !m.Since.After(h.timeLocked()):
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
	for i := max(h.n-n+1, s.from); i <= h.n; i++ {
		s.addTo(&sum, i)
	}
	return sum
}
