package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// topCommand is the command of that name.
type topCommand struct {
	remote
	once   bool
	recent bool
	most   int
	every  time.Duration
	sort   order
	output format
}

func newTopCommand(s *streams) *cobra.Command {
	t := &topCommand{remote: remote{streams: s}}
	cmd := &cobra.Command{
		Use:   "top [flags]",
		Short: "Show which methods retry, hedge and fail most, over all clients",
		Long: `Top shows what the calls of all clients did in the last minute, or less with --recent. It has a line for
each service and method, the worst first: calls per second and how many of them failed, attempts per
call, retries, hedges and denials per second, the most frequent reason of denials, and how most of the
failed calls ended. It shows this again every two seconds; --once shows it once.

--sort says which methods come first: those with the most extra attempts per second (extra), the most
calls (calls), the most attempts per call (amplification), or the most failed calls (failed).

With --once --output json it is an object: over_seconds, reporting (clients), left_out (methods that the
server had no room for) and methods, a list of service, method, calls, failed, retries, hedges, denials
(numbers of that time), amplification, denied (kind, reason, count) and ends (code, reason, calls).

` + exitCodes,
		Args: arguments(cobra.NoArgs),
		RunE: t.runs(func(ctx context.Context, _ []string) error { return t.run(ctx) }),
	}
	t.flags(cmd)
	t.serviceFlag(cmd, "only the clients of `SERVICE` (default: all)")
	f := cmd.Flags()
	f.BoolVar(&t.once, "once", false, "print it once")
	f.BoolVar(&t.recent, "recent", false, "show the last 10 to 20 seconds, to see whether a change has helped")
	f.IntVarP(&t.most, "number", "n", 20, "`NUMBER` of methods to show at most")
	everyFlag(cmd, &t.every, "from one look to the next")
	t.sort.flags(cmd)
	t.output.flags(cmd)
	return cmd
}

func (t *topCommand) run(ctx context.Context) error {
	switch {
	case t.most < 1:
		return fmt.Errorf("--number must be at least 1, got %d", t.most)
	case t.output == formatJSON && !t.once:
		return errors.New("--output json goes with --once")
	}
	if err := checkEvery(t.every); err != nil {
		return err
	}
	var p patience
	for n := 0; ; n++ {
		m, err := asked(ctx, &t.remote, &regov1.ListTrafficRequest{Service: t.service, Recent: t.recent}, t.fleet.ListTraffic)
		switch {
		case err == nil:
			p = patience{}
			err = t.show(m, n)
		case ctx.Err() != nil: // somebody has ended it
			err = nil
		case !t.once:
			err = p.bears(&t.remote, err, time.Now())
		}
		if err != nil || t.once || pause(ctx, t.every) != nil {
			return err
		}
	}
}

// anew has a terminal begin with an empty screen.
const anew = "\x1b[H\x1b[2J"

// show prints the traffic. It is written at once, so that a terminal does not flicker.
func (t *topCommand) show(m *regov1.ListTrafficResponse, n int) error {
	rows := rowsOf(m)
	slices.SortStableFunc(rows, t.sort.compare())
	rows = rows[:min(len(rows), t.most)]
	if t.output == formatJSON {
		return t.out.json(traffic{m.GetOver().AsDuration().Seconds(), m.GetReporting(), m.GetLeftOut(), rows})
	}
	var all bytes.Buffer
	switch {
	case isTerminal(t.out.w):
		all.WriteString(anew)
	case n > 0:
		all.WriteByte('\n')
	}
	text := printer{&all}
	text.line(reporting(m, t.service))
	if len(rows) > 0 {
		if err := text.table(tableOf(rows, m.GetOver().AsDuration())); err != nil {
			return err
		}
	}
	if left := uint64(len(m.GetTraffic())-len(rows)) + m.GetLeftOut(); left > 0 && len(rows) > 0 {
		text.line(fmt.Sprintf("and %s more", counted(left, "method")))
	}
	_, err := all.WriteTo(t.out.w)
	return err
}

// reporting says who has told of calls, and what to do if nobody has.
func reporting(m *regov1.ListTrafficResponse, service string) string {
	over := lasting(m.GetOver().AsDuration())
	if m.GetReporting() == 0 {
		return fmt.Sprintf("no client has reported a call within %s: rego serve asks for reports (--report-every), and clients must have controlplane.WithReports", over)
	}
	of := ""
	if service != "" {
		of = " of all services"
	}
	return fmt.Sprintf("%s%s reported calls within %s", counted(m.GetReporting(), "client"), of, over)
}

// tableOf returns the rows as people read them, by the second.
func tableOf(rows []methodTraffic, over time.Duration) [][]string {
	seconds := max(1, over.Seconds())
	table := [][]string{{"SERVICE", "METHOD", "CALLS/S", "FAILED", "ATTEMPTS/CALL", "RETRIES/S", "HEDGES/S", "DENIED/S", "DENIED MOSTLY", "FAILED MOSTLY"}}
	for _, r := range rows {
		rate := func(n uint64) string { return digits(float64(n) / seconds) }
		table = append(table, []string{
			orOthers(r.Service, "(others)"), orOthers(r.Method, "(others)"), rate(r.Calls), percent(r.failedShare()), digits(r.Amplification),
			rate(r.Retries), rate(r.Hedges), rate(r.Denials), r.deniedMostly(), r.failedMostly(),
		})
	}
	return table
}
