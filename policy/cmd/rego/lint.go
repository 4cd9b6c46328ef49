package main

import (
	"slices"

	"github.com/spf13/cobra"
)

// lint is the command of that name.
type lint struct {
	*streams
	input
	known  descriptors
	owner  owner
	output format
	strict bool
}

func newLintCommand(s *streams) *cobra.Command {
	l := &lint{streams: s, input: input{streams: s}}
	cmd := &cobra.Command{
		Use:   "lint [flags] FILE...",
		Short: "Show what is wrong with files",
		Long: `Lint lists every fault of every file. Clients refuse a file with a fault. In a file without faults it
warns of what is allowed but is probably a mistake, such as a budget that the set does not define or
hedges that never start. With --descriptors it knows which methods there are: it warns of selectors
that fit none, and of what a proto file contradicts. With --limits it lists what exceeds the limits of
a client's owner: clients with these limits refuse such a file.

Each line is FILE:LINE:COLUMN: and then what is wrong there, in the form that editors know. The JSON is
an object: findings is a list of path, line, column, severity (error or warning), check, field, policy
and message; errors and warnings count them. docs/policies.md lists the checks.

` + exitCodes,
		Args: arguments(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error { return l.run(args) },
	}
	l.flags(cmd)
	l.known.flags(cmd)
	l.owner.flags(cmd)
	l.output.flags(cmd)
	cmd.Flags().BoolVar(&l.strict, "strict", false, "exit with 1 if there are warnings")
	return cmd
}

func (l *lint) run(paths []string) error {
	if err := once(slices.Concat(paths, l.known.paths)...); err != nil {
		return err
	}
	if err := l.known.read(&l.input); err != nil {
		return err
	}
	if err := l.owner.read(l.streams); err != nil {
		return err
	}
	var all []finding
	for _, path := range paths {
		found, err := l.check(path)
		if err != nil {
			return err
		}
		all = append(all, found...)
	}
	return l.print(all)
}

// check returns what there is to say of a file. The error is that it cannot be read.
func (l *lint) check(path string) (found []finding, err error) {
	d, err := l.read(path)
	faults, err := faultsOf(err)
	if err != nil {
		return nil, err
	}
	for _, f := range d.left {
		found = append(found, findingOf(path, checkImport, severityWarning, f))
	}
	for _, f := range faults {
		found = append(found, findingOf(path, checkFault, severityError, f))
	}
	if len(faults) > 0 {
		return found, nil
	}
	beyond, err := l.owner.exceeded(d)
	if err != nil {
		return nil, err
	}
	for _, f := range beyond {
		found = append(found, findingOf(path, checkLimits, severityError, f))
	}
	more, err := warnings(d, &l.known)
	return append(found, more...), err
}

func (l *lint) print(found []finding) error {
	r := newReport(found)
	if l.output == formatJSON {
		if err := l.out.json(r); err != nil {
			return err
		}
	} else {
		for _, f := range found {
			l.out.line(f.String())
		}
	}
	if r.Errors > 0 || l.strict && r.Warnings > 0 {
		return errFaults
	}
	return nil
}
