package interceptor

import (
	"cmp"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/hedge"
	"github.com/rego-go/rego/internal/pace"
	"github.com/rego-go/rego/internal/reply"
	"github.com/rego-go/rego/internal/tally"
	"github.com/rego-go/rego/internal/waitqueue"
	"github.com/rego-go/rego/policy"
)

// plan is a policy made ready for the calls of one method to one target.
type plan struct {
	policy  *policy.Policy
	version string
	open    bool // no rule says it: the channel's service config may know better
	named   bool // it is for this method, and not for all or those of a service
	rules
	classifier  classify.Classifier
	looksAtOK   bool // the classifier may see more in OK than success
	idempotency classify.Idempotency
	budget      budget.Budget    // of retries
	asksHedging bool             // the policy does, and allows more than one attempt
	hedging     *hedging         // nil if it does not, or hedging is switched off
	hedges      budget.Budget    // of hedges, and that originals are counted in
	queue       *waitqueue.Queue // of hedges that these have denied; nil without hedging
	method      *method
	simple      bool // see isSimple
}

// newPlanLocked resolves the names in p, which have been checked where p was
// accepted.
func (t *target) newPlanLocked(p *policy.Policy, version string, table *policy.Table, m *method) *plan {
	it := t.interceptor
	pl := &plan{
		policy:  p,
		version: version,
		rules: rules{
			maxAttempts:    min(p.Retry.MaxAttempts, it.maxAttempts),
			retriesOff:     p.Retry.Off || table.RetriesOff(),
			asGRPC:         p.AsGRPC,
			attemptTimeout: p.AttemptTimeout,
			backoff:        p.Retry.Backoff,
			reconnect:      p.Retry.Reconnect,
		},
		classifier:  classify.GRPC,
		idempotency: p.Idempotency,
		budget:      t.budget,
		method:      m,
	}
	if pl.idempotency == classify.IdempotencyUnknown {
		pl.idempotency = m.idempotency
	}
	if p.Budget != "" {
		pl.budget = t.namedBudgetLocked(p.Budget, table)
	}
	if len(p.Retry.Codes) > 0 {
		pl.classifier = classify.Codes(p.Retry.Codes...)
	}
	if cl := it.classifiers[p.Classifier]; cl != nil {
		pl.classifier, pl.looksAtOK = cl, true
	}
	if p.Classifier == policy.ClassifierNone {
		pl.classifier = classify.Codes()
	}
	pl.hedges = pl.budget
	pl.asksHedging = p.Hedge.Asked() && pl.maxAttempts > 1
	if pl.asksHedging && !p.Hedge.Off && !table.HedgesOff() {
		if pl.hedging = m.hedgingLocked(it, p.Hedge); pl.hedging.own != nil {
			pl.hedges = budget.All(pl.hedging.own, pl.budget)
		}
		pl.queue = pl.hedging.queueLocked(p.Budget)
	}
	return pl
}

// budgetOf returns what grants attempts of a kind.
func (p *plan) budgetOf(k budget.Kind) budget.Budget {
	if k == budget.Hedge {
		return p.hedges
	}
	return p.budget
}

// namedBudgetLocked returns the budget that a policy names: in code or, for this
// target alone, in the set. One of a set keeps its state while its definition stays.
func (t *target) namedBudgetLocked(name string, table *policy.Table) budget.Budget {
	if b, ok := t.interceptor.budgets[name]; ok {
		return b
	}
	definition, _ := table.Budget(name)
	if have, ok := t.named[name]; ok && have.definition.Equal(definition) {
		return have.Budget
	}
	b, err := definition.New()
	if err != nil { // it was valid when the set was taken
		return t.budget
	}
	t.named[name] = named{b, definition, time.Now()}
	return b
}

// named is a budget that a set defines.
type named struct {
	budget.Budget
	definition policy.NamedBudget
	since      time.Time // it was made
}

// target is what the calls to one target share: a budget, and the plans of its
// methods, made when a method is first called and again when the store has
// another table. It lives as long as a connection to it does.
type target struct {
	interceptor *Interceptor
	name        string
	since       time.Time   // it was met
	conns       int         // that use it. Guarded by the interceptor's mu
	gone        atomic.Bool // none does any more
	// grpc's own retries are off in a connection of it, so that its service config counts here.
	insteadOfGRPC atomic.Bool

	ready atomic.Pointer[plans]    // what calls read
	own   atomic.Pointer[ownPlans] // and those that bring their own policies

	mu       sync.Mutex    // guards making plans; nothing foreign is called while it is held
	budget   budget.Budget // until the one that was asked for is made, the default
	before   asked         // of budget, when it was taken into use
	pending  *plans        // ready and what was made since
	detours  int           // lookups that ready could not answer since it was stored
	learned  map[string]*method
	named    map[string]named         // budgets of the set, once a method is called whose policy names them
	brought  map[string]budget.Budget // that policies of calls have named
	channels map[channelKey]*plan     // of the retryPolicy of a service config
	fallback policy.Policy
}

// plans is immutable once it is ready, but for recent.
type plans struct {
	table    uint64 // its ID: a target that nobody calls any more must not keep a table
	byMethod map[string]*plan
	recent   [64]atomic.Pointer[plan] // some of these, to be found without hashing the whole name
}

// of returns the plan of a method, nil if there is none. Names of one place among the recent
// differ in their length or their end; the first that was called has it.
func (r *plans) of(method string) *plan {
	n := len(method)
	if n < 4 {
		return r.byMethod[method]
	}
	at := &r.recent[(uint(n)*7+uint(method[n-1])*31+uint(method[n-2])*17+uint(method[n-4]))%uint(len(r.recent))]
	p := at.Load()
	if p != nil && p.method.name == method {
		return p
	}
	found := r.byMethod[method]
	if p == nil && found != nil {
		at.Store(found)
	}
	return found
}

// method is what is known of a method whatever its policy.
type method struct {
	name        string
	since       time.Time    // it was first called
	replay      atomic.Int64 // bytes that its streams hold to send messages again
	counts      tally.Counter
	sampler     sampler
	registered  atomic.Bool // its name is the program's own. Decided by the first call
	decided     atomic.Bool
	idempotency classify.Idempotency
	annotated   *policy.Policy // in the proto file; nil if there is none
	pace        pace.Pace
	hidesEnds   atomic.Bool // grpc does not say when its streams end: an interceptor below keeps that to itself
	clocked     atomic.Bool // its calls are timed, since a service config may bound them
	hasTimeout  atomic.Bool // one does or did, of any connection

	// Guarded by the target's mu; nil until a policy asks for hedging.
	latency  *hedge.Tracker
	hedgings map[policy.Hedge]*hedging
	inForce  *hedging          // the last that the policy of the method asked for
	bounded  time.Time         // since when there is a MaxExtraLoad
	load     *budget.ExtraLoad // the last that keeps one
	brought  *budget.ExtraLoad // the last that the policy of a call asked for

	replies       reply.Kinds
	notHedgedTold atomic.Bool
}

// maxMethods bounds what is kept of methods, for clients that make up names. Those
// beyond it share what is known of them.
const maxMethods = 16384

// otherMethods is the name that they share; no method has it.
const otherMethods = ""

func newTarget(it *Interceptor, name string) *target {
	t := &target{
		interceptor: it,
		name:        name,
		since:       time.Now(),
		learned:     make(map[string]*method),
		named:       make(map[string]named),
		brought:     make(map[string]budget.Budget),
		fallback:    policy.Default(),
		budget:      budget.Default(),
		pending:     new(plans),
	}
	t.ready.Store(&plans{})
	t.own.Store(new(ownPlans))
	return t
}

// setBudget gives the target the budget that its maker has made. Plans are made anew.
func (t *target) setBudget(b budget.Budget) {
	before := askedOf(b)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.budget, t.before = b, before
	t.pending = new(plans)
	t.ready.Store(new(plans))
	t.own.Store(new(ownPlans))
}

// plan returns the plan of a method under the table in force.
func (t *target) plan(method string) *plan {
	table := t.interceptor.store.Current()
	if r := t.ready.Load(); r.table == table.ID() {
		if p := r.of(method); p != nil {
			return p
		}
	}
	return t.makePlan(method)
}

// tableLocked returns the table in force. If it is another one than before, all plans are
// dropped. It is asked for with mu held, so that an older one never follows.
func (t *target) tableLocked() *policy.Table {
	table := t.interceptor.store.Current()
	if t.pending.table == table.ID() && t.pending.byMethod != nil {
		return table
	}
	t.pending = &plans{table: table.ID(), byMethod: make(map[string]*plan)}
	t.detours = 0
	t.channels = make(map[channelKey]*plan)
	t.own.Store(&ownPlans{table: table.ID()})
	maps.DeleteFunc(t.named, func(name string, _ named) bool {
		_, ok := table.Budget(name)
		return !ok
	})
	return table
}

func (t *target) makePlan(name string) *plan {
	m := t.method(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	table := t.tableLocked()
	f := t.find(table, name, m)
	isNamed := f.names(name, t.interceptor.code)
	p, ok := t.pending.byMethod[m.name]
	if !ok || m.name == otherMethods && (p.policy != f.policy || p.named != isNamed) {
		p = t.newPlanLocked(f.policy, f.table.Version(), table, m)
		p.open = f.source >= FromServiceConfig
		p.named = isNamed
		p.simple = p.isSimple()
		t.pending.byMethod[m.name] = p
		m.inForce = cmp.Or(p.hedging, m.inForce)
	}
	// Copying is worth it once as many lookups took the detour as there are
	// plans to copy.
	if t.detours++; t.detours >= len(t.pending.byMethod) && m.name != otherMethods {
		t.ready.Store(&plans{table: table.ID(), byMethod: maps.Clone(t.pending.byMethod)})
		t.detours = 0
	}
	return p
}

// isRegistered reports whether a method is in a proto file that the program has.
func isRegistered(name string) bool {
	s, method := serviceOf(name)
	return s != nil && s.Methods().ByName(method) != nil
}

// serviceOf returns the service of "/pkg.Service/Method", nil if no proto file of the program
// has it.
func serviceOf(name string) (s protoreflect.ServiceDescriptor, method protoreflect.Name) {
	name, isPath := strings.CutPrefix(name, "/")
	service, rest, _ := strings.Cut(name, "/")
	if d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service)); err == nil && isPath {
		s, _ = d.(protoreflect.ServiceDescriptor)
	}
	return s, protoreflect.Name(rest)
}

// method returns what is known of a method.
func (t *target) method(name string) *method {
	t.mu.Lock()
	m, ok := t.learned[name]
	full := len(t.learned) >= maxMethods
	if !ok && full && !isRegistered(name) { // those of proto files are not made up
		m, ok = t.learned[otherMethods]
		name = otherMethods
	}
	t.mu.Unlock()
	if ok {
		return m
	}
	m = t.interceptor.newMethod(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	if have, ok := t.learned[name]; ok {
		return have
	}
	t.learned[name] = m
	return m
}

func (it *Interceptor) newMethod(name string) *method {
	m := &method{name: name, since: time.Now(), counts: tally.New()}
	m.clocked.Store(true)
	m.registered.Store(isRegistered(name))
	m.idempotency, _ = classify.DeclaredIdempotency(name)
	m.annotated = it.annotated(name)
	return m
}

// decideName says whether the name is the program's own: a proto file has it, or the first
// call of it is a generated stub's. It stays so, or counts would move from one name to
// another.
func (m *method) decideName(isStub bool) {
	if !m.decided.Load() && !m.decided.Swap(true) && isStub && m.name != otherMethods {
		m.registered.Store(true)
	}
}

// annotated returns the policy in the method's proto file. One that is not valid, or
// names what is not here, is logged and not used.
func (it *Interceptor) annotated(method string) *policy.Policy {
	p, found, err := policy.FromDescriptor(method)
	if !found {
		return nil
	}
	if faults := it.unresolved("", &p, noTable); err == nil && len(faults) > 0 {
		err = faults
	}
	if err != nil {
		it.log.Error("rego: the policy in the proto file is not used", "method", method, "error", err)
		return nil
	}
	return &p
}

var noTable = new(policy.Store).Current()
