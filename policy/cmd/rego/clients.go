package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// clientsCommand is the command of that name.
type clientsCommand struct {
	remote
	disconnected, refused, stale bool
	output                       format
}

func newClientsCommand(s *streams) *cobra.Command {
	l := &clientsCommand{remote: remote{streams: s}}
	cmd := &cobra.Command{
		Use:   "clients [flags]",
		Short: "Show which clients there are, and what they have in force",
		Long: `Clients counts and lists the clients that are connected to a server and its replicas: what each has in
force, and whether that is the newest set. If a client has refused the newest set, the list has the
reason. If a client has not answered yet, the list says for how long.

The JSON is an object: summary (rego.v1.SummarizeClientsResponse, of all that are connected) and
clients, a list of rego.v1.Client.

` + exitCodes,
		Args: arguments(cobra.NoArgs),
		RunE: l.runs(func(ctx context.Context, _ []string) error { return l.run(ctx) }),
	}
	l.flags(cmd)
	l.serviceFlag(cmd, "only the clients of `SERVICE` (default: all)")
	f := cmd.Flags()
	f.BoolVar(&l.disconnected, "disconnected", false, "also clients that have gone within the last hour")
	f.BoolVar(&l.refused, "refused", false, "only clients that have refused the newest set")
	f.BoolVar(&l.stale, "stale", false, "only clients that do not have the newest set, for any reason")
	l.output.flags(cmd)
	cmd.MarkFlagsMutuallyExclusive("refused", "stale")
	return cmd
}

func (l *clientsCommand) run(ctx context.Context) error {
	summary, err := asked(ctx, &l.remote, &regov1.SummarizeClientsRequest{Service: l.service}, l.fleet.SummarizeClients)
	if err != nil {
		return err
	}
	var list []*regov1.Client
	err = l.eachClient(ctx, &regov1.ListClientsRequest{Service: l.service, Disconnected: l.disconnected}, func(c *regov1.Client) {
		if l.isMeant(c.GetState()) {
			list = append(list, c)
		}
	})
	if err != nil {
		return err
	}
	if l.output == formatJSON {
		objects := make([]object, len(list))
		for i, c := range list {
			objects[i] = objectOf(c)
		}
		return l.out.json(object{"summary": objectOf(summary), "clients": objects})
	}
	l.out.line(summaryLine(summary))
	if len(list) == 0 {
		return nil
	}
	rows := [][]string{{"SERVICE", "INSTANCE", "STATE", "REVISION", "VERSION", "CONNECTED", "ADDRESS", "REPLICA", "CANARY", "NOTE"}}
	for _, c := range list {
		canary := ""
		if c.GetCanary() {
			canary = "yes"
		}
		rows = append(rows, []string{
			c.GetNode().GetService(), c.GetNode().GetInstance(), clientWord(c.GetState()), revisionOf(c.GetEpoch(), c.GetRevision()), c.GetVersion(),
			when(c.GetConnected()), c.GetPeer(), c.GetReplica(), canary, noteOf(c),
		})
	}
	return l.out.table(withoutEmpty(rows))
}

// isMeant reports whether clients of a state are to be listed.
func (l *clientsCommand) isMeant(s regov1.ClientState) bool {
	switch {
	case l.refused:
		return s == regov1.ClientState_CLIENT_STATE_REFUSED
	case l.stale:
		return s != regov1.ClientState_CLIENT_STATE_CURRENT
	default:
		return true
	}
}

// summaryLine says how many clients are connected, by state.
func summaryLine(m *regov1.SummarizeClientsResponse) string {
	var warned uint64
	states := make(map[regov1.ClientState]uint64)
	for _, c := range m.GetCounts() {
		states[c.GetState()] += c.GetClients()
		warned += c.GetWarned()
	}
	var parts []string
	for _, s := range []regov1.ClientState{
		regov1.ClientState_CLIENT_STATE_CURRENT, regov1.ClientState_CLIENT_STATE_PENDING,
		regov1.ClientState_CLIENT_STATE_REFUSED, regov1.ClientState_CLIENT_STATE_UNSPECIFIED,
	} {
		if n := states[s]; n > 0 {
			parts = append(parts, grouped(n)+" "+clientWord(s))
		}
	}
	if n := m.GetLeftOut(); n > 0 {
		parts = append(parts, grouped(n)+" not counted by state")
	}
	text := counted(m.GetClients(), "client")
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	if warned > 0 {
		text += fmt.Sprintf("; %s with warnings", grouped(warned))
	}
	return text
}

// noteOf says what is not as it should be with a client.
func noteOf(c *regov1.Client) string {
	var parts []string
	if c.GetState() == regov1.ClientState_CLIENT_STATE_REFUSED {
		r := c.GetRefusal()
		parts = append(parts, fmt.Sprintf("refused revision %s (version %q): %s", revisionOf(r.GetEpoch(), r.GetRevision()), r.GetVersion(), someFaults(r.GetFaults())))
	}
	if p := c.GetPending(); p != nil {
		parts = append(parts, "has owed an answer for "+lasting(p.AsDuration()))
	}
	if t := c.GetLastSeen(); t != nil {
		parts = append(parts, "gone since "+when(t))
	}
	if w := c.GetWarnings(); len(w) > 0 {
		parts = append(parts, "warns: "+someFaults(w))
	}
	return strings.Join(parts, "; ")
}

// someFaults returns the first of some faults, and how many there are besides.
func someFaults(all []*regov1.Fault) string {
	if len(all) == 0 {
		return "it has not said why"
	}
	text := all[0].GetText()
	if path := all[0].GetPath(); path != "" {
		text = path + ": " + text
	}
	if n := len(all) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return text
}
