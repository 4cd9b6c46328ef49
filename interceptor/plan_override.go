package interceptor

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/rego-go/rego/policy"
)

// A rule in code is stronger than a set, but for the fields that the limits let sets override.

// overrides keeps the policies of rules in code that the table in force overrides.
type overrides struct {
	mu    sync.Mutex // nothing foreign is called while it is held
	table *policy.Table
	made  map[pair]*policy.Table // nil where nothing is overridden
}

// pair is a rule in code and one of a set that meet in a method, and what the set may override
// there.
type pair struct {
	code, set int
	fields    string // separated by spaces, so that pairs compare
}

// meeting returns the rules in code and in a set that cover what a selector does. ok is false
// if one of them has none.
func (c *config) meeting(table *policy.Table, selector string) (p pair, ok bool) {
	p.code, _ = c.code.Rule(selector)
	p.set, _ = table.Rule(selector)
	if p.code < 0 || p.set < 0 {
		return p, false
	}
	p.fields = strings.Join(c.limits.OverridableFor(selector), " ")
	return p, true
}

// overrides returns which fields of a pair's policy in code are the set's: those that it may
// override, and writes.
func (p pair) overrides(table *policy.Table) []string {
	if p.fields == "" {
		return nil
	}
	return table.Set().Rules[p.set].Policy.Writes(strings.Fields(p.fields)...)
}

// override returns the policy in code of a pair, as the set has the last word in it: as the only
// rule of a table, which has the set's version. It is nil if nothing is overridden.
func (c *config) override(table *policy.Table, p pair) (*policy.Table, error) {
	fields := p.overrides(table)
	if len(fields) == 0 {
		return nil, nil //nolint:nilnil // nothing is overridden
	}
	of := c.code.Set().Rules[p.code].Policy.Overridden(table.Set().Rules[p.set].Policy, fields)
	return policy.Set{Version: table.Version(), Rules: []policy.Rule{{Methods: []string{"*"}, Policy: of}}}.Compile()
}

// overridden returns the policy that a method has in code with what the table in force
// overrides of it; nil if that is nothing.
func (it *Interceptor) overridden(table *policy.Table, method string) *policy.Table {
	p, ok := it.meeting(table, method)
	if !ok || p.fields == "" {
		return nil
	}
	o := &it.overrides
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.table != table {
		o.table, o.made = table, make(map[pair]*policy.Table)
	}
	t, ok := o.made[p]
	if !ok {
		t, _ = it.override(table, p) // the store's guard has seen that it is valid
		o.made[p] = t
	}
	return t
}

// overriddenFields returns which fields of the policy that a selector has in code are the set's.
func (c *config) overriddenFields(table *policy.Table, selector string) []string {
	p, ok := c.meeting(table, selector)
	if !ok {
		return nil
	}
	return p.overrides(table)
}

// meetings calls f once for each pair of rules that meet, with a selector for which they do.
func (c *config) meetings(table *policy.Table, f func(p pair, selector string)) {
	seen := make(map[pair]bool)
	look := func(selectors []string) {
		for _, selector := range selectors {
			if p, ok := c.meeting(table, selector); ok && !seen[p] {
				seen[p] = true
				f(p, selector)
			}
		}
	}
	for _, rules := range [][]policy.Rule{c.code.Set().Rules, table.Set().Rules} {
		for _, r := range rules {
			look(r.Methods)
		}
	}
	for _, m := range c.limits.Methods {
		look(m.Methods)
	}
}

// checkOverrides returns what is wrong with rules in code as a set would override them.
func (c *config) checkOverrides(table *policy.Table) error {
	var faults policy.Faults
	c.meetings(table, func(p pair, selector string) {
		t, err := c.override(table, p)
		found, _ := err.(policy.Faults) //nolint:errorlint // it is what Compile returns
		if t != nil {
			found = c.beyond(table, p, t.Set().Rules[0].Policy, selector)
		}
		for _, f := range found {
			f.Path = fmt.Sprintf("rules[%d].policy.%s", p.set, strings.TrimPrefix(f.Path, "rules[0].policy."))
			f.Text += fmt.Sprintf(", with what the rule in code for %q says", selector)
			faults = append(faults, f)
		}
	})
	if len(faults) == 0 {
		return nil
	}
	return faults
}

// beyond returns what of a policy in code exceeds the limits only as a set overrides it. What code
// says by itself is not limited.
func (c *config) beyond(table *policy.Table, p pair, overridden policy.Policy, selector string) (found policy.Faults) {
	before := c.limits.Exceeded(c.code.Set().Rules[p.code].Policy, selector)
	writes := p.overrides(table)
	for _, f := range c.limits.Exceeded(overridden, selector) {
		isSets := slices.ContainsFunc(writes, func(field string) bool { return field == f.Path || strings.HasPrefix(field, f.Path+".") })
		if isSets || !slices.Contains(before, f) {
			found = append(found, f)
		}
	}
	return found
}

// review says what of a set has no effect here, and what may be misspelt.
func (c *config) review(table *policy.Table) policy.Faults {
	return append(c.noEffect(table), misspelt(table)...)
}

// noEffect says what of a set has no effect, since a rule in code is stronger.
func (c *config) noEffect(table *policy.Table) (found policy.Faults) {
	rules := table.Set().Rules
	c.meetings(table, func(p pair, selector string) {
		taken := p.overrides(table)
		without := slices.DeleteFunc(rules[p.set].Policy.Writes(), func(name string) bool {
			return name == "name" || slices.Contains(taken, name)
		})
		if len(without) > 0 {
			found = append(found, policy.Fault{
				Path: fmt.Sprintf("rules[%d]", p.set), Policy: rules[p.set].Policy.Name,
				Text: fmt.Sprintf("%s: no effect on %q, since a rule in code is stronger", strings.Join(without, ", "), selector),
			})
		}
	})
	return found
}

// misspelt says which selectors of a set name a method that its service does not have.
func misspelt(table *policy.Table) (found policy.Faults) {
	for i, r := range table.Set().Rules {
		for j, selector := range r.Methods {
			if isMisspelt(selector) {
				found = append(found, policy.Fault{
					Path: fmt.Sprintf("rules[%d].methods[%d]", i, j),
					Text: fmt.Sprintf("%q may be misspelt: its service has no such method", selector),
				})
			}
		}
	}
	return found
}
