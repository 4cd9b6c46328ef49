package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rego-go/rego/policy/file"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// getCommand is the command of that name.
type getCommand struct {
	remote
	revision  uint64
	candidate bool
	to        string
}

func newGetCommand(s *streams) *cobra.Command {
	g := &getCommand{remote: remote{streams: s}}
	cmd := &cobra.Command{
		Use:   "get [flags]",
		Short: "Write the policies that a server has",
		Long: `Get writes the policies in force at a server to the standard output. They contain their revision
and epoch: so you can edit the file and put it, and the server knows what the change is based on.
With --candidate it writes the set that is tried out, and with --revision an earlier set.

` + exitCodes,
		Args: arguments(cobra.NoArgs),
		RunE: g.runs(func(ctx context.Context, _ []string) error { return g.run(ctx) }),
	}
	g.flags(cmd)
	g.serviceFlag(cmd, ofService)
	f := cmd.Flags()
	f.Uint64Var(&g.revision, "revision", 0, "an earlier `REVISION`; rego log lists them")
	f.BoolVar(&g.candidate, "candidate", false, "the set that is tried out")
	f.StringVar(&g.to, "to", file.YAML.String(), "`FORMAT` to write: yaml, json, binary")
	completes(cmd, "to", formatWords()[:len(formats)]...)
	cmd.MarkFlagsMutuallyExclusive("revision", "candidate")
	return cmd
}

func (g *getCommand) run(ctx context.Context) error {
	to, err := formatOf(g.to, "")
	if err != nil {
		return err
	}
	if to == file.Binary && isTerminal(g.out.w) {
		return errors.New("binary is nothing for a terminal: write it to a file")
	}
	m, err := g.policiesOf(ctx, g.revision)
	if err != nil {
		return err
	}
	wire, of := m.GetSet(), m.GetRevision()
	if g.candidate {
		wire, of = m.GetCandidate(), m.GetRollout().GetCandidate()
	}
	switch {
	case wire == nil && g.candidate:
		return failure{errors.New("no set is tried out")}
	case of == nil:
		return failure{fmt.Errorf("%s: nothing is in force", whose(g.service))}
	}
	set, err := setOf(wire)
	if err != nil {
		return err
	}
	data, _, err := write(set, to)
	if err != nil {
		return failure{err}
	}
	if to == file.YAML {
		for _, line := range g.about(of) {
			g.out.line("# " + line)
		}
	}
	_, err = g.out.w.Write(data)
	return err
}

// about is what the file says of itself.
func (g *getCommand) about(r *regov1.Revision) []string {
	lines := []string{fmt.Sprintf("The policies of %s: %s", whose(g.service), named(r)), "put " + putBy(r)}
	switch {
	case g.candidate:
		lines = append(lines, "It is tried out: it was not in force for all clients when this was written.")
	case g.revision != 0:
		lines = append(lines, "This one was asked for: rego put needs --base if another one is in force.")
	}
	return lines
}
