package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits are set by the owner of a client, and no source can exceed them: a set with a
// policy or a budget beyond them is refused. Zero fields limit nothing.
//
// A client takes them by interceptor.WithLimits. A store that only serves sets takes them by
//
//	err := store.Guard(limits.Check)
//
// With MaxExtraLoad they bound the extra attempts that do not succeed, of the calls to one
// target. With any set that passes, these are at most
//
//	MaxExtraLoad × calls + MaxExtraPerSecond × (seconds + 1)
//
// within the precision that each budget states. The client's own budgets may allow more: a
// policy that names no budget takes from the target's own. Retries that succeed are not
// bounded in this way, because a budget.Ratio gets back what they took; MaxAttempts bounds
// them. A budget that a set defines starts with what one second pays in. So a source that
// sends another set each second gets twice as much: forbid "budgets" to sources that you do
// not trust that far.
type Limits struct {
	// MaxAttempts is the most attempts of a call. A policy without its own value asks for
	// three.
	MaxAttempts int
	// MaxExtraLoad is the largest share of extra attempts: of Hedge.MaxExtraLoad, of 1 minus
	// Hedge.Percentile, and of a budget's Ratio. What has no such share is refused: hedges
	// after a fixed Hedge.Delay, hedges of a Hedge.Trigger without Hedge.MaxExtraLoad, and
	// budgets that are a Throttle or a Concurrency.
	MaxExtraLoad float64
	// MaxExtraPerSecond is how many extra attempts per second the budgets of a set may allow
	// together, for each target and whatever the traffic: the MinPerSecond of a Ratio, and
	// the larger of PerSecond and Burst of a TokenBucket. It may be set only together with
	// MaxExtraLoad. Then zero means 10 (the minRetriesPerSec of Finagle's RetryBudget).
	MaxExtraPerSecond float64
	// MaxTimeout is the longest Timeout and AttemptTimeout. A policy without them
	// leaves it to the caller's deadline, and is within the limit.
	MaxTimeout time.Duration
	// MinTimeout and MinAttemptTimeout are the shortest Timeout and AttemptTimeout. A
	// policy without them is within the limit.
	MinTimeout, MinAttemptTimeout time.Duration
	// MinBackoff is the shortest wait before any retry, before jitter. A policy without its
	// own value asks for 50 ms.
	MinBackoff time.Duration
	// MaxReconnect is the longest Retry.Reconnect. A policy without its own value asks for 5
	// s, or for none with AsGRPC.
	MaxReconnect time.Duration
	// Forbidden are fields that a set must not write, by their names in files:
	// "idempotency", "retry.codes", "budget". "retry" stands for all fields below it. The
	// fields of the set itself are "budgets", "retries_off" and "hedges_off".
	Forbidden []string
	// Overridable are fields of policies in which a set is stronger than a rule in code, if
	// the set writes them. With "retry.off", a set can switch off the retries of a method
	// whose policy is in code. In all other fields a rule in code is stronger.
	Overridable []string
	// Methods are further limits for some methods. All limits that cover a method hold.
	Methods []MethodLimits
}

// MethodLimits are limits for some methods.
type MethodLimits struct {
	// Methods they are for, at least one, as in a [Rule].
	Methods []string
	// Limits of these methods. They have no Methods, and nothing of a set in Forbidden.
	Limits Limits
}

// defaultExtraPerSecond is what MaxExtraPerSecond means beside MaxExtraLoad.
const defaultExtraPerSecond = 10

// Validate reports every fault of l, each with its field path, as one error, or nil. The
// error is a [Faults].
func (l Limits) Validate() error {
	f := &faults{list: new(Faults)}
	l.validate(f, true)
	return f.err()
}

func (l Limits) validate(f *faults, whole bool) {
	if l.MaxAttempts < 0 || l.MaxAttempts > MaxAttempts {
		f.add("max_attempts", "must be between 1 and %d (0 limits nothing), got %d", MaxAttempts, l.MaxAttempts)
	}
	f.share("max_extra_load", l.MaxExtraLoad)
	if v := l.MaxExtraPerSecond; !(v >= 0 && v <= maxExtraPerSecond) { // NaN is neither
		f.add("max_extra_per_second", "must be between 0 and %d, got %v", maxExtraPerSecond, v)
	} else if v > 0 && l.MaxExtraLoad == 0 {
		f.add("max_extra_per_second", "needs max_extra_load beside it: without that, a ratio allows more")
	}
	f.duration("max_timeout", l.MaxTimeout)
	f.duration("min_timeout", l.MinTimeout)
	f.duration("min_attempt_timeout", l.MinAttemptTimeout)
	f.duration("min_backoff", l.MinBackoff)
	f.duration("max_reconnect", l.MaxReconnect)
	if l.MaxTimeout > 0 && max(l.MinTimeout, l.MinAttemptTimeout) > l.MaxTimeout {
		f.add("max_timeout", "must be at least min_timeout and min_attempt_timeout, got %v", l.MaxTimeout)
	}
	for i, name := range l.Forbidden {
		if !isField(name) && !(whole && slices.Contains(setFields, name)) {
			f.at("forbidden", i).add("", "is no field that can be forbidden here: %q", name)
		}
	}
	for i, name := range l.Overridable {
		if !isField(name) {
			f.at("overridable", i).add("", "is no field of a policy: %q", name)
		}
	}
	if len(l.Methods) > 0 && !whole {
		f.add("methods", "must not be given within methods")
		return
	}
	for i, m := range l.Methods {
		at := f.at("methods", i)
		if len(m.Methods) == 0 {
			at.add(".methods", "must name at least one method")
		}
		for j, selector := range m.Methods {
			if !isSelector(selector) {
				at.at(".methods", j).add("", "must be /pkg.Service/Method, /pkg.Service/* or *, got %q", selector)
			}
		}
		m.Limits.validate(at.in(".limits"), false)
	}
}

// maxExtraPerSecond bounds Limits.MaxExtraPerSecond, as budgets bound theirs.
const maxExtraPerSecond = 1_000_000

// OverridableFor returns the fields in which a set is stronger than a rule in code, for all
// methods that a selector covers.
func (l Limits) OverridableFor(selector string) []string {
	fields := l.Overridable
	for _, m := range l.Methods {
		if len(m.Limits.Overridable) > 0 && slices.ContainsFunc(m.Methods, func(wide string) bool { return covers(wide, selector) }) {
			fields = append(slices.Clip(fields), m.Limits.Overridable...)
		}
	}
	return fields
}

// covers reports whether one selector covers all that another does.
func covers(wide, narrow string) bool {
	if wide == "*" || wide == narrow {
		return true
	}
	service, all := strings.CutSuffix(wide, "*")
	return all && strings.HasPrefix(narrow, service)
}

// Check returns a [Faults] with every field of the table's set that exceeds l, and with what
// is wrong with l itself. It is for [Store.Guard].
func (l Limits) Check(t *Table) error {
	f := &faults{list: new(Faults)}
	l.validate(f.in("limits"), true)
	if err := f.err(); err != nil {
		return err
	}
	for _, name := range l.Forbidden {
		if slices.Contains(setFields, name) && t.set.writes(name) {
			f.add(name, "must not be set: the limits forbid it")
		}
	}
	everything := scope{of: l}
	for i := range t.set.Rules {
		everything.rules = append(everything.rules, i)
	}
	for i := range t.set.Budgets {
		everything.budgets = append(everything.budgets, i)
	}
	everything.check(t, f)
	if len(l.Methods) > 0 {
		byService := rulesByService(t)
		for _, m := range l.Methods {
			within(t, byService, m).check(t, f)
		}
	}
	return f.err()
}

// Exceeded returns what exceeds l in a policy for the methods that a selector covers. It
// does not check Forbidden and budgets. It is for the policies of code that a set overrides.
func (l Limits) Exceeded(p Policy, selector string) Faults {
	f := &faults{list: new(Faults)}
	scope{of: l}.checkPolicy(p.withDefaults(), f)
	for _, m := range l.Methods {
		if slices.ContainsFunc(m.Methods, func(wide string) bool { return covers(wide, selector) }) {
			scope{of: m.Limits, methods: strings.Join(m.Methods, ", ")}.checkPolicy(p.withDefaults(), f)
		}
	}
	return *f.list
}

// rulesByService returns which rules name the methods of a service, or the service.
func rulesByService(t *Table) map[string][]int {
	list := make(map[string][]int)
	for selector, i := range t.rules {
		service := selector[:strings.LastIndexByte(selector, '/')+1]
		list[service] = append(list[service], i)
	}
	return list
}

// setFields are those of a set that can be forbidden.
var setFields = []string{"budgets", "retries_off", "hedges_off"}

func (s Set) writes(field string) bool {
	switch field {
	case "budgets":
		return len(s.Budgets) > 0
	case "retries_off":
		return s.RetriesOff
	default:
		return s.HedgesOff
	}
}

// within returns what limits for some methods apply to: the rules that cover one of them, and
// the budgets that these name.
func within(t *Table, byService map[string][]int, m MethodLimits) scope {
	s := scope{of: m.Limits, methods: strings.Join(m.Methods, ", ")}
	taken := make(map[int]bool)
	for _, wide := range m.Methods {
		if i, _ := t.Rule(wide); i >= 0 { // of the methods that no rule names
			taken[i] = true
		}
		service, all := strings.CutSuffix(wide, "*")
		switch {
		case wide == "*":
			for i := range t.set.Rules {
				taken[i] = true
			}
		case all:
			for _, i := range byService[service] {
				taken[i] = true
			}
		}
	}
	named := make(map[string]bool)
	for i, r := range t.set.Rules {
		if taken[i] {
			s.rules = append(s.rules, i)
			named[r.Policy.Budget] = true
		}
	}
	for i, b := range t.set.Budgets {
		if named[b.Name] {
			s.budgets = append(s.budgets, i)
		}
	}
	return s
}

// describe names the methods that limits are for, in the text of a fault.
func (s scope) describe() string {
	if s.methods == "" {
		return ""
	}
	return fmt.Sprintf(" of %s", s.methods)
}
