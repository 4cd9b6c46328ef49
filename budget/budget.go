package budget

import (
	"fmt"
	"math"
)

// Kind says what an attempt is within its call.
type Kind uint8

const (
	// Original is the first attempt of a call.
	Original Kind = iota
	// Retry is sent after an attempt has failed.
	Retry
	// Hedge is sent while another attempt runs.
	Hedge
	// Replacement is a retry that replaces an attempt that has timed out: the server may
	// still be at work for that one. Timelines call it a retry.
	Replacement
)

// String returns the kind in lower case: "original", "retry", "hedge" or
// "replacement".
func (k Kind) String() string {
	switch k {
	case Original:
		return "original"
	case Retry:
		return "retry"
	case Hedge:
		return "hedge"
	case Replacement:
		return "replacement"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Result says how an attempt ended, as far as it matters to budgets.
type Result uint8

const (
	// Unsent: nothing was sent, so what the attempt took is given back.
	Unsent Result = iota
	// Success is an attempt whose outcome is success.
	Success
	// Failure is a failure that retries can repair: a retryable outcome, or an outcome whose
	// retry the server refused by pushback.
	Failure
	// Neutral is anything else: a non-retryable error, a cancelled attempt, a
	// hedge that lost.
	Neutral
)

// String returns the result in lower case: "unsent", "success", "failure" or
// "neutral".
func (r Result) String() string {
	switch r {
	case Unsent:
		return "unsent"
	case Success:
		return "success"
	case Failure:
		return "failure"
	case Neutral:
		return "neutral"
	}
	return fmt.Sprintf("Result(%d)", uint8(r))
}

// A Budget limits extra attempts: retries and hedges. Originals are never denied. They are
// reported so that a budget can count them.
//
// Implementations must be safe for concurrent use and must not block.
type Budget interface {
	// Acquire asks to send one attempt. It returns true for every Original.
	Acquire(Kind) bool
	// Release says how the attempt ended. It is called exactly once for every Acquire that
	// returned true, with the same kind.
	Release(Kind, Result)
}

// A Pauser is a Budget that counts what runs. A retry is granted before its wait, so that no
// call waits for a retry that is then denied. But while the retry waits, it must not count
// as running.
type Pauser interface {
	Budget
	// Pause takes back a granted attempt, for as long as it waits.
	Pause(Kind)
	// Resume grants the attempt again. If it returns false, there is nothing to release.
	Resume(Kind) bool
}

// A Lease is one attempt that a budget has granted. Release it once. The zero Lease holds
// nothing. A Lease belongs to one attempt, and must not be used by several goroutines at a
// time. Do not release copies of the same Lease: otherwise the budget counts one attempt
// twice.
type Lease struct {
	budget Budget
	kind   Kind
	paused bool
}

// Take asks b for one attempt of kind k and reports whether it is granted. A
// nil b grants everything. The lease of a denied attempt holds nothing.
func Take(b Budget, k Kind) (Lease, bool) {
	if b == nil {
		return Lease{}, true
	}
	if !b.Acquire(k) {
		return Lease{}, false
	}
	return Lease{budget: b, kind: k}, true
}

// Release tells the budget how the attempt ended. Only the first call counts.
func (l *Lease) Release(r Result) {
	if l.budget == nil {
		return
	}
	b := l.budget
	l.budget = nil
	if l.paused {
		b = running(b)
	}
	if b != nil {
		b.Release(l.kind, r)
	}
}

// Pause says that the attempt has to wait before it is sent: see [Pauser]. An original is
// never denied, so it does not pause.
func (l *Lease) Pause() {
	if l.budget == nil || l.paused || l.kind == Original { // which is never denied
		return
	}
	if p, ok := l.budget.(Pauser); ok {
		l.paused = true
		p.Pause(l.kind)
	}
}

// Resume says that the wait is over. If it returns false, the attempt is denied after all,
// and the Lease holds nothing.
func (l *Lease) Resume() bool {
	if l.budget == nil || !l.paused {
		return true
	}
	l.paused = false
	if l.budget.(Pauser).Resume(l.kind) {
		return true
	}
	l.budget = nil
	return false
}

// running returns what of a budget holds an attempt while it waits.
func running(b Budget) Budget {
	switch b := b.(type) {
	case all:
		var rest all
		for _, b := range b {
			if b = running(b); b != nil {
				rest = append(rest, b)
			}
		}
		return rest
	case Pauser:
		return nil
	}
	return b
}

// All returns a budget that grants an attempt if all of the given budgets do. They are asked
// in order. If one denies, those before it are released with Unsent, and those after it are
// not asked. So put first the budget that denies most often. Nil budgets are left out. With
// no budget left, everything is granted.
func All(budgets ...Budget) Budget {
	a := make(all, 0, len(budgets))
	for _, b := range budgets {
		if b != nil {
			a = append(a, b)
		}
	}
	return a
}

type all []Budget

func (a all) Acquire(k Kind) bool {
	granted := a.ask(k)
	if granted && k != Original {
		a.answer(true)
	}
	return granted
}

// answer counts a grant with all of them. A denial is counted where it was said.
func (a all) answer(granted bool) bool {
	for _, b := range a {
		if c, ok := b.(counting); ok && granted {
			c.answer(true)
		}
	}
	return granted
}

func (a all) ask(k Kind) (granted bool) {
	n := 0
	defer func() { // also if one of them panics
		if !granted {
			a[:n].Release(k, Unsent)
		}
	}()
	for ; n < len(a); n++ {
		if !ask(a[n], k) {
			return false
		}
	}
	return true
}

func (a all) Release(k Kind, r Result) {
	for _, b := range a {
		b.Release(k, r)
	}
}

func (a all) Pause(k Kind) {
	for _, b := range a {
		if p, ok := b.(Pauser); ok {
			p.Pause(k)
		}
	}
}

func (a all) Resume(k Kind) (granted bool) {
	n := 0
	defer func() {
		if !granted {
			a[:n].Release(k, Unsent)
			running(a[n+1:]).Release(k, Unsent)
		}
	}()
	for ; n < len(a); n++ {
		if p, ok := a[n].(Pauser); ok && !p.Resume(k) {
			return false
		}
	}
	return true
}

// checkRange is written so that NaN, for which every comparison is false, is
// refused too.
func checkRange(field string, v, low, high float64) error {
	if v >= low && v <= high {
		return nil
	}
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return fmt.Errorf("%s: must be a finite number, got %v", field, v)
	}
	return fmt.Errorf("%s: must be between %v and %v, got %v", field, low, high, v)
}
