package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/policy"
)

// explain is the command of that name.
type explain struct {
	*streams
	input
	known  descriptors
	owner  owner
	output format
}

func newExplainCommand(s *streams) *cobra.Command {
	x := &explain{streams: s, input: input{streams: s}}
	cmd := &cobra.Command{
		Use:   "explain [flags] FILE /pkg.Service/Method",
		Short: "Show what a file means for a method",
		Long: `Explain prints the policy of a method, where each field comes from, when attempts begin, and the
worst case of a call. With --descriptors it uses what the method's proto file says: its
idempotency_level, and the options (rego.v1.method) and (rego.v1.service), which count if no
rule covers the method. With --limits it warns of what the limits of a client's owner refuse.

The JSON is an object: method, from (rule, option or default), rule, selector, option, fields,
hedging, steps, overloaded, waits, worst_case and warnings. The texts in it may change.

` + exitCodes,
		Args:              arguments(cobra.ExactArgs(2)),
		ValidArgsFunction: x.complete,
		RunE:              func(_ *cobra.Command, args []string) error { return x.run(args[0], args[1]) },
	}
	x.flags(cmd)
	x.known.flags(cmd)
	x.owner.flags(cmd)
	x.output.flags(cmd)
	return cmd
}

func (x *explain) run(path, method string) error {
	if err := checkMethodName(method); err != nil {
		return err
	}
	if err := once(append([]string{path}, x.known.paths...)...); err != nil {
		return err
	}
	if err := x.known.read(&x.input); err != nil {
		return err
	}
	if err := x.owner.read(x.streams); err != nil {
		return err
	}
	d, err := x.read(path)
	if err != nil {
		return x.refused(path, err)
	}
	x.list(path, severityWarning, d.left)
	table, err := d.set.Compile()
	if err != nil {
		return x.refused(path, err)
	}
	e := explanation{set: d.set, method: method}
	e.cover(table)
	if err := e.describe(&x.known); err != nil {
		return err
	}
	beyond, err := x.owner.exceeded(d)
	if err != nil {
		return err
	}
	for _, f := range beyond {
		e.warnings = append(e.warnings, "clients with these limits refuse the file: "+f.Error())
	}
	for _, w := range e.warnings {
		x.err.line("rego: warning: " + w)
	}
	if x.output == formatJSON {
		return x.out.json(e.json())
	}
	return x.out.table(slices.Concat(e.head(), e.rows(), e.leadsTo()))
}

// complete completes the method, from the descriptors or else from the file.
func (x *explain) complete(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return nil, cobra.ShellCompDirectiveDefault // files
	case 1:
	default:
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var methods []string
	if x.known.given() {
		if x.known.read(&x.input) == nil {
			methods = sortedKeys(x.known.methods)
		}
	} else if d, err := x.read(args[0]); err == nil {
		for _, r := range d.set.Rules {
			methods = append(methods, r.Methods...)
		}
	}
	return slices.DeleteFunc(methods, func(m string) bool {
		return checkMethodName(m) != nil || harmless(m) != m
	}), cobra.ShellCompDirectiveNoFileComp
}

// refused tells the faults of a file as lint does.
func (x *explain) refused(path string, err error) error {
	faults, other := faultsOf(err)
	if other != nil || x.output != formatJSON {
		return x.tell(path, err)
	}
	var found []finding
	for _, f := range faults {
		found = append(found, findingOf(path, checkFault, severityError, f))
	}
	if err := x.out.json(newReport(found)); err != nil {
		return err
	}
	return errFaults
}

func checkMethodName(method string) error {
	service, name, ok := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if method[:min(len(method), 1)] != "/" || !ok || service == "" || name == "" || strings.ContainsAny(name, "/*") {
		return fmt.Errorf("%q is no method, which is /pkg.Service/Method", method)
	}
	return nil
}

// The sources of a policy.
const (
	fromRule    = "rule"
	fromOption  = "option"
	fromDefault = "default"
)

// explanation is what there is to say of a method.
type explanation struct {
	set      policy.Set
	method   string
	from     string // one of the sources
	rule     int    // that covers it, -1 if none does
	selector string // by which
	option   string // of its proto file, if that has the policy
	written  policy.Policy
	declared classify.Idempotency // by its proto file
	isKnown  bool                 // there are descriptors, and it is in them
	warnings []string
}

// cover finds the rule of the method.
func (e *explanation) cover(table *policy.Table) {
	e.from = fromDefault
	if e.rule, e.selector = table.Rule(e.method); e.rule >= 0 {
		e.from, e.written = fromRule, e.set.Rules[e.rule].Policy
	}
}

// describe adds what the descriptors say.
func (e *explanation) describe(known *descriptors) error {
	if !known.given() {
		return nil
	}
	md := known.methods[e.method]
	if md == nil {
		text := fmt.Sprintf("%s is none of the methods in the descriptors", e.method)
		if meant := known.meant(e.method); meant != "" {
			text += fmt.Sprintf(": did you mean %s?", meant)
		}
		e.warnings = append(e.warnings, text)
		return nil
	}
	e.isKnown, e.declared = true, classify.DeclaredIdempotencyOf(md)
	if e.from == fromRule {
		return nil
	}
	p, option, err := policy.FromMethodDescriptor(md)
	switch {
	case option == "":
	case err != nil: // as the interceptor has it
		e.warnings = append(e.warnings, fmt.Sprintf("option (%s) of the proto file is not valid, so the default is in force: %v", option, err))
	default:
		e.from, e.option, e.written = fromOption, string(option), p
	}
	return nil
}

// source names where the fields are from that are written.
func (e *explanation) source() string {
	if e.from == fromOption {
		return fmt.Sprintf("option (%s)", e.option)
	}
	return fmt.Sprintf("rules[%d]", e.rule)
}

func (e *explanation) head() [][]string {
	from := "no rule covers it: it has the policy of its proto file if that has one, and else the default, which is shown"
	switch {
	case e.from == fromRule:
		from = fmt.Sprintf("covered by %s, as %q", e.source(), e.selector)
	case e.from == fromOption:
		from = fmt.Sprintf("no rule covers it: it has the policy of its proto file, %s", e.source())
	case e.isKnown:
		from = "no rule covers it, and its proto file has no policy: it has the default"
	}
	return [][]string{{e.method}, {from}, {}}
}

// field is a field of the policy. Its JSON is part of the promise.
type field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from"`
}

// fields returns all fields with their values and where these are from.
func (e *explanation) fields() []field {
	var list []field
	for _, f := range e.written.Fields() {
		from := fromDefault
		switch {
		case f.Written:
			from = e.source()
		case f.Name == "idempotency" && e.isKnown:
			f.Value, from = e.declared.String(), "idempotency_level of its proto file"
		}
		list = append(list, field{f.Name, f.Value, from})
	}
	if e.set.RetriesOff {
		list = append(list, field{"retries_off", "true", "the set, for every call"})
	}
	if e.set.HedgesOff {
		list = append(list, field{"hedges_off", "true", "the set, for every call"})
	}
	return list
}

// rows is a table of the fields.
func (e *explanation) rows() [][]string {
	rows := [][]string{{"field", "value", "from"}}
	for _, f := range e.fields() {
		rows = append(rows, []string{f.Name, f.Value, f.From})
	}
	return append(rows, nil)
}

// asked is how many attempts the policy asks for.
func (e *explanation) asked() int {
	if n := e.written.Retry.MaxAttempts; n > 0 {
		return n
	}
	return policy.DefaultMaxAttempts
}

// explained is what the policy leads to with what is stronger than it: the switches of the set,
// and the most attempts that a client makes.
func (e *explanation) explained() policy.Explanation {
	p := e.written
	p.Retry.Off = p.Retry.Off || e.set.RetriesOff
	p.Hedge.Off = p.Hedge.Off || e.set.HedgesOff
	p.Retry.MaxAttempts = min(e.asked(), interceptor.DefaultMaxAttempts)
	if e.isKnown && p.Idempotency == classify.IdempotencyUnknown {
		if p.Idempotency = e.declared; p.Idempotency == classify.IdempotencyUnknown {
			p.Idempotency = classify.NotIdempotent // which means the same, and is known here
		}
	}
	return p.Explain(e.set.Budget(p.Budget))
}

// leadsTo says when attempts begin, and what a call can come to.
func (e *explanation) leadsTo() [][]string {
	of := e.explained()
	rows := [][]string{{"attempts"}}
	if n := e.asked(); n > interceptor.DefaultMaxAttempts && of.Attempts > 1 {
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
