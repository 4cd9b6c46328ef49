package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/policy"
)

// explain is the command of that name.
type explain struct {
	*streams
	input
}

func newExplainCommand(s *streams) *cobra.Command {
	x := &explain{streams: s, input: input{streams: s}}
	cmd := &cobra.Command{
		Use:   "explain [flags] FILE /pkg.Service/Method",
		Short: "Tell what a file means for a method",
		Long: `Explain prints the policy of a method, where each field of it is from, when attempts begin,
and what a call can come to.

` + exitCodes,
		Args: arguments(cobra.ExactArgs(2)),
		RunE: func(_ *cobra.Command, args []string) error { return x.run(args[0], args[1]) },
	}
	x.flags(cmd)
	return cmd
}

func (x *explain) run(path, method string) error {
	d, err := x.read(path)
	if err != nil {
		return x.tell(path, err)
	}
	x.list(path, severityWarning, d.left)
	table, err := d.set.Compile()
	if err != nil {
		return x.tell(path, err)
	}
	e := explanation{set: d.set, method: method, effective: policy.Default()}
	if err := e.cover(table); err != nil {
		return err
	}
	if p := table.Lookup(method); p != nil {
		e.effective = *p
	}
	return x.out.table(slices.Concat(e.head(), e.fields(), e.leadsTo()))
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

func (e *explanation) head() [][]string {
	from := "no rule covers it: it has the policy of its proto file if that has one, and else the default, which is shown"
	if e.rule >= 0 {
		from = fmt.Sprintf("covered by rules[%d], as %q", e.rule, e.selector)
	}
	return [][]string{{e.method}, {from}, {}}
}

// fields is a table of the fields with their values and where these are from.
func (e *explanation) fields() [][]string {
	rows := [][]string{{"field", "value", "from"}}
	for _, f := range e.written.Fields() {
		from := "default"
		if f.Written {
			from = fmt.Sprintf("rules[%d]", e.rule)
		}
		rows = append(rows, []string{f.Name, f.Value, from})
	}
	if e.set.RetriesOff {
		rows = append(rows, []string{"retries_off", "true", "the set, for every call"})
	}
	if e.set.HedgesOff {
		rows = append(rows, []string{"hedges_off", "true", "the set, for every call"})
	}
	return append(rows, nil)
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
func (e *explanation) leadsTo() [][]string {
	of := e.inForce().Explain(e.set.Budget(e.effective.Budget))
	rows := [][]string{{"attempts"}}
	if n := e.effective.Retry.MaxAttempts; n > interceptor.DefaultMaxAttempts && of.Attempts > 1 {
		rows = append(rows, []string{fmt.Sprintf("  a client makes %d at most, and not %d, unless its code says otherwise (WithMaxAttempts)", interceptor.DefaultMaxAttempts, n)})
	}
	if of.Hedging != "" {
		rows = append(rows, []string{"  " + of.Hedging})
	}
	for _, step := range of.Steps {
		rows = append(rows, []string{fmt.Sprintf("  %d", step.Number), step.Begins})
	}
	if of.Overloaded != nil {
		rows = append(rows, []string{"  if the server is overloaded (RESOURCE_EXHAUSTED)"})
	}
	for _, step := range of.Overloaded {
		rows = append(rows, []string{fmt.Sprintf("  %d", step.Number), step.Begins})
	}
	if of.Waits != "" {
		rows = append(rows, []string{"  " + of.Waits})
	}
	return append(rows,
		nil,
		[]string{"worst case"},
		[]string{"  attempts", fmt.Sprintf("%d per call", of.Attempts)},
		[]string{"  time", of.Time},
		[]string{"  load", of.Load},
	)
}
