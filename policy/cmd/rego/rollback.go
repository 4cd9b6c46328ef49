package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// rollbackCommand is the command of that name.
type rollbackCommand struct {
	remote
	to      uint64
	message string
}

func newRollbackCommand(s *streams) *cobra.Command {
	b := &rollbackCommand{remote: remote{streams: s}}
	cmd := &cobra.Command{
		Use:   "rollback [flags]",
		Short: "End a rollout, or put earlier policies in force again",
		Long: `Rollback takes a change back. If a set is tried out, the rollout ends, and all clients go back to what
is in force. If no set is tried out, the set that was in force before is put in force again, or with
--to another set that rego log lists. In both cases the set gets a new revision, because clients
refuse older ones.

` + exitCodes,
		Args: arguments(cobra.NoArgs),
		RunE: b.runs(func(ctx context.Context, _ []string) error { return b.run(ctx) }),
	}
	b.flags(cmd)
	b.serviceFlag(cmd, ofService)
	messageFlag(cmd, &b.message)
	cmd.Flags().Uint64Var(&b.to, "to", 0, "`REVISION` to go back to (default: the one before)")
	return cmd
}

func (b *rollbackCommand) run(ctx context.Context) error {
	m, err := changed(ctx, &b.remote, &regov1.RollBackPoliciesRequest{
		Service: b.service, To: b.to, Message: b.message, ChangeId: newChangeID(),
	}, b.admin.RollBackPolicies)
	if err != nil {
		return err
	}
	if ro := m.GetRollout(); ro != nil {
		b.out.line(fmt.Sprintf("the rollout of %s has been ended", named(ro.GetCandidate())))
	}
	b.out.line(fmt.Sprintf("%s is in force for all %s, with the policies of revision %d", named(m.GetRevision()), clientsOf(b.service), m.GetRevision().GetRestores()))
	return nil
}

// promoteCommand is the command of that name.
type promoteCommand struct {
	remote
	message string
}

func newPromoteCommand(s *streams) *cobra.Command {
	p := &promoteCommand{remote: remote{streams: s}}
	cmd := &cobra.Command{
		Use:   "promote [flags]",
		Short: "Put what is tried out in force for all clients now",
		Long: `Promote ends a rollout and gives the set that is tried out to all clients now, whatever the evidence
is.

` + exitCodes,
		Args: arguments(cobra.NoArgs),
		RunE: p.runs(func(ctx context.Context, _ []string) error { return p.run(ctx) }),
	}
	p.flags(cmd)
	p.serviceFlag(cmd, ofService)
	messageFlag(cmd, &p.message)
	return cmd
}

func (p *promoteCommand) run(ctx context.Context) error {
	m, err := changed(ctx, &p.remote, &regov1.PromoteRolloutRequest{
		Service: p.service, Message: p.message, ChangeId: newChangeID(),
	}, p.admin.PromoteRollout)
	if err != nil {
		return err
	}
	p.out.line(fmt.Sprintf("%s is in force for all %s", named(m.GetRevision()), clientsOf(p.service)))
	return nil
}
