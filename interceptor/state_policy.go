package interceptor

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/hedge"
	"github.com/rego-go/rego/policy"
)

// PolicySource says where a policy may come from.
type PolicySource uint8

// The sources of a policy, in the order in which they are asked. The first that has one
// gives the whole of it.
const (
	// FromCall: WithPolicy was given to the call.
	FromCall PolicySource = iota
	// FromCode: WithRules or WithPolicy was given to New.
	FromCode
	// FromSet: the set in the store, from a file or a control plane.
	FromSet
	// FromServiceConfig: the retryPolicy of the channel's service config.
	FromServiceConfig
	// FromProto: the method's proto file.
	FromProto
	// FromDefault: policy.Default.
	FromDefault
)

var policySources = [...]string{"call option", "code", "set", "service config", "proto file", "default"}

func (s PolicySource) String() string { return name(policySources[:], int(s)) }

// MarshalText returns the words of String.
func (s PolicySource) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// PolicyState is the policy of a method, as calls have it that bring none of their own.
type PolicyState struct {
	Name    string
	Version string // of the set that it is from
	Sources []SourceState
	Fields  []FieldState
	// Effective is the policy with its defaults and what is stronger than it: the switches of
	// the set and WithMaxAttempts. Its Explain takes Budget, the one that it names: nil if
	// that is the default or in code.
	Effective policy.Policy
	Budget    *policy.Budget
}

// SourceState is a source that was asked for the policy of a method.
type SourceState struct {
	Source PolicySource
	// Rule is which rule of the source covers the method, and Selector how: the method, its
	// service or "*". Rule is -1 if none does, or if the source has no rules.
	Rule     int
	Selector string
	// Has says that the source has a policy for the method, and Used that it is in force.
	Has, Used bool
}

// FieldState is a field of a policy in force.
type FieldState struct {
	Name, Value string
	From        string // the source that says it, "default" if none does
}

// RulesState is what can be said of the rules of a store.
type RulesState struct {
	// Hidden are the selectors of the set that have no effect, since a rule in code covers all
	// that they do.
	Hidden []string
	// Unknown are selectors, in code or in the set, that name a method which its service does
	// not have, by the proto files that are linked in: they may be misspelt.
	Unknown []string
}

// found is a policy, and where it is from.
type found struct {
	policy  *policy.Policy // with its defaults
	written policy.Policy
	source  PolicySource
	table   *policy.Table // of code or of the set
}

// find looks for the policy of a method in the order of the sources, but for those of a call
// and of its channel.
func (t *target) find(table *policy.Table, name string, m *method) found {
	code := t.interceptor.code
	switch {
	case code.Lookup(name) != nil:
		return found{code.Lookup(name), policy.Policy{}, FromCode, code}
	case table.Lookup(name) != nil:
		return found{table.Lookup(name), policy.Policy{}, FromSet, table}
	case m.annotated != nil:
		return found{m.annotated, *m.annotated, FromProto, table}
	}
	return found{&t.fallback, policy.Policy{}, FromDefault, table}
}

// policyState says what policy a method has, and what its hedging goes by.
func (t *target) policyState(m *method) (PolicyState, *HedgingState) {
	table := t.interceptor.store.Current()
	p := t.plan(m.name)
	f := t.find(table, m.name, m)
	s := PolicyState{Name: f.policy.Name, Version: f.table.Version()}
	var channel *plan
	if f.source >= FromServiceConfig {
		channel = t.planOfChannel(m)
	}
	if channel != nil {
		p, f = channel, found{channel.policy, *channel.policy, FromServiceConfig, noTable}
		s.Name, s.Version = channel.policy.Name, ""
	}
	for _, of := range []struct {
		source PolicySource
		table  *policy.Table
	}{{FromCode, t.interceptor.code}, {FromSet, table}} {
		rule, selector := of.table.Rule(m.name)
		if rule >= 0 && of.source == f.source {
			f.written = of.table.Set().Rules[rule].Policy
		}
		s.Sources = append(s.Sources, SourceState{of.source, rule, selector, rule >= 0, of.source == f.source})
	}
	s.Sources = append(s.Sources,
		SourceState{FromServiceConfig, -1, "", channel != nil, f.source == FromServiceConfig},
		SourceState{FromProto, -1, "", m.annotated != nil, f.source == FromProto},
		SourceState{FromDefault, -1, "", true, f.source == FromDefault})
	s.Fields = t.fieldsOf(&f, p, m, table)
	s.Effective = *f.policy
	s.Effective.Retry.Off = p.retriesOff
	s.Effective.Hedge.Off = f.policy.Hedge.Off || table.HedgesOff()
	s.Effective.Retry.MaxAttempts = p.maxAttempts
	if b, ok := f.table.Budget(f.policy.Budget); ok {
		s.Budget = &b
	}
	return s, p.hedgingState()
}

// fieldsOf says where each field of a policy is from: its source, the default, or what is
// stronger than it.
func (t *target) fieldsOf(f *found, p *plan, m *method, table *policy.Table) []FieldState {
	var list []FieldState
	for _, field := range f.written.Fields() {
		s := FieldState{field.Name, field.Value, FromDefault.String()}
		if field.Written {
			s.From = f.source.String()
		}
		switch {
		case s.Name == "idempotency" && !field.Written:
			s.Value = m.idempotency.String()
			if m.idempotency != classify.IdempotencyUnknown {
				s.From = FromProto.String()
			}
		case s.Name == "retry.max_attempts" && f.policy.Retry.MaxAttempts > p.maxAttempts:
			s.Value, s.From = fmt.Sprint(p.maxAttempts), fmt.Sprintf("WithMaxAttempts, the policy says %s", field.Value)
		case s.Name == "retry.off" && table.RetriesOff(), s.Name == "hedge.off" && table.HedgesOff():
			s.Value, s.From = "true", "switch of the set"
		}
		list = append(list, s)
	}
	return list
}

// planOfChannel returns the plan of a method whose policy is that of a channel, if a channel of
// the target has one.
func (t *target) planOfChannel(m *method) *plan {
	if !t.insteadOfGRPC.Load() {
		return nil
	}
	for _, cc := range t.interceptor.connsOf(t) {
		if mc := cc.GetMethodConfig(m.name); mc.RetryPolicy != nil {
			return t.channelPlan(m, mc)
		}
	}
	return nil
}

// connsOf returns the connections to a target.
func (it *Interceptor) connsOf(t *target) (conns []*grpc.ClientConn) {
	it.mu.Lock()
	defer it.mu.Unlock()
	for who, at := range it.conns {
		if cc := who.Value(); at == t && cc != nil {
			conns = append(conns, cc)
		}
	}
	return conns
}

// quantiles are those that a state shows.
var quantiles = [...]float64{0.5, 0.9, 0.95, 0.99, 0.999}

func (p *plan) hedgingState() *HedgingState {
	h := p.hedging
	if h == nil {
		return nil
	}
	s := &HedgingState{State: "trigger", MaxExtraLoad: p.policy.Hedge.MaxExtraLoad, Waiting: p.queue.length.Load()}
	if h.delay != nil {
		var ready hedge.State
		s.Delay, ready = h.delay.After()
		s.State = ready.String()
		var times = make([]Quantile, 0, len(quantiles))
		at, n := h.delay.Latency(quantiles[:]...)
		for i, d := range at {
			times = append(times, Quantile{quantiles[i], d})
		}
		s.Samples, s.Quantiles = n, times
	}
	if own, ok := h.own.(*budget.ExtraLoad); ok {
		s.ExtraLoad = own.Share()
	}
	return s
}

// budgetStates says what the budgets of a target have.
func (t *target) budgetStates() []BudgetState {
	own, named, ofMethods := t.budgets()
	states := []BudgetState{stateOf("", own)}
	for _, of := range []map[string]budget.Budget{named, ofMethods} {
		for _, name := range slices.Sorted(maps.Keys(of)) {
			states = append(states, stateOf(name, of[name]))
		}
	}
	return states
}

// budgets returns the target's own, those that policies name, and those of max_extra_load by
// method.
func (t *target) budgets() (own budget.Budget, named, ofMethods map[string]budget.Budget) {
	t.mu.Lock()
	defer t.mu.Unlock()
	named, ofMethods = make(map[string]budget.Budget), make(map[string]budget.Budget)
	for _, p := range t.pending.byMethod {
		if name := p.policy.Budget; name != "" {
			named[name] = p.budget
		}
		if p.hedging != nil && p.hedging.own != nil {
			ofMethods[p.method.name] = p.hedging.own
		}
	}
	return t.budget, named, ofMethods
}

// stateOf asks a budget for what it tells of itself. Those of package budget tell all; one that
// panics tells nothing.
func stateOf(name string, b budget.Budget) (s BudgetState) {
	s.Name = name
	defer func() {
		if recover() != nil {
			s = BudgetState{Name: name}
		}
	}()
	if b, ok := b.(interface{ Balance() float64 }); ok {
		s.Balance = b.Balance()
		if s.HasBalance = !math.IsNaN(s.Balance) && !math.IsInf(s.Balance, 0); !s.HasBalance {
			s.Balance = 0
		}
	}
	if b, ok := b.(interface {
		Answers() (granted, denied int64)
	}); ok {
		s.Granted, s.Denied = b.Answers()
	}
	return s
}

// rulesSeen is what was said of a table. Sets may have many rules, and change seldom.
type rulesSeen struct {
	table *policy.Table
	state RulesState
}

// rulesState looks for rules that do not do what whoever wrote them may think.
func (it *Interceptor) rulesState() RulesState {
	table := it.store.Current()
	seen := it.rulesSeen.Load()
	if seen == nil || seen.table != table {
		seen = &rulesSeen{table, it.lookAtRules(table)}
		it.rulesSeen.Store(seen)
	}
	return seen.state
}

func (it *Interceptor) lookAtRules(table *policy.Table) (s RulesState) {
	for _, r := range table.Set().Rules {
		for _, selector := range r.Methods {
			if it.code.Covers(selector) {
				s.Hidden = append(s.Hidden, selector)
			}
		}
	}
	for _, set := range []policy.Set{it.code.Set(), table.Set()} {
		for _, r := range set.Rules {
			for _, selector := range r.Methods {
				if isMisspelt(selector) {
					s.Unknown = append(s.Unknown, selector)
				}
			}
		}
	}
	return s
}

// isMisspelt reports whether a selector names a method that its service does not have.
func isMisspelt(selector string) bool {
	s, method := serviceOf(selector)
	return s != nil && method != "*" && s.Methods().ByName(method) == nil
}
