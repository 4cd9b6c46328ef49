package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// servicesCommand is the command of that name.
type servicesCommand struct {
	remote
	output format
}

func newServicesCommand(s *streams) *cobra.Command {
	l := &servicesCommand{remote: remote{streams: s}}
	cmd := &cobra.Command{
		Use:   "services [flags]",
		Short: "Show which services have policies of their own",
		Long: `Services lists the services that have policies of their own, with what is in force and the last rollout.
The clients of all others have the policies of (all others).

The JSON is a rego.v1.ListServicesResponse: services, and left_out if there are more than 1,000.

` + exitCodes,
		Args: arguments(cobra.NoArgs),
		RunE: l.runs(func(ctx context.Context, _ []string) error { return l.run(ctx) }),
	}
	l.flags(cmd)
	l.output.flags(cmd)
	return cmd
}

func (l *servicesCommand) run(ctx context.Context) error {
	m, err := asked(ctx, &l.remote, new(regov1.ListServicesRequest), l.admin.ListServices)
	if err != nil {
		return err
	}
	if l.output == formatJSON {
		return l.out.json(objectOf(m))
	}
	rows := [][]string{{"SERVICE", "REVISION", "VERSION", "SINCE", "AUTHOR", "LAST ROLLOUT"}}
	for _, s := range m.GetServices() {
		r := s.GetInForce()
		if r == nil {
			rows = append(rows, []string{orOthers(s.GetService(), "(all others)"), "", "(what is stored cannot be read)", "", "", ""})
			continue
		}
		rows = append(rows, []string{orOthers(s.GetService(), "(all others)"), revisionOf(r.GetEpoch(), r.GetRevision()), r.GetVersion(), when(r.GetTime()), r.GetAuthor(), lastRollout(s.GetRollout())})
	}
	if err := l.out.table(withoutEmpty(rows)); err != nil {
		return err
	}
	if n := m.GetLeftOut(); n > 0 {
		l.out.line(fmt.Sprintf("and %s more", counted(n, "service")))
	}
	return nil
}

func lastRollout(ro *regov1.Rollout) string {
	if ro == nil {
		return ""
	}
	return fmt.Sprintf("%s: %s", named(ro.GetCandidate()), stateOf(ro, time.Now()))
}

// orOthers returns a name, or what stands for those that have none.
func orOthers(name, others string) string {
	if name == "" {
		return others
	}
	return name
}

// revisionOf returns a revision, after its epoch if that is not the first: 2.17.
func revisionOf(epoch, revision uint64) string {
	if epoch == 0 {
		return fmt.Sprint(revision)
	}
	return fmt.Sprintf("%d.%d", epoch, revision)
}

// withoutEmpty returns a table, the first row of which is its head, without the columns that have
// nothing in them.
func withoutEmpty(rows [][]string) [][]string {
	all := make([][]string, len(rows))
	for column := range rows[0] {
		if !slices.ContainsFunc(rows[1:], func(row []string) bool { return row[column] != "" }) {
			continue
		}
		for i, row := range rows {
			all[i] = append(all[i], row[column])
		}
	}
	return all
}
