package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// rolloutCommand is the command of that name.
type rolloutCommand struct {
	remote
	watch  bool
	every  time.Duration
	output format
}

func newRolloutCommand(s *streams) *cobra.Command {
	o := &rolloutCommand{remote: remote{streams: s}}
	cmd := &cobra.Command{
		Use:   "rollout [flags]",
		Short: "Show how far a rollout is, and why",
		Long: `Rollout shows the last rollout of the policies of a service, under way or ended: its state and step,
which clients have the set, what their calls and those of the others did, and the evidence. With
--watch it follows the rollout until it has ended. Then the exit code is 0 if all clients got the
set, and 1 if the set was taken back.

The JSON is an object: service, in_force (rego.v1.Revision), rollout (rego.v1.Rollout, or null)
and durable.

` + exitCodes,
		Args: arguments(cobra.NoArgs),
		RunE: o.runs(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	o.flags(cmd)
	o.serviceFlag(cmd, ofService)
	cmd.Flags().BoolVar(&o.watch, "watch", false, "follow the rollout until it has ended")
	everyFlag(cmd, &o.every, "that pass between two looks of --watch")
	o.output.flags(cmd)
	cmd.MarkFlagsMutuallyExclusive("watch", "output")
	return cmd
}

func (o *rolloutCommand) run(ctx context.Context) error {
	m, err := o.policies(ctx)
	if err != nil {
		return err
	}
	ro := m.GetRollout()
	switch {
	case o.output == formatJSON:
		return o.out.json(object{
			"service": o.service, "in_force": objectOf(m.GetRevision()), "rollout": objectOf(ro), "durable": m.GetDurable(),
		})
	case ro == nil && o.watch:
		return failure{fmt.Errorf("%s: no set was tried out", whose(o.service))}
	case ro == nil:
		o.out.line(fmt.Sprintf("%s: no set was tried out", whose(o.service)))
		return nil
	}
	if err := o.out.table(describe(ro, time.Now())); err != nil || !o.watch {
		return err
	}
	return o.follow(ctx, ro.GetCandidate().GetRevision(), o.every)
}

// describe returns all that there is to say of a rollout.
func describe(ro *regov1.Rollout, now time.Time) [][]string {
	of := ro.GetCandidate()
	clients := among(ro)
	if n := ro.GetRefusing(); n > 0 {
		clients += fmt.Sprintf(", %s refuse it", grouped(n))
	}
	return [][]string{
		{"candidate", named(of)},
		{"put", putBy(of)},
		{"state", stateOf(ro, now)},
		{"reason", ro.GetReason()},
		{"clients", clients},
		{"canary", didOf(ro.GetCanary())},
		{"rest", didOf(ro.GetRest())},
		{"evidence", evidenceOf(ro)},
	}
}

// evidenceOf says how much speaks against the set, and from where on it is rejected.
func evidenceOf(ro *regov1.Rollout) string {
	text := "none was looked for yet"
	if failed, extra := ro.GetFailedEvidence(), ro.GetExtraEvidence(); failed+extra > 0 {
		text = fmt.Sprintf("1:%s that more calls fail, 1:%s that there are too many extra attempts", digits(failed), digits(extra))
	}
	if alpha := ro.GetPlan().GetAlpha(); alpha > 0 {
		text += fmt.Sprintf(" (rejected from 1:%s, together)", digits(1/alpha))
	}
	return text
}

// stateOf returns the state of a rollout with its step and since when, or when it ended.
func stateOf(ro *regov1.Rollout, now time.Time) string {
	text := wordOf(ro.GetState(), "ROLLOUT_STATE_")
	if ro.GetState() != regov1.RolloutState_ROLLOUT_STATE_BAKING {
		if ro.GetEnded() == nil {
			return text
		}
		return fmt.Sprintf("%s at %s (%s)", text, when(ro.GetEnded()), ago(ro.GetEnded(), now))
	}
	return fmt.Sprintf("%s, step %d of %d: %s of the clients, since %s (%s)", text, ro.GetStep()+1, len(ro.GetPlan().GetSteps()),
		percent(ro.GetShare()), when(ro.GetStepStarted()), ago(ro.GetStepStarted(), now))
}

// didOf says what calls did.
func didOf(c *regov1.ArmCounts) string {
	calls := float64(max(1, c.GetCalls()))
	return fmt.Sprintf("%s, %s failed, %s extra attempts per call",
		counted(uint64(max(0, c.GetCalls())), "call"), percent(float64(c.GetFailed())/calls), digits(float64(c.GetExtra())/calls))
}

// everyFlag adds the flag --every.
func everyFlag(cmd *cobra.Command, every *time.Duration, what string) {
	cmd.Flags().DurationVar(every, "every", 2*time.Second, "`TIME` "+what+", at least 10ms")
}

func checkEvery(every time.Duration) error {
	const least = 10 * time.Millisecond
	if every < least {
		return fmt.Errorf("--every must be at least %v, got %v", least, every)
	}
	return nil
}
