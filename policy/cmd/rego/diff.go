package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/policy"
)

// diffCommand is the command of that name.
type diffCommand struct {
	remote
	input
	revisions []string
	exitCode  bool
	output    format
}

func newDiffCommand(s *streams) *cobra.Command {
	d := &diffCommand{remote: remote{streams: s}, input: input{streams: s}}
	cmd := &cobra.Command{
		Use:   "diff [flags] [FILE]",
		Short: "Show how two sets of policies differ",
		Long: `Diff shows how two sets differ: field by field for each selector, and budgets by name. The order of
the rules, and which selectors share a rule, make no difference.

  rego diff FILE                        what is in force, and the file
  rego diff --revision 3 FILE           revision 3, and the file
  rego diff --revision 3                revision 3, and what is in force
  rego diff --revision 3 --revision 5   both revisions
  rego diff                             what is in force, and what is tried out

The JSON is an object: from and to name the sets, and differences is a list. Each has a kind
(changed, added, removed), and selector or budget (neither for the fields of the set itself). A
changed one has fields (name, before and after, which are absent for the default). The others have
has (name and value).

` + exitCodes,
		Args: arguments(cobra.MaximumNArgs(1)),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(d.revisions)+len(args) > 2 {
			return errors.New("two sets can be compared: a file and a revision, or two revisions")
		}
		return d.runs(d.run)(cmd, args)
	}
	d.remote.flags(cmd)
	d.input.flags(cmd)
	d.serviceFlag(cmd, ofService)
	f := cmd.Flags()
	f.StringSliceVar(&d.revisions, "revision", nil, "`REVISION` to compare; may be repeated (default: what is in force)")
	f.BoolVar(&d.exitCode, "exit-code", false, "exit with 1 if there are differences")
	d.output.flags(cmd)
	return cmd
}

// namedSet is a set, and what it is called.
type namedSet struct {
	name string
	set  policy.Set
}

func (d *diffCommand) run(ctx context.Context, args []string) error {
	from, to, err := d.sets(ctx, args)
	if err != nil {
		return err
	}
	list := differences(from.set, to.set)
	if d.output == formatJSON {
		err = d.out.json(object{"from": from.name, "to": to.name, "differences": append([]difference{}, list...)})
	} else {
		d.print(from.name, to.name, list)
	}
	if err == nil && d.exitCode && len(list) > 0 {
		return errFaults
	}
	return err
}

func (d *diffCommand) print(from, to string, list []difference) {
	d.out.line("from  " + from)
	d.out.line("to    " + to)
	if len(list) == 0 {
		d.out.line("no difference")
	}
	for _, one := range list {
		d.out.line("  " + one.String())
	}
}

// sets returns the two sets that are to be compared.
func (d *diffCommand) sets(ctx context.Context, args []string) (from, to namedSet, err error) {
	var all []namedSet
	for _, text := range d.revisions {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n == 0 {
			return from, to, fmt.Errorf("--revision must be a number from 1, got %q", text)
		}
		one, err := d.inForce(ctx, n)
		if err != nil {
			return from, to, err
		}
		all = append(all, one)
	}
	if len(args) == 1 {
		file, err := d.read(args[0])
		if err != nil {
			return from, to, d.tell(args[0], err)
		}
		all = append(all, namedSet{args[0], file.set})
	}
	switch len(all) {
	case 2:
		return all[0], all[1], nil
	case 0:
		return d.trial(ctx)
	}
	now, err := d.inForce(ctx, 0)
	if len(args) == 1 {
		return now, all[0], err
	}
	return all[0], now, err
}

// inForce returns what is in force, or a revision of the history.
func (d *diffCommand) inForce(ctx context.Context, revision uint64) (namedSet, error) {
	m, err := d.policiesOf(ctx, revision)
	if revision == 0 && codeOf(err) == codes.NotFound {
		return namedSet{name: "nothing, in force"}, nil
	}
	if err != nil {
		return namedSet{}, err
	}
	set, err := setOf(m.GetSet())
	name := named(m.GetRevision())
	if revision == 0 {
		name += ", in force"
	}
	return namedSet{name, set}, err
}

// trial returns what is in force, and what is tried out.
func (d *diffCommand) trial(ctx context.Context) (from, to namedSet, err error) {
	m, err := d.policies(ctx)
	if err != nil {
		return from, to, err
	}
	if m.GetCandidate() == nil {
		return from, to, errors.New("no set is tried out: a FILE or --revision says what to compare")
	}
	if from.set, err = setOf(m.GetSet()); err != nil {
		return from, to, err
	}
	to.set, err = setOf(m.GetCandidate())
	from.name = named(m.GetRevision()) + ", in force"
	to.name = named(m.GetRollout().GetCandidate()) + ", tried out"
	return from, to, err
}
