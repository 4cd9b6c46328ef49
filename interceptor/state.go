package interceptor

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/internal/tally"
	"github.com/rego-go/rego/policy"
)

// State says what an interceptor has counted since it was made, and what is in force now.
// Metrics, the debug page and reports are made of it, so their numbers agree. It holds no
// request content, metadata or error texts.
type State struct {
	Time    time.Time
	Targets []TargetState // by name
	// Policies is the status of the store. Rules says what is known about its rules.
	Policies policy.Status
	Rules    RulesState
	// ReplayBytes is the memory that streams hold to send messages again. ReplayLimit is the
	// most that it may be.
	ReplayBytes, ReplayLimit int64
}

// TargetState says what is known about the calls to one target, as long as there is a
// connection to it. Without a connection its counts are gone; if the target comes back, they
// begin at zero.
type TargetState struct {
	Name    string
	Since   time.Time     // when it was first called; later for a target that comes back
	Budgets []BudgetState // by kind and name; also those that only policies of calls have used
	Methods []MethodState // by name
}

// MethodState says what is known about the calls of one method. Counts never go down.
type MethodState struct {
	// Method is the full method name. It is empty for all methods after the first 16,384
	// together.
	Method string
	// Registered says that the name is the program's own, and not one that somebody may have
	// made up: see [Summary].
	Registered bool
	Since      time.Time // when the method was first called

	Calls    []CallCount    // calls that have ended
	Attempts []AttemptCount // attempts that have ended
	Denials  []DenialCount
	// Reconnects is how many attempts have waited for a connection. Unreachable is how long
	// they waited, in all.
	Reconnects  int64
	Unreachable time.Duration
	// Wasted is how long attempts ran for nothing because another one won.
	Wasted time.Duration
	// ReplayBytes is the part of State.ReplayBytes that streams of this method hold.
	ReplayBytes int64

	Policy  PolicyState
	Hedging *HedgingState // nil if Policy asks for no hedging, or it is switched off
	Samples []Sample      // calls worth a look, by kind, the newest first
}

// CallCount says how many calls ended in this way. Code is OtherCode for all codes that gRPC
// does not define.
type CallCount struct {
	Code   codes.Code
	Reason EndReason
	Count  int64
}

// AttemptCount says how many attempts ended in this way. WaitedOn is what they waited for
// before they were sent.
type AttemptCount struct {
	Kind     budget.Kind
	WaitedOn WaitReason
	Result   AttemptResult
	Delivery classify.Delivery
	Code     codes.Code
	Count    int64
}

// DenialCount says how many retries or hedges were denied for a reason.
type DenialCount struct {
	Kind   budget.Kind
	Reason DenialReason
	Count  int64
}

// HedgingState is the state of a method's hedging.
type HedgingState struct {
	// Delay is the delay before a hedge, if State is ready. Otherwise State says why there
	// is no hedge. The delay of a trigger in code is not known.
	Delay time.Duration
	State string
	// Samples is the number of attempts that Quantiles are of: none if the delay is fixed.
	Samples   int64
	Quantiles []Quantile
	// MaxExtraLoad is the share that the policy allows, zero if it bounds nothing. ExtraLoad
	// is the number of hedges as a share of the calls of the last ten seconds.
	MaxExtraLoad, ExtraLoad float64
	Waiting                 int64 // hedges that a budget has denied, and that ask again
}

// Quantile says that a share of attempts, Q, took no longer than Time.
type Quantile struct {
	Q    float64
	Time time.Duration
}

// BudgetKind says what a budget is for.
type BudgetKind uint8

const (
	// BudgetOfTarget is shared by all calls to a target whose policies name no other budget.
	BudgetOfTarget BudgetKind = iota
	// BudgetOfPolicies is a budget that policies name. If a set defines it, there is one for
	// each target. If the interceptor has it in code, it is one for all targets.
	BudgetOfPolicies
	// BudgetOfMethod bounds the MaxExtraLoad of a method.
	BudgetOfMethod
)

var budgetKinds = [...]string{"target", "policy", "method"}

func (k BudgetKind) String() string { return name(budgetKinds[:], int(k)) }

// MarshalText returns the words of String.
func (k BudgetKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// BudgetState says what is known about a budget.
type BudgetState struct {
	Kind BudgetKind
	Name string // in policies, or the method; empty for the target's own
	// Registered says that the name is the program's own, as MethodState.Registered does. It
	// can be false only for a BudgetOfMethod.
	Registered bool
	// Since is when the counts began, at zero. For a budget that policies name it is when
	// the budget was made, or zero if the interceptor has it in code. For the others it is
	// when the target, or the method's MaxExtraLoad, was first used.
	Since time.Time
	// HasBalance says that the budget reports what it has left: Balance.
	HasBalance bool
	Balance    float64
	// Granted and Denied count the answers to requests for an extra attempt. If several
	// targets share a budget, these are the requests of all their calls. The counts of a
	// BudgetOfMethod go on when the policy gets another MaxExtraLoad.
	Granted, Denied int64
}

// State returns what the interceptor has counted, and what is in force. It may be called at
// any time. It costs about ten microseconds for each method, most of them for quantiles.
func (it *Interceptor) State() State {
	return it.state((*target).describe)
}

// Counters returns State without what takes long: it leaves out Policy and Samples of
// methods and the quantiles of Hedging. It costs a few microseconds for each method, and a
// tenth of a microsecond for each connection. Use it to read counts often.
func (it *Interceptor) Counters() State {
	return it.state(func(t *target, m *method, conns []*grpc.ClientConn, s *MethodState) {
		p, _ := t.inForce(it.store.Current(), m, conns)
		s.Hedging = p.hedgingState()
	})
}

// MethodState returns what State says about one method, and whether there is anything.
func (it *Interceptor) MethodState(target, method string) (MethodState, bool) {
	if it == nil || it.targets == nil {
		return MethodState{}, false
	}
	it.mu.Lock()
	t := it.targets[target]
	it.mu.Unlock()
	if t == nil {
		return MethodState{}, false
	}
	t.mu.Lock()
	m := t.learned[method]
	t.mu.Unlock()
	if m == nil {
		return MethodState{}, false
	}
	s := t.counters(m)
	t.describe(m, t.dialled(), &s)
	return s, true
}

// describer adds to what is counted of a method, whose policy may be that of the channels.
type describer func(t *target, m *method, channels []*grpc.ClientConn, s *MethodState)

// state returns the state, of methods with what is counted and what describe says.
func (it *Interceptor) state(describe describer) State {
	s := State{Time: time.Now()}
	if it == nil || it.targets == nil {
		return s
	}
	s.Policies = it.store.Status()
	s.Rules = it.rulesState()
	s.ReplayBytes, s.ReplayLimit = it.replay.Bytes(), it.replay.Limit()
	targets := it.knownTargets()
	slices.SortFunc(targets, func(a, b *target) int { return cmp.Compare(a.name, b.name) })
	for _, t := range targets {
		s.Targets = append(s.Targets, t.state(describe))
	}
	return s
}

func (t *target) state(describe describer) TargetState {
	t.mu.Lock()
	methods := slices.Collect(maps.Values(t.learned))
	t.mu.Unlock()
	slices.SortFunc(methods, func(a, b *method) int { return cmp.Compare(a.name, b.name) })
	s := TargetState{Name: t.name, Since: t.since, Methods: make([]MethodState, len(methods))}
	channels := t.dialled()
	for i, m := range methods {
		s.Methods[i] = t.counters(m)
		describe(t, m, channels, &s.Methods[i])
	}
	s.Budgets = t.budgetStates() // of the plans that were just looked at
	return s
}

// counters returns what is counted of a method.
func (t *target) counters(m *method) MethodState {
	s := MethodState{Method: m.name, Registered: m.registered.Load(), Since: m.since, ReplayBytes: m.replay.Load()}
	s.count(m.counts.Sum())
	return s
}

// describe adds what is not counted.
func (t *target) describe(m *method, channels []*grpc.ClientConn, s *MethodState) {
	s.Samples = t.interceptor.samples.of(m)
	s.Policy, s.Hedging = t.policyState(m, channels)
}

// count takes in what was counted.
func (s *MethodState) count(sum map[tally.Key]int64) {
	calls, attempts := make(map[CallCount]int64), make(map[AttemptCount]int64)
	for k, n := range sum {
		of, a, b, c, d := unpack(k)
		switch of {
		case ofCall:
			calls[CallCount{Code: codes.Code(a), Reason: EndReason(b)}] += n
		case ofAttempt:
			attempts[AttemptCount{Code: codes.Code(a), Kind: budget.Kind(b >> 4), WaitedOn: WaitReason(b & 15), Result: AttemptResult(c), Delivery: classify.Delivery(d)}] += n
		case ofDenial:
			s.Denials = append(s.Denials, DenialCount{budget.Kind(a), DenialReason(b), n})
		case ofReconnect:
			s.Reconnects = n
		case ofUnreachable:
			s.Unreachable = time.Duration(n)
		case ofWaste:
			s.Wasted = time.Duration(n)
		}
	}
	if n := sum[tally.Frequent]; n > 0 {
		calls[plainCall] += n
		attempts[plainAttempt] += n
	}
	for c, n := range calls {
		c.Count = n
		s.Calls = append(s.Calls, c)
	}
	for a, n := range attempts {
		a.Count = n
		s.Attempts = append(s.Attempts, a)
	}
	slices.SortFunc(s.Calls, func(a, b CallCount) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Reason, b.Reason))
	})
	slices.SortFunc(s.Attempts, func(a, b AttemptCount) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.WaitedOn, b.WaitedOn), cmp.Compare(a.Result, b.Result), cmp.Compare(a.Delivery, b.Delivery), cmp.Compare(a.Code, b.Code))
	})
	slices.SortFunc(s.Denials, func(a, b DenialCount) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Reason, b.Reason))
	})
}

// Total returns how many calls, and how many attempts, have ended.
func (s *MethodState) Total() (calls, attempts int64) {
	for _, c := range s.Calls {
		calls += c.Count
	}
	for _, a := range s.Attempts {
		attempts += a.Count
	}
	return calls, attempts
}

// Add adds the counts of another method. Everything else stays as it is.
func (s *MethodState) Add(m *MethodState) {
	s.Calls = sum(s.Calls, m.Calls, func(c *CallCount) *int64 { return &c.Count })
	s.Attempts = sum(s.Attempts, m.Attempts, func(a *AttemptCount) *int64 { return &a.Count })
	s.Denials = sum(s.Denials, m.Denials, func(d *DenialCount) *int64 { return &d.Count })
	s.Reconnects += m.Reconnects
	s.Unreachable += m.Unreachable
	s.Wasted += m.Wasted
	s.ReplayBytes += m.ReplayBytes
}

// sum adds counts to those that are alike but for the count.
func sum[T comparable](to, more []T, count func(*T) *int64) []T {
	to = slices.Clone(to)
	for _, m := range more {
		i := slices.IndexFunc(to, func(t T) bool {
			*count(&t) = *count(&m)
			return t == m
		})
		if i < 0 {
			to = append(to, m)
		} else {
			*count(&to[i]) += *count(&m)
		}
	}
	return to
}
