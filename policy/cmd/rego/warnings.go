package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/nearest"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

// The checks that warn of what is allowed and hardly meant. Their names are part of the
// promise, and docs/policies.md has a row for each.
const (
	checkImport        = "not-imported"
	checkUnknownBudget = "unknown-budget"
	checkUnusedBudget  = "unused-budget"
	checkEmptyBudget   = "empty-budget"
	checkConcurrency   = "concurrency-without-min"
	checkAttempts      = "max-attempts"
	checkWaits         = "wait-without-timeout"
	checkTooLate       = "retry-after-timeout"
	checkTimeout       = "attempt-timeout-without-retry"
	checkHedges        = "hedge-never-starts"
	checkHedgedAway    = "hedges-leave-no-retries"
	checkClassifier    = "unknown-classifier"
	checkMethod        = "unknown-method"
	checkReach         = "unreachable-selector"
	checkIdempotency   = "idempotency-contradicts"
)

// warner looks for what is hardly meant in a set that is valid.
type warner struct {
	set     policy.Set
	table   *policy.Table
	known   *descriptors
	reached map[int][]string // the methods of known that each rule decides
	asked   int              // which budget was meant
	found   []warning
}

type warning struct {
	check string
	policy.Fault
}

// warnings returns what there is to warn of in a document.
func warnings(d document, known *descriptors) ([]finding, error) {
	table, err := d.set.Compile()
	if err != nil {
		return nil, err
	}
	w := &warner{set: d.set, table: table, known: known, reached: make(map[int][]string)}
	for _, m := range sortedKeys(known.methods) {
		i, _ := table.Rule(m)
		w.reached[i] = append(w.reached[i], m)
	}
	w.budgets()
	for i := range d.set.Rules {
		w.rule(i)
	}
	faults := make(policy.Faults, len(w.found))
	for i, f := range w.found {
		faults[i] = f.Fault
	}
	faults = file.Locate(d.data, d.format, faults)
	var list []finding
	for i, f := range faults {
		list = append(list, findingOf(d.path, w.found[i].check, severityWarning, f))
	}
	slices.SortStableFunc(list, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return list, nil
}

func (w *warner) warn(check, path, name, format string, args ...any) {
	w.found = append(w.found, warning{check, policy.Fault{Path: path, Policy: name, Text: fmt.Sprintf(format, args...)}})
}

func (w *warner) budgets() {
	named := make(map[string]bool)
	for _, r := range w.set.Rules {
		named[r.Policy.Budget] = true
	}
	for i, b := range w.set.Budgets {
		at := fmt.Sprintf("budgets[%d]", i)
		switch c, r := b.Concurrency, b.Ratio; {
		case c != nil && c.Min == 0 && c.Share == 0, r != nil && r.Ratio == 0 && r.MinPerSecond == 0:
			w.warn(checkEmptyBudget, at, "", "grants nothing: to switch retries off, say so")
		case c != nil && c.Min == 0:
			w.warn(checkConcurrency, at+".concurrency", "", "has no min: where fewer than %.0f attempts are in flight none may be extra", 1/c.Share)
		}
		if !named[b.Name] {
			w.warn(checkUnusedBudget, at+".name", "", "no rule names %q", b.Name)
		}
	}
}

// rule warns of what is hardly meant in a rule.
func (w *warner) rule(i int) {
	r := w.set.Rules[i]
	p := r.Policy
	warn := func(check, field, format string, args ...any) {
		w.warn(check, fmt.Sprintf("rules[%d].policy.%s", i, field), p.Name, format, args...)
	}
	if _, defined := w.table.Budget(p.Budget); p.Budget != "" && !defined {
		text := "the set does not define %q: every client must have it in its code, or refuses the set"
		if meant := w.meantBudget(p.Budget); meant != "" {
			text += fmt.Sprintf("; did you mean %q?", meant)
		}
		warn(checkUnknownBudget, "budget", text, p.Budget)
	}
	if c := p.Classifier; c != policy.ClassifierNone && strings.EqualFold(c, policy.ClassifierNone) {
		warn(checkClassifier, "classifier", "%q must be in the code of every client: did you mean %q, to which every failure is final?", c, policy.ClassifierNone)
	}
	if n := p.Retry.MaxAttempts; n > interceptor.DefaultMaxAttempts {
		warn(checkAttempts, "retry.max_attempts", "clients make %d at most, unless their code says otherwise (interceptor.WithMaxAttempts), got %d", interceptor.DefaultMaxAttempts, n)
	}
	if p.WaitForReady && p.Timeout == 0 && p.AttemptTimeout == 0 {
		warn(checkWaits, "wait_for_ready", "a call without a deadline waits for ever for a server that is gone: set timeout, too")
	}
	w.times(p, warn)
	w.hedges(i, p, warn)
	w.idempotency(i, p, warn)
	w.selectors(i, r)
}

// meantBudget returns which budget of the set is like a name that is none; empty if none is.
func (w *warner) meantBudget(name string) string {
	if w.asked++; w.asked > mostAsked {
		return ""
	}
	return nearest.To(name, func(yield func(string) bool) {
		for _, b := range w.set.Budgets {
			if !yield(b.Name) {
				return
			}
		}
	})
}

// times warns of timeouts that leave nothing to do.
func (w *warner) times(p policy.Policy, warn func(check, field, format string, args ...any)) {
	several := retries(p)
	if several && p.Timeout > 0 && p.Explain(nil).Attempts == 1 {
		warn(checkTooLate, "timeout", "no retry can begin within %v: the waits are longer", p.Timeout)
	}
	expiryIsFinal := len(p.Retry.Codes) > 0 && !slices.Contains(p.Retry.Codes, codes.DeadlineExceeded) ||
		len(p.Retry.Codes) == 0 && p.Classifier == "" && p.Idempotency == classify.NotIdempotent
	hedged := p.Hedge.Asked() && !p.Hedge.Off && p.Retry.MaxAttempts != 1
	if p.AttemptTimeout > 0 && !hedged && (!several || expiryIsFinal) {
		warn(checkTimeout, "attempt_timeout", "ends no attempt of a call that has a deadline, since none may follow: the call's timeout is the field timeout")
	}
}

// hedges warns of hedges that no call has, and of those that leave retries without a budget.
func (w *warner) hedges(i int, p policy.Policy, warn func(check, field, format string, args ...any)) {
	if !p.Hedge.Asked() || p.Hedge.Off {
		return
	}
	switch reached := w.reached[i]; {
	case p.Retry.MaxAttempts == 1:
		warn(checkHedges, "hedge", "no hedge ever starts: retry.max_attempts is 1, and hedges count")
	case p.Idempotency == classify.NotIdempotent:
		warn(checkHedges, "hedge", "no hedge ever starts: the rule says that its methods are not idempotent")
	case p.Idempotency == classify.IdempotencyUnknown && len(reached) > 0 && !slices.ContainsFunc(reached, w.mayBeHedged):
		warn(checkHedges, "hedge", "no hedge ever starts: neither the rule nor a proto file says that %s may be repeated (idempotency)", some(reached))
	default:
		w.hedgedAway(p, warn)
	}
}

// hedgedAway warns of hedges that may take all that successes pay for. How much that is of a
// budget without a share of successes depends on how many calls there are, which no set says.
func (w *warner) hedgedAway(p policy.Policy, warn func(check, field, format string, args ...any)) {
	pays, known := w.ratio(p.Budget)
	if !known || pays.Ratio == 0 || p.Hedge.MaxExtraLoad < pays.Ratio || !retries(p) {
		return
	}
	rest := "nothing for retries"
	if least := pays.MinPerSecond; least > 0 {
		rest = fmt.Sprintf("retries only what min_per_second allows, %.4g a second of each client", least)
	}
	warn(checkHedgedAway, "hedge.max_extra_load", "hedges may take all that successes pay into the budget, %.4g of an attempt each, and leave %s", pays.Ratio, rest)
}

// ratio returns what a budget pays that the set names, or the default one. That of a budget of
// another kind, or of one that only clients have, is not known.
func (w *warner) ratio(name string) (pays budget.RatioConfig, known bool) {
	if name == "" {
		return budget.RatioConfig{Ratio: budget.DefaultRatio, MinPerSecond: budget.DefaultMinPerSecond}, true
	}
	if b, _ := w.table.Budget(name); b.Ratio != nil {
		return *b.Ratio, true
	}
	return budget.RatioConfig{}, false
}

// retries reports whether a policy has retries.
func retries(p policy.Policy) bool {
	return p.Retry.MaxAttempts != 1 && !p.Retry.Off && p.Classifier != policy.ClassifierNone
}

func (w *warner) mayBeHedged(method string) bool { return w.known.idempotency(method).AllowsRetry() }

// idempotency warns where a rule and a proto file disagree. That what has no side effects is
// idempotent is no contradiction.
func (w *warner) idempotency(i int, p policy.Policy, warn func(check, field, format string, args ...any)) {
	if p.Idempotency == classify.IdempotencyUnknown {
		return
	}
	otherwise := make(map[classify.Idempotency][]string)
	for _, m := range w.reached[i] {
		says := w.known.idempotency(m)
		if says != classify.IdempotencyUnknown && says != p.Idempotency && (says != classify.NoSideEffects || p.Idempotency != classify.Idempotent) {
			otherwise[says] = append(otherwise[says], m)
		}
	}
	for _, says := range []classify.Idempotency{classify.Idempotent, classify.NoSideEffects} {
		if methods := otherwise[says]; len(methods) > 0 {
			warn(checkIdempotency, "idempotency", "is %v here, and %v in the proto file of %s", p.Idempotency, says, some(methods))
		}
	}
}

// selectors warns of those that no method has, or that leave it to others.
func (w *warner) selectors(i int, r policy.Rule) {
	if !w.known.given() {
		return
	}
	for j, s := range r.Methods {
		at := fmt.Sprintf("rules[%d].methods[%d]", i, j)
		methods := w.known.matching(s)
		decides := func(method string) bool {
			_, selector := w.table.Rule(method)
			return selector == s
		}
		switch {
		case s == "*": // the descriptors need not have every method
		case len(methods) == 0:
			text := "%q is none of the methods in the descriptors"
			if strings.HasSuffix(s, "*") {
				text = "%q is for none of the methods in the descriptors"
			}
			if meant := w.known.meant(s); meant != "" {
				text += fmt.Sprintf(": did you mean %q?", meant)
			}
			w.warn(checkMethod, at, r.Policy.Name, text, s)
		case !slices.ContainsFunc(methods, decides):
			w.warn(checkReach, at, r.Policy.Name, "%q decides for no method: each method of the service is named by itself", s)
		}
	}
}

// some names methods, and not all if they are many.
func some(methods []string) string {
	const most = 3
	if len(methods) <= most {
		return strings.Join(methods, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(methods[:most], ", "), len(methods)-most)
}
