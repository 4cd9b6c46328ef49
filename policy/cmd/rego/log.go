package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// logCommand is the command of that name.
type logCommand struct {
	remote
	most   int
	output format
}

func newLogCommand(s *streams) *cobra.Command {
	h := &logCommand{remote: remote{streams: s}}
	cmd := &cobra.Command{
		Use:   "log [flags]",
		Short: "Show which policies were put, by whom and why",
		Long: `Log lists the revisions of the policies of a service, the newest first: when each was put, by whom and
why, and how it ended. A server keeps the last hundred.

The JSON is an object: in_force, rollout (rego.v1.Rollout) and revisions. Each revision is a
rego.v1.Revision with one more field: became says how it ended, in words that may change.

` + exitCodes,
		Args: arguments(cobra.NoArgs),
		RunE: h.runs(func(ctx context.Context, _ []string) error { return h.run(ctx) }),
	}
	h.flags(cmd)
	h.serviceFlag(cmd, ofService)
	cmd.Flags().IntVarP(&h.most, "number", "n", 20, "`NUMBER` of revisions to show at most")
	h.output.flags(cmd)
	return cmd
}

// mostRevisions is how many a response may have.
const mostRevisions = 100

func (h *logCommand) run(ctx context.Context) error {
	if h.most < 1 {
		return fmt.Errorf("--number must be at least 1, got %d", h.most)
	}
	all, err := h.list(ctx)
	if err != nil {
		return err
	}
	if h.output == formatJSON {
		o := objectOf(all)
		delete(o, "more")
		list := make([]object, len(all.GetRevisions()))
		for i, r := range all.GetRevisions() {
			list[i] = objectOf(r)
			list[i]["became"] = became(all, i)
		}
		o["revisions"] = list
		return h.out.json(o)
	}
	rows := [][]string{{"REVISION", "TIME", "AUTHOR", "VERSION", "WHAT BECAME OF IT", "MESSAGE"}}
	for i, r := range all.GetRevisions() {
		rows = append(rows, []string{revisionOf(r.GetEpoch(), r.GetRevision()), when(r.GetTime()), r.GetAuthor(), r.GetVersion(), became(all, i), r.GetMessage()})
	}
	return h.out.table(withoutEmpty(rows))
}

// list returns as many revisions as were asked for.
func (h *logCommand) list(ctx context.Context) (*regov1.ListRevisionsResponse, error) {
	all := new(regov1.ListRevisionsResponse)
	for before := uint64(0); ; {
		page := int32(min(h.most-len(all.GetRevisions()), mostRevisions))
		m, err := asked(ctx, &h.remote, &regov1.ListRevisionsRequest{Service: h.service, PageSize: page, Before: before}, h.admin.ListRevisions)
		if err != nil {
			return nil, err
		}
		if before == 0 {
			all.InForce, all.Rollout = m.GetInForce(), m.GetRollout()
		}
		all.Revisions = append(all.Revisions, m.GetRevisions()...)
		n := len(all.GetRevisions())
		if !m.GetMore() || len(m.GetRevisions()) == 0 || n >= h.most {
			return all, nil
		}
		before = all.GetRevisions()[n-1].GetRevision()
	}
}

// became says what became of a revision: of the newest what the server says, of the others what
// the one after them says.
func became(all *regov1.ListRevisionsResponse, i int) string {
	r := all.GetRevisions()[i]
	var words []string
	if n := r.GetRestores(); n != 0 {
		words = append(words, fmt.Sprintf("restores %d", n))
	}
	ro := all.GetRollout()
	isLast := ro.GetCandidate() != nil && ro.GetCandidate().GetRevision() == r.GetRevision() && ro.GetCandidate().GetEpoch() == r.GetEpoch()
	switch {
	case r.GetRevision() == all.GetInForce():
		words = append(words, "in force")
	case isLast && ro.GetState() == regov1.RolloutState_ROLLOUT_STATE_BAKING:
		words = append(words, "tried out on "+percent(ro.GetShare()))
	case isLast && ro.GetState() != regov1.RolloutState_ROLLOUT_STATE_PROMOTED:
		words = append(words, fmt.Sprintf("%s (%s)", wordOf(ro.GetState(), "ROLLOUT_STATE_"), ro.GetReason()))
	case isLast || !r.GetCanary() || i == 0:
	default:
		words = append(words, withdrawn(r, all.GetRevisions()[i-1])...)
	}
	return strings.Join(words, ", ")
}

// withdrawn says how the trial of a revision ended, by the one that came after it.
func withdrawn(r, next *regov1.Revision) []string {
	switch {
	case next.GetReplaces() == r.GetRevision(): // it had been promoted
		return nil
	case next.GetRestores() == r.GetBase() && next.GetAuthor() == controlPlane:
		return []string{fmt.Sprintf("rejected (%s)", next.GetMessage())}
	default:
		return []string{"ended by " + next.GetAuthor()}
	}
}

// controlPlane is the author of what the control plane decides.
const controlPlane = "the control plane"
