package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/policy"
)

// explain prints the policy of a method, where each field of it is from, and what it
// leads to.
func (c command) explain() int {
	path, method := c.args[0], c.args[1]
	set, _, err := c.read(path)
	if err != nil {
		return c.tell(path, err)
	}
	table, err := set.Compile()
	if err != nil {
		return c.tell(path, err)
	}
	e := explanation{set: set, method: method, effective: policy.Default()}
	if err := e.cover(table); err != nil {
		fmt.Fprintln(c.stderr, "rego:", err)
		return exitUsage
	}
	if p := table.Lookup(method); p != nil {
		e.effective = *p
	}
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	for _, line := range slices.Concat(e.head(), e.fields(), e.leadsTo()) {
		fmt.Fprintln(w, line)
	}
	if err := w.Flush(); err != nil {
		return c.tell(path, err)
	}
	return exitOK
}

// explanation is what there is to say of a method.
type explanation struct {
	set       policy.Set
	method    string
	rule      int           // that covers it, -1 if none does
	selector  string        // by which
	written   policy.Policy // of the rule, as it was written
	effective policy.Policy // with its defaults
}

// cover finds the rule of the method.
func (e *explanation) cover(table *policy.Table) error {
	i := strings.LastIndexByte(e.method, '/')
	if i < 2 || e.method[0] != '/' || i == len(e.method)-1 {
		return fmt.Errorf("%q is no method, which is /pkg.Service/Method", e.method)
	}
	e.rule, e.selector = table.Rule(e.method)
	if e.rule >= 0 {
		e.written = e.set.Rules[e.rule].Policy
	}
	return nil
}

func (e *explanation) head() []string {
	from := "no rule covers it: it has the policy of its proto file if that has one, and else the default, which is shown"
	if e.rule >= 0 {
		from = fmt.Sprintf("covered by rules[%d], as %q", e.rule, e.selector)
	}
	return []string{e.method, from, ""}
}

// fields is a table of the fields with their values and where these are from.
func (e *explanation) fields() []string {
	rows := []string{"field\tvalue\tfrom"}
	for _, f := range e.written.Fields() {
		from := "default"
		if f.Written {
			from = fmt.Sprintf("rules[%d]", e.rule)
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s", f.Name, f.Value, from))
	}
	if e.set.RetriesOff {
		rows = append(rows, "retries_off\ttrue\tthe set, for every call")
	}
	if e.set.HedgesOff {
		rows = append(rows, "hedges_off\ttrue\tthe set, for every call")
	}
	return append(rows, "")
}

// inForce is the policy with what is stronger than it: the switches of the set, and the most
// attempts that a client makes.
func (e *explanation) inForce() policy.Policy {
	p := e.effective
	p.Retry.Off = p.Retry.Off || e.set.RetriesOff
	p.Hedge.Off = p.Hedge.Off || e.set.HedgesOff
	p.Retry.MaxAttempts = min(p.Retry.MaxAttempts, interceptor.DefaultMaxAttempts)
	return p
}

// leadsTo says when attempts begin, and what a call can come to.
func (e *explanation) leadsTo() []string {
	of := e.inForce().Explain(e.set.Budget(e.effective.Budget))
	lines := []string{"attempts"}
	if n := e.effective.Retry.MaxAttempts; n > interceptor.DefaultMaxAttempts && of.Attempts > 1 {
		lines = append(lines, fmt.Sprintf("  a client makes %d at most, and not %d, unless its code says otherwise (WithMaxAttempts)", interceptor.DefaultMaxAttempts, n))
	}
	if of.Hedging != "" {
		lines = append(lines, "  "+of.Hedging)
	}
	for _, step := range of.Steps {
		lines = append(lines, fmt.Sprintf("  %d\t%s", step.Number, step.Begins))
	}
	if of.Waits != "" {
		lines = append(lines, "  "+of.Waits)
	}
	return append(lines,
		"",
		"worst case",
		fmt.Sprintf("  attempts\t%d per call", of.Attempts),
		"  time\t"+of.Time,
		"  load\t"+of.Load,
	)
}
