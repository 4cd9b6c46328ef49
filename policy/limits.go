package policy

import (
	"fmt"
	"time"
)

// Limits are guard rails that no source can lift: a set with a policy that exceeds
// them is refused.
//
//	err := store.Guard(policy.Limits{MaxAttempts: 4, MaxExtraLoad: 0.05}.Check)
//
// Zero fields limit nothing.
type Limits struct {
	// MaxAttempts is the most attempts of a call. A policy that leaves its own zero
	// asks for three.
	MaxAttempts int
	// MaxExtraLoad is the largest share of extra attempts: of Hedge.MaxExtraLoad, of 1
	// less Hedge.Percentile, and of a budget's Ratio. Hedges after a fixed
	// Hedge.Delay have no such bound, and are refused; so are those of a Hedge.Trigger
	// without Hedge.MaxExtraLoad.
	MaxExtraLoad float64
	// MaxTimeout is the longest Timeout and AttemptTimeout. A policy without them
	// leaves it to the caller's deadline, and is within the limit.
	MaxTimeout time.Duration
}

// Check returns a [Faults] with every field of the table's set that exceeds l. It is
// for [Store.Guard].
func (l Limits) Check(t *Table) error {
	f := &faults{list: new(Faults)}
	for i, r := range t.set.Rules {
		in := f.below(fmt.Sprintf("rules[%d].policy.", i))
		in.policy = r.Policy.Name
		l.checkPolicy(r.Policy.withDefaults(), in)
	}
	if l.MaxExtraLoad > 0 {
		for i, b := range t.set.Budgets {
			if b.Ratio != nil && b.Ratio.Ratio > l.MaxExtraLoad {
				f.add(fmt.Sprintf("budgets[%d].ratio.ratio", i), "must not exceed the limit %v, got %v", l.MaxExtraLoad, b.Ratio.Ratio)
			}
		}
	}
	return f.err()
}

func (l Limits) checkPolicy(p Policy, f *faults) {
	if n := p.Retry.MaxAttempts; l.MaxAttempts > 0 && n > l.MaxAttempts {
		f.add("retry.max_attempts", "must not exceed the limit %d, got %d", l.MaxAttempts, n)
	}
	if l.MaxTimeout > 0 && p.Timeout > l.MaxTimeout {
		f.add("timeout", "must not exceed the limit %v, got %v", l.MaxTimeout, p.Timeout)
	}
	if l.MaxTimeout > 0 && p.AttemptTimeout > l.MaxTimeout {
		f.add("attempt_timeout", "must not exceed the limit %v, got %v", l.MaxTimeout, p.AttemptTimeout)
	}
	switch h := p.Hedge; {
	case l.MaxExtraLoad == 0, h.Off:
	case h.MaxExtraLoad > l.MaxExtraLoad:
		f.add("hedge.max_extra_load", "must not exceed the limit %v, got %v", l.MaxExtraLoad, h.MaxExtraLoad)
	case h.Percentile > 0 && h.Percentile < 1-l.MaxExtraLoad-1e-9: // 1 - 0.02 is a little more than 0.98
		f.add("hedge.percentile", "must be at least %v, since the limit of extra load is %v, got %v", 1-l.MaxExtraLoad, l.MaxExtraLoad, h.Percentile)
	case h.Trigger != "" && h.MaxExtraLoad == 0:
		f.add("hedge.trigger", "needs max_extra_load beside it, since the limit of extra load is %v", l.MaxExtraLoad)
	case h.Delay != 0:
		f.add("hedge.delay", "has no bound on extra load, which the limit %v asks for", l.MaxExtraLoad)
	}
}
