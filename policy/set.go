package policy

import (
	"fmt"
	"iter"
	"strings"
)

// Rule gives a policy to methods.
type Rule struct {
	// Methods it covers, each as
	//
	//	/pkg.Service/Method   that method
	//	/pkg.Service/*        every method of that service
	//	*                     every method
	//
	// The more specific one decides. No two rules of a set may name the same.
	Methods []string
	Policy  Policy
}

// Set is one version of all rules.
type Set struct {
	// Version is shown in timelines and spans. It may be empty.
	Version string
	Rules   []Rule
	// RetriesOff and HedgesOff switch retries or hedges off for every call,
	// covered by a rule or not.
	RetriesOff, HedgesOff bool
}

// Table is a valid [Set] made ready for lookup. It never changes, so it may be
// shared by everyone.
type Table struct {
	version  string
	methods  map[string]*Policy // "/pkg.Service/Method"
	services map[string]*Policy // "/pkg.Service/"
	fallback *Policy            // "*", perhaps nil

	retriesOff, hedgesOff bool
}

// Compile validates s and makes it ready for lookup. Its error is a [Faults]
// with everything that is wrong. The table keeps no slice of s, so the caller may
// change s afterwards.
func (s Set) Compile() (*Table, error) {
	t := &Table{
		version:    s.Version,
		methods:    make(map[string]*Policy, len(s.Rules)),
		services:   make(map[string]*Policy),
		retriesOff: s.RetriesOff,
		hedgesOff:  s.HedgesOff,
	}
	f := &faults{list: new(Faults)}
	taken := make(map[string]int, len(s.Rules))
	for i, r := range s.Rules {
		at := f.below(fmt.Sprintf("rules[%d]", i))
		p := r.Policy.withDefaults()
		p.Retry.Codes = append(p.Retry.Codes[:0:0], p.Retry.Codes...)
		r.Policy.validate(at.below(r.Policy.label()))
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
	return t, nil
}

func (p Policy) label() string {
	if p.Name == "" {
		return ".policy."
	}
	return fmt.Sprintf(": policy %q: ", p.Name)
}

func (t *Table) put(selector string, p *Policy) bool {
	if selector == "*" {
		t.fallback = p
		return true
	}
	service, method, ok := split(selector)
	switch {
	case !ok || strings.Contains(service, "*"):
		return false
	case method == "*":
		t.services[service] = p
		return true
	case strings.ContainsAny(method, "*/"):
		return false
	}
	t.methods[selector] = p
	return true
}

// split cuts "/pkg.Service/Method" into "/pkg.Service/" and "Method".
func split(method string) (service, name string, ok bool) {
	i := strings.LastIndexByte(method, '/')
	if i < 2 || method[0] != '/' || i == len(method)-1 || strings.Contains(method[1:i], "/") || strings.ContainsAny(method, " \t\r\n") {
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

// Version returns the version of the set.
func (t *Table) Version() string { return t.version }

// RetriesOff reports the set's switch of that name.
func (t *Table) RetriesOff() bool { return t.retriesOff }

// HedgesOff reports the set's switch of that name.
func (t *Table) HedgesOff() bool { return t.hedgesOff }

// All returns the selectors and policies of the table, in no order. A policy
// that several selectors share is the same pointer.
func (t *Table) All() iter.Seq2[string, *Policy] {
	return func(yield func(string, *Policy) bool) {
		for m, p := range t.methods {
			if !yield(m, p) {
				return
			}
		}
		for s, p := range t.services {
			if !yield(s+"*", p) {
				return
			}
		}
		if t.fallback != nil {
			yield("*", t.fallback)
		}
	}
}
