package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
	"github.com/rego-go/rego/policy/repository"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// putCommand is the command of that name.
type putCommand struct {
	remote
	input
	trial     trial
	base      uint64
	overwrite bool
	message   string
	dryRun    bool
	wait      bool
	every     time.Duration
}

func newPutCommand(s *streams) *cobra.Command {
	p := &putCommand{remote: remote{streams: s}, input: input{streams: s}}
	cmd := &cobra.Command{
		Use:   "put [flags] FILE",
		Short: "Put policies in force, for all clients or for some first",
		Long: `Put sends a file to a server, which gives the policies to all clients at once or, with --canary,
to a share of them first. If the file has faults, nothing is sent. Warnings do not stop it. Put
prints what changes, as rego diff does.

A change is based on a revision: the one of --base, or else the one in the file, which rego get
writes. If another revision is in force, somebody else has made a change: then nothing is
changed, and the exit code is 1. --overwrite skips this check. It replaces what is in force,
and ends a rollout that is under way.

With --canary 5% a hash of the version and of each client's instance chooses 5 % of the clients.
Their calls are compared with those of the others. The set is taken back as soon as there is
evidence that it does harm. It goes to the next share, and in the end to all clients, when --bake
has passed and enough calls were seen. --wait follows the rollout: the exit code is 0 if all
clients got the set.

` + exitCodes,
		Args: arguments(cobra.ExactArgs(1)),
	}
	p.remote.flags(cmd)
	p.input.flags(cmd)
	p.trial.flags(cmd)
	p.serviceFlag(cmd, ofService)
	messageFlag(cmd, &p.message)
	f := cmd.Flags()
	f.Uint64Var(&p.base, "base", 0, "`REVISION` that the change is based on (default: that in the file)")
	f.BoolVar(&p.overwrite, "overwrite", false, "replace what is in force, whatever it is, and end a rollout that is under way")
	f.BoolVar(&p.dryRun, "dry-run", false, "let the server check the file, and change nothing")
	f.BoolVar(&p.wait, "wait", false, "follow the rollout until it has ended")
	everyFlag(cmd, &p.every, "that pass between two looks of --wait")
	cmd.MarkFlagsMutuallyExclusive("base", "overwrite")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "wait")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		plan, err := p.trial.plan(cmd)
		if err != nil {
			return err
		}
		d, err := p.checked(args[0])
		if err != nil {
			return err
		}
		if !cmd.Flags().Changed("base") {
			p.base = d.set.Revision
		}
		return p.runs(func(ctx context.Context, _ []string) error { return p.run(ctx, d, plan) })(cmd, args)
	}
	return cmd
}

// checked reads the file, and tells what lint says of it.
func (p *putCommand) checked(path string) (document, error) {
	d, err := p.read(path)
	if err != nil {
		return d, p.tell(path, err)
	}
	p.list(path, severityWarning, d.left)
	found, err := warnings(d, new(descriptors))
	for _, f := range found {
		p.err.line(f.String())
	}
	return d, err
}

func (p *putCommand) run(ctx context.Context, d document, plan *regov1.RolloutPlan) error {
	have, err := p.policies(ctx)
	if err != nil {
		return err
	}
	before, err := setOf(have.GetSet())
	if err != nil {
		return err
	}
	p.changes(have, before, d.set)
	request := &regov1.PutPoliciesRequest{
		Service: p.service, Set: d.set.Proto(), Base: p.base, Overwrite: p.overwrite, Message: p.message,
		Rollout: plan, ChangeId: newChangeID(), DryRun: p.dryRun,
	}
	if proto.Size(request.GetSet()) > mostPlain {
		if request.Packed, err = packed(request.GetSet()); err != nil {
			return err
		}
		request.Set = nil
	}
	if p.overwrite {
		request.Base = 0
	}
	if p.dryRun {
		if _, err := asked(ctx, &p.remote, request, p.admin.PutPolicies); err != nil {
			return p.refused(ctx, d, err)
		}
		p.out.line("the server would take it; nothing is changed (--dry-run)")
		return nil
	}
	answer, err := changed(ctx, &p.remote, request, p.admin.PutPolicies)
	if err != nil {
		return p.refused(ctx, d, err)
	}
	return p.done(ctx, request, answer)
}

// mostPlain is how many bytes of a set are sent as they are. A server takes 256 KiB.
const mostPlain = 200 << 10

// packed returns a set compressed.
func packed(s *regov1.Set) ([]byte, error) {
	plain, err := proto.Marshal(s)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(plain) // into memory
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// mostChanges is how many differences are printed before a set is put. rego diff prints all.
const mostChanges = 20

// changes prints what changes.
func (p *putCommand) changes(have *regov1.GetPoliciesResponse, before, after policy.Set) {
	if have.GetRevision() == nil {
		p.out.line(fmt.Sprintf("%s: nothing is in force; the file has %s and %s", whose(p.service), counted(uint64(len(after.Rules)), "rule"), counted(uint64(len(after.Budgets)), "budget")))
		return
	}
	list := differences(before, after)
	if len(list) > 0 && after.Version == before.Version {
		p.err.line(fmt.Sprintf("rego: warning: version %q is that of what is in force, too: by their version nobody can tell them apart", after.Version))
	}
	if len(list) == 0 {
		p.out.line(fmt.Sprintf("no difference to %s, which is in force", named(have.GetRevision())))
		return
	}
	p.out.line(fmt.Sprintf("%s to %s, which is in force:", counted(uint64(len(list)), "difference"), named(have.GetRevision())))
	for _, d := range list[:min(len(list), mostChanges)] {
		p.out.line("  " + d.String())
	}
	if n := len(list) - mostChanges; n > 0 {
		p.out.line(fmt.Sprintf("  and %d more: rego diff has them", n))
	}
}

// done says what was put, and follows its rollout.
func (p *putCommand) done(ctx context.Context, request *regov1.PutPoliciesRequest, answer *regov1.PutPoliciesResponse) error {
	r, ro := answer.GetRevision(), answer.GetRollout()
	switch {
	case r.GetChangeId() != request.GetChangeId():
		p.out.line(fmt.Sprintf("%s is in force already, with the same content: nothing is changed", named(r)))
		return nil
	case ro == nil:
		p.out.line(fmt.Sprintf("put as %s, in force for all %s", named(r), clientsOf(p.service)))
	default:
		p.out.line(fmt.Sprintf("put as %s, tried out on %s of the %s (by a hash of version and instance): %s",
			named(r), percent(ro.GetShare()), clientsOf(p.service), p.reach(ctx, r, ro.GetShare())))
	}
	if !answer.GetDurable() {
		p.out.line("history and rollout are in the memory of this server: they are gone when it ends")
	}
	if p.wait && ro != nil {
		return p.follow(ctx, r.GetRevision(), p.every)
	}
	return nil
}

// refused says why the server has not put a set, and what to do.
func (p *putCommand) refused(ctx context.Context, d document, err error) error {
	if faults, ok := refusal(err); ok {
		p.err.line("rego: the server refuses the set")
		p.list(d.path, "", file.Locate(d.data, d.format, faults))
		return errFaults
	}
	if codeOf(err) != codes.Aborted {
		return err
	}
	s, _ := statusOf(err)
	text := "not put: " + harmless(s.Message())
	have, err := p.policies(ctx)
	if err != nil {
		return failure{errors.New(text)}
	}
	r := have.GetRevision()
	if r == nil {
		return failure{fmt.Errorf("%s\n%s: nothing is in force: say --base 0", text, whose(p.service))}
	}
	text += fmt.Sprintf("\nin force: %s, put %s", named(r), putBy(r))
	if ro := have.GetRollout(); have.GetCandidate() != nil {
		return failure{fmt.Errorf("%s\ntried out on %s of the clients: %s, put %s\n"+
			"rego rollout --watch waits until that has ended, rego rollback ends it, and --overwrite puts this instead",
			text, percent(ro.GetShare()), named(ro.GetCandidate()), putBy(ro.GetCandidate()))}
	}
	return failure{fmt.Errorf("%s\nrego get writes what is in force: make your change there and put that, or say --overwrite", text)}
}

// trial is how a set is to be tried out.
type trial struct {
	canary   share
	steps    shares
	bake     time.Duration
	alpha    float64
	minCalls int64
	maxExtra float64
}

func (t *trial) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(&t.canary, "canary", "`SHARE` of the clients that try the set first: 5% or 0.05 (default: all get it at once)")
	f.Var(&t.steps, "steps", "`SHARES` that follow before all clients get it: 25%,50% (default: none)")
	f.DurationVar(&t.bake, "bake", 0, "`TIME` that each step lasts at least (default 10m)")
	f.Float64Var(&t.alpha, "alpha", 0, "highest `PROBABILITY` of rejecting a set that does no harm (default 0.01)")
	f.Int64Var(&t.minCalls, "min-calls", 0, "least `NUMBER` of calls of the canary in each step (default 1000)")
	f.Float64Var(&t.maxExtra, "max-extra", 0, "extra attempts `PER CALL` that never count as harm (default 0.1)")
}

// plan returns the plan; nil if there is to be none.
func (t *trial) plan(cmd *cobra.Command) (*regov1.RolloutPlan, error) {
	if t.canary == 0 {
		for _, flag := range []string{"steps", "bake", "alpha", "min-calls", "max-extra", "wait"} {
			if cmd.Flags().Changed(flag) {
				return nil, fmt.Errorf("--%s is about a rollout: --canary says with which share it begins", flag)
			}
		}
		return nil, nil
	}
	m := &regov1.RolloutPlan{Steps: append([]float64{float64(t.canary)}, t.steps...), Alpha: t.alpha, MinCalls: t.minCalls, MaxExtra: t.maxExtra}
	m.Bake = durationOf(t.bake)
	if err := repository.PlanFromProto(m).Validate(); err != nil {
		return nil, fmt.Errorf("the rollout: %w", err)
	}
	return m, nil
}
