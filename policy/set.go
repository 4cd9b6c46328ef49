package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
)

// Rule gives a policy to methods.
type Rule struct {
	// Methods that the rule covers, each as
	//
	//	/pkg.Service/Method   that method
	//	/pkg.Service/*        every method of that service
	//	*                     every method
	//
	// The most specific one decides. No two rules of a set may name the same.
	Methods []string
	Policy  Policy
}

// MaxRules bounds the rules of a set, and the selectors of all rules together.
const MaxRules = 100_000

// MaxEpoch is the highest epoch of sets. After it, a revision that was too high cannot be
// corrected.
const MaxEpoch = 1_000_000

// Set is one version of all rules.
type Set struct {
	// Version is shown in timelines and spans. It may be empty.
	Version string
	// Epoch lets the revisions start again: a set with a higher epoch replaces a set with a
	// lower one, whatever their revisions are. Use it if a revision was too high by mistake.
	// Zero is the first epoch, and MaxEpoch the last.
	Epoch uint64
	// Revision orders the sets of a source within an epoch. A [Store] refuses a set with a
	// lower revision than the set in force, so that a control-plane replica that lags cannot
	// take clients back. It also refuses the same revision with other content. To roll back,
	// give the old rules a higher revision. Zero means that the source does not count its
	// sets. A source that has counted must go on counting.
	Revision uint64
	Rules    []Rule
	// Budgets are the budgets of the set, in addition to those that the interceptor has in
	// code.
	Budgets []NamedBudget
	// RetriesOff and HedgesOff switch retries or hedges off for every call, whether a rule
	// covers it or not.
	RetriesOff, HedgesOff bool
}

// Table is a valid [Set] made ready for lookup. It never changes, so everyone may share it.
type Table struct {
	id       uint64
	set      Set
	methods  map[string]*Policy // "/pkg.Service/Method"
	services map[string]*Policy // "/pkg.Service/"
	fallback *Policy            // "*", perhaps nil
	budgets  map[string]NamedBudget
	rules    map[string]int // by selector
}

var lastID atomic.Uint64

// Compile validates s and makes it ready for lookup. The error is a [Faults] with everything
// that is wrong. The table shares nothing with s, so the caller may change s afterwards.
func (s Set) Compile() (*Table, error) {
	f := &faults{list: new(Faults)}
	f.name("version", s.Version)
	if s.Epoch > MaxEpoch {
		f.add("epoch", "must be at most %d, got %d", MaxEpoch, s.Epoch)
	}
	if n := s.selectors(); n > MaxRules {
		f.add("rules", "must be at most %d with as many methods, got %d", MaxRules, n)
		return nil, f.err()
	}
	t := &Table{
		set:      s.clone(),
		methods:  make(map[string]*Policy, len(s.Rules)),
		services: make(map[string]*Policy),
	}
	t.budgets = t.set.validateBudgets(f)
	taken := make(map[string]int, len(s.Rules))
	for i, r := range t.set.Rules {
		at := f.at("rules", i)
		p := r.Policy.withDefaults()
		in := at.in(".policy")
		in.policy = r.Policy.Name
		r.Policy.validate(in)
		if len(r.Methods) == 0 {
			at.add(".methods", "must name at least one method")
		}
		for j, m := range r.Methods {
			at := at.at(".methods", j)
			if k, ok := taken[m]; ok {
				at.add("", "%q is already named by rules[%d]", m, k)
				continue
			}
			taken[m] = i
			if !t.put(m, &p) {
				at.add("", "must be /pkg.Service/Method, /pkg.Service/* or *, got %q", m)
			}
		}
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	t.rules = taken
	t.id = lastID.Add(1)
	return t, nil
}

// selectors returns how many rules s has, or methods if those are more.
func (s Set) selectors() int {
	n := 0
	for _, r := range s.Rules {
		n += len(r.Methods)
	}
	return max(n, len(s.Rules), len(s.Budgets))
}

func (s Set) validateBudgets(f *faults) map[string]NamedBudget {
	byName := make(map[string]NamedBudget, len(s.Budgets))
	for i, b := range s.Budgets {
		in := f.below(fmt.Sprintf("budgets[%d].", i))
		b.validate(in)
		if _, ok := byName[b.Name]; ok {
			in.add("name", "%q is already defined", b.Name)
			continue
		}
		byName[b.Name] = b
	}
	return byName
}

// clone returns a copy that shares nothing with s. Empty slices become nil.
func (s Set) clone() Set {
	rules := s.Rules
	s.Rules = slices.Grow([]Rule(nil), len(rules))
	for _, r := range rules {
		r.Methods = append([]string(nil), r.Methods...)
		r.Policy.Retry.Codes = append([]codes.Code(nil), r.Policy.Retry.Codes...)
		s.Rules = append(s.Rules, r)
	}
	budgets := s.Budgets
	s.Budgets = nil
	for _, b := range budgets {
		s.Budgets = append(s.Budgets, b.clone())
	}
	return s
}

func (t *Table) put(selector string, p *Policy) bool {
	if !isSelector(selector) {
		return false
	}
	service, all := strings.CutSuffix(selector, "*")
	switch {
	case selector == "*":
		t.fallback = p
	case all:
		t.services[service] = p
	default:
		t.methods[selector] = p
	}
	return true
}

// isSelector reports whether a rule can name methods so.
func isSelector(selector string) bool {
	service, method, ok := split(selector)
	return selector == "*" || ok && !strings.Contains(service, "*") && (method == "*" || !strings.ContainsAny(method, "*/"))
}

// split cuts "/pkg.Service/Method" into "/pkg.Service/" and "Method".
func split(method string) (service, name string, ok bool) {
	i := strings.LastIndexByte(method, '/')
	if i < 2 || method[0] != '/' || i == len(method)-1 || strings.Contains(method[1:i], "/") || strings.ContainsAny(method, " \t\r\n") || !utf8.ValidString(method) {
		return "", "", false
	}
	return method[:i+1], method[i+1:], true
}

// Lookup returns the policy for a full method name, by its method, its service
// or the rule for every method, and nil if none covers it. The policy has its
// defaults filled in and must not be changed.
func (t *Table) Lookup(method string) *Policy {
	if p, ok := t.methods[method]; ok {
		return p
	}
	if i := strings.LastIndexByte(method, '/'); i >= 0 && len(t.services) > 0 {
		if p, ok := t.services[method[:i+1]]; ok {
			return p
		}
	}
	return t.fallback
}

// Rule returns which rule of the set covers a method, -1 if none does, and its selector: the
// method, its service or "*".
func (t *Table) Rule(method string) (rule int, selector string) {
	for _, selector := range []string{method, method[:strings.LastIndexByte(method, '/')+1] + "*", "*"} {
		if i, ok := t.rules[selector]; ok {
			return i, selector
		}
	}
	return -1, ""
}

// Names reports whether a rule names the method itself, and not only its service or all
// methods.
func (t *Table) Names(method string) bool {
	_, ok := t.methods[method]
	return ok
}

// ID returns a number that no other table of this process has. Keep it, and not the table, to
// know later whether another table is in force: what keeps an old table keeps all of its rules.
// A policy of Lookup keeps nothing but itself.
func (t *Table) ID() uint64 { return t.id }

// Set returns the set that the table was made from. It must not be changed.
func (t *Table) Set() Set { return t.set }

// Version returns the version of the set.
func (t *Table) Version() string { return t.set.Version }

// Budget returns the budget of this name that the set defines, and whether there is one.
func (t *Table) Budget(name string) (NamedBudget, bool) {
	b, ok := t.budgets[name]
	return b, ok
}

// RetriesOff reports the set's RetriesOff.
func (t *Table) RetriesOff() bool { return t.set.RetriesOff }

// HedgesOff reports the set's HedgesOff.
func (t *Table) HedgesOff() bool { return t.set.HedgesOff }
