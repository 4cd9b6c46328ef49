package policy

import (
	"fmt"
	"time"
)

// scope is what limits apply to.
type scope struct {
	of             Limits
	methods        string // that they are for; empty if for all
	rules, budgets []int  // of the set
}

func (s scope) check(t *Table, f *faults) {
	for _, i := range s.rules {
		r := t.set.Rules[i]
		in := f.below(fmt.Sprintf("rules[%d].policy.", i))
		in.policy = r.Policy.Name
		s.checkWritten(r.Policy, in)
		s.checkPolicy(r.Policy.withDefaults(), in)
	}
	s.checkBudgets(t.set.Budgets, f)
}

// checkWritten looks for fields that are forbidden.
func (s scope) checkWritten(p Policy, f *faults) {
	if len(s.of.Forbidden) == 0 {
		return
	}
	m := p.proto().ProtoReflect()
	for _, name := range s.of.Forbidden {
		if isField(name) && has(m, name) {
			f.add(name, "must not be set: the limits%s forbid it", s.describe())
		}
	}
}

func (s scope) checkPolicy(p Policy, f *faults) {
	l := s.of
	if n := p.Retry.MaxAttempts; l.MaxAttempts > 0 && n > l.MaxAttempts {
		f.add("retry.max_attempts", "must not exceed the limit %d%s, got %d", l.MaxAttempts, s.describe(), n)
	}
	s.longest("timeout", p.Timeout, l.MaxTimeout, f)
	s.longest("attempt_timeout", p.AttemptTimeout, l.MaxTimeout, f)
	s.longest("retry.reconnect", p.Retry.Reconnect, l.MaxReconnect, f)
	s.shortest("timeout", p.Timeout, l.MinTimeout, f)
	s.shortest("attempt_timeout", p.AttemptTimeout, l.MinAttemptTimeout, f)
	if wait := p.shortestWait(); wait < l.MinBackoff {
		f.add("retry.backoff", "must not have a wait below the limit %v%s, got %v", l.MinBackoff, s.describe(), wait)
	}
	s.checkHedge(p.Hedge, f)
}

func (s scope) longest(field string, d, limit time.Duration, f *faults) {
	if limit > 0 && d > limit {
		f.add(field, "must not exceed the limit %v%s, got %v", limit, s.describe(), d)
	}
}

func (s scope) shortest(field string, d, limit time.Duration, f *faults) {
	if d > 0 && d < limit {
		f.add(field, "must not be below the limit %v%s, got %v", limit, s.describe(), d)
	}
}

// shortestWait is the shortest before a retry of p, before jitter; MaxDuration if there are
// no retries.
func (p Policy) shortestWait() time.Duration {
	if p.Retry.Off {
		return MaxDuration
	}
	shortest, b := MaxDuration, p.Retry.Backoff
	b.Jitter = JitterNone
	for n := range p.Retry.MaxAttempts - 1 {
		shortest = min(shortest, b.Delay(n, nil))
	}
	return shortest
}

func (s scope) checkHedge(h Hedge, f *faults) {
	l := s.of
	switch {
	case l.MaxExtraLoad == 0, h.Off:
	case h.MaxExtraLoad > l.MaxExtraLoad:
		f.add("hedge.max_extra_load", "must not exceed the limit %v%s, got %v", l.MaxExtraLoad, s.describe(), h.MaxExtraLoad)
	case h.Percentile > 0 && h.Percentile < 1-l.MaxExtraLoad-1e-9: // 1 - 0.02 is a little more than 0.98
		f.add("hedge.percentile", "must be at least %v, since the limit of extra load%s is %v, got %v", 1-l.MaxExtraLoad, s.describe(), l.MaxExtraLoad, h.Percentile)
	case h.Trigger != "" && h.MaxExtraLoad == 0:
		f.add("hedge.trigger", "needs max_extra_load beside it, since the limit of extra load%s is %v", s.describe(), l.MaxExtraLoad)
	case h.Delay != 0:
		f.add("hedge.delay", "has no bound on extra load, which the limit %v%s asks for", l.MaxExtraLoad, s.describe())
	}
}

// checkBudgets adds up what budgets allow, and looks at the share of each.
func (s scope) checkBudgets(budgets []NamedBudget, f *faults) {
	share, most := s.of.MaxExtraLoad, s.of.MaxExtraPerSecond
	if share == 0 {
		return
	}
	if most == 0 {
		most = defaultExtraPerSecond
	}
	var sum float64
	for _, i := range s.budgets {
		in := f.below(fmt.Sprintf("budgets[%d].", i))
		switch b := budgets[i]; {
		case b.Ratio != nil:
			if b.Ratio.Ratio > share {
				in.add("ratio.ratio", "must not exceed the limit %v%s, got %v", share, s.describe(), b.Ratio.Ratio)
			}
			sum += b.Ratio.MinPerSecond
		case b.TokenBucket != nil:
			sum += max(b.TokenBucket.PerSecond, b.TokenBucket.Burst, 1)
		case b.Throttle != nil:
			in.add("throttle", "sets no bound to extra load, which the limit %v%s asks for", share, s.describe())
		case b.Concurrency != nil:
			in.add("concurrency", "bounds attempts in flight and not extra load, which the limit %v%s asks for", share, s.describe())
		}
	}
	if sum > most {
		f.add("budgets", "must not allow more than %v extra attempts per second together%s, got %v: the sum of ratio.min_per_second and of token_bucket.per_second, or burst if that is larger", most, s.describe(), sum)
	}
}
