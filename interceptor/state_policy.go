package interceptor

import (
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/hedge"
	"github.com/rego-go/rego/policy"
)

// PolicySource says where a policy can come from.
type PolicySource uint8

// The sources of a policy, the strongest first. The first one that has a policy gives the
// whole policy.
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

// PolicyState is the policy of a method, for calls without a policy of their own.
type PolicyState struct {
	Name    string
	Version string // of the set that it is from
	Sources []SourceState
	Fields  []FieldState
	// Effective is the policy with its defaults, and with what is stronger than it: the
	// switches of the set and WithMaxAttempts. Its Explain takes Budget, the budget that the
	// policy names: nil if that is the default or in code.
	Effective policy.Policy
	Budget    *policy.NamedBudget
}

// SourceState is a source that was asked for the policy of a method.
type SourceState struct {
	Source PolicySource
	// Rule is the rule of the source that covers the method. Selector says how: the method,
	// its service or "*". Rule is -1 if no rule covers it, or if the source has no rules.
	Rule     int
	Selector string
	// Has says that the source has a policy for the method. Used says that this policy is in
	// force. A set is used together with code if it overrides fields of it.
	Has, Used bool
}

// FieldState is a field of a policy in force.
type FieldState struct {
	Name, Value string
	From        string // the source of the value, "default" if no source has it
}

// RulesState says what is known about the rules of a store.
type RulesState struct {
	// NoEffect says what has no effect in the set, because a rule in code is stronger and
	// [WithLimits] does not say otherwise.
	NoEffect policy.Faults
	// Unknown are selectors, in code or in the set, that name a method which its service
	// does not have, by the proto files that are linked in. They may be misspelt.
	Unknown []string
}

// found is a policy, and where it is from.
type found struct {
	policy     *policy.Policy // with its defaults
	written    policy.Policy
	source     PolicySource
	table      *policy.Table // of code or of the set
	overridden []string      // fields of code that are the set's
}

// names reports whether it is for a method alone, and not for all or those of a service.
func (f found) names(method string, code *policy.Table) bool {
	if f.source == FromCode {
		return code.Names(method)
	}
	return f.source == FromProto || f.source == FromSet && f.table.Names(method)
}

// find looks for the policy of a method in the order of the sources, but for those of a call
// and of its channel.
func (t *target) find(table *policy.Table, name string, m *method) found {
	code := t.interceptor.code
	switch {
	case code.Lookup(name) != nil:
		if by := t.interceptor.overridden(table, name); by != nil {
			return found{policy: by.Lookup(name), written: by.Set().Rules[0].Policy, source: FromCode, table: by}
		}
		return found{policy: code.Lookup(name), source: FromCode, table: code}
	case table.Lookup(name) != nil:
		return found{policy: table.Lookup(name), source: FromSet, table: table}
	case m.annotated != nil:
		return found{policy: m.annotated, written: *m.annotated, source: FromProto, table: table}
	}
	return found{policy: &t.fallback, source: FromDefault, table: table}
}

// inForce returns the plan of a method, as calls have it that bring no policy of their own, and
// where its policy is from.
func (t *target) inForce(table *policy.Table, m *method, conns []*grpc.ClientConn) (*plan, found) {
	f := t.find(table, m.name, m)
	if f.source >= FromServiceConfig {
		if p := t.planOfChannel(m, conns); p != nil {
			return p, found{policy: p.policy, written: *p.policy, source: FromServiceConfig, table: noTable}
		}
	}
	return t.plan(m.name), f
}

// policyState says what policy a method has, and what its hedging goes by.
func (t *target) policyState(m *method, conns []*grpc.ClientConn) (PolicyState, *HedgingState) {
	table := t.interceptor.store.Current()
	p, f := t.inForce(table, m, conns)
	s := PolicyState{Name: f.policy.Name, Version: f.table.Version()}
	if f.source == FromCode {
		f.overridden = t.interceptor.overriddenFields(table, m.name)
	}
	for _, of := range []struct {
		source PolicySource
		table  *policy.Table
	}{{FromCode, t.interceptor.code}, {FromSet, table}} {
		rule, selector := of.table.Rule(m.name)
		isIt := of.source == f.source
		if rule >= 0 && isIt && len(f.overridden) == 0 {
			f.written = of.table.Set().Rules[rule].Policy
		}
		used := isIt || of.source == FromSet && len(f.overridden) > 0
		s.Sources = append(s.Sources, SourceState{of.source, rule, selector, rule >= 0, used})
	}
	s.Sources = append(s.Sources,
		SourceState{FromServiceConfig, -1, "", f.source == FromServiceConfig, f.source == FromServiceConfig},
		SourceState{FromProto, -1, "", m.annotated != nil, f.source == FromProto},
		SourceState{FromDefault, -1, "", true, f.source == FromDefault})
	s.Fields = t.fieldsOf(&f, p, m, table)
	s.Effective = *f.policy
	s.Effective.Retry.Off = p.retriesOff
	s.Effective.Hedge.Off = f.policy.Hedge.Off || table.HedgesOff()
	s.Effective.Retry.MaxAttempts = p.maxAttempts
	if b, ok := table.Budget(f.policy.Budget); ok {
		s.Budget = &b
	}
	h := p.hedgingState()
	if h != nil && p.hedging.delay != nil {
		h.addQuantiles(p.hedging.delay)
	}
	return s, h
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
		case slices.Contains(f.overridden, s.Name):
			s.From = "set, over code"
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

// planOfChannel returns the plan of a method whose policy is that of a channel, if one of the
// channels has one.
func (t *target) planOfChannel(m *method, conns []*grpc.ClientConn) *plan {
	for _, cc := range conns {
		if mc := cc.GetMethodConfig(m.name); mc.RetryPolicy != nil {
			return t.channelPlan(m, mc)
		}
	}
	return nil
}

// maxAsked is how many connections to a target are asked for their service configs: it is the
// target's, so they all have the same once they have resolved it.
const maxAsked = 8

// dialled returns the connections of a target that are asked for the policies of methods: those
// that have resolved it first. It is nil if grpc sees to these policies itself. It walks all
// connections of the interceptor, so it is called once for all methods.
func (t *target) dialled() []*grpc.ClientConn {
	if !t.insteadOfGRPC.Load() {
		return nil
	}
	it := t.interceptor
	it.mu.Lock()
	defer it.mu.Unlock()
	var ready, others []*grpc.ClientConn
	for who, at := range it.conns {
		cc := who.Value()
		switch {
		case at != t || cc == nil:
		case cc.GetState() == connectivity.Ready:
			if ready = append(ready, cc); len(ready) == maxAsked {
				return ready
			}
		case len(others) < maxAsked:
			others = append(others, cc)
		}
	}
	return append(ready, others...)
}

// quantiles are those that a state shows.
var quantiles = [...]float64{0.5, 0.9, 0.95, 0.99, 0.999}

// hedgingState says what hedging goes by, but for quantiles; nil without it.
func (p *plan) hedgingState() *HedgingState {
	h := p.hedging
	if h == nil {
		return nil
	}
	s := &HedgingState{State: "trigger", MaxExtraLoad: p.policy.Hedge.MaxExtraLoad, Waiting: p.queue.Len()}
	if h.delay != nil {
		var ready hedge.State
		s.Delay, ready = h.delay.After()
		s.State = ready.String()
	}
	if h.own != nil {
		s.ExtraLoad = h.own.Share()
	}
	return s
}

func (s *HedgingState) addQuantiles(d *hedge.Delay) {
	times, n := d.Latency(quantiles[:]...)
	s.Samples = n
	for i, t := range times {
		s.Quantiles = append(s.Quantiles, Quantile{quantiles[i], t})
	}
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
	s.NoEffect = it.noEffect(table)
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
