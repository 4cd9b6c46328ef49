package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// What keeps a fleet from harm: rights, the limits of the control plane, those of each client,
// and who has the last word over a policy in code.

// The limits. Those of the control plane are wider than those of the services.
const (
	serverLimits  = "max_attempts: 10\nmax_timeout: 60s\n"
	serviceLimits = "max_attempts: 5\nmax_extra_load: 0.1\nmax_timeout: 60s\n"
	overridable   = "overridable: [retry.off, hedge.off]\n"
)

// intrude starts a client of the shop that says it is payments. It stays to the end, and calls
// the backend as every client does.
func (s *stage) intrude() (err error) {
	if s.impostor, err = s.startAs("impostor", "-service", "payments", "-as", "shop", "-limits", "shop.limits.yaml"); err != nil {
		return err
	}
	denied, err := s.awaitAudit("the impostor", func(a audited) bool { return a.Event == "denied" && a.Instance == "impostor" })
	if err != nil {
		return err
	}
	var page shown
	_, err = await("the impostor is told", func() bool {
		page, err = s.impostor.look()
		return err == nil && page.Policies.Lost != ""
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "  the impostor is told: %s\n", page.Policies.Lost)
	fmt.Fprintf(s.out, "  it goes by %q, state %s; %d of its %d calls failed\n",
		page.Policy.Version, page.Policies.State, page.Total.Failed, page.Total.Calls)
	fmt.Fprintf(s.out, "  the audit log: %s %s at %s, which said it was %s (instance %s): %s\n",
		denied.Event, strings.Join(denied.Identities, ", "), denied.Peer, denied.Service, denied.Instance, denied.Code)
	return nil
}

// unmask fails if the impostor has ever gone by policies that are not its own.
func (s *stage) unmask() error {
	for _, r := range s.impostor.reports() {
		if r.Policies != "built in" && r.Policies != "" {
			return fmt.Errorf("the impostor got policies: %s", r.Policies)
		}
	}
	fmt.Fprintf(s.out, "the impostor made %d calls, all by what it was built with\n", s.impostor.last().Calls)
	return nil
}

// refused waits until the control plane has refused a version, and prints why.
func (s *stage) refused(version string) error {
	line, err := s.awaitAudit("the refusal of "+version, func(a audited) bool { return a.Event == "refused" && a.Version == version })
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "  the audit log: refused %s of %s\n", line.Version, line.Source)
	for _, fault := range line.Faults {
		fmt.Fprintf(s.out, "    %s\n", fault)
	}
	return nil
}

// writeWrong writes what is refused, and prints why: a file by the control plane, which tells it in
// its audit log, and with etcd whoever puts it.
func (s *stage) writeWrong(version, policy string) error {
	if err := s.replace("policies.yaml", setOf(version, policy)); err != nil {
		return err
	}
	if s.etcd == nil {
		return s.refused(version)
	}
	out, code, err := s.operate(true, "put", "policies.yaml", "--overwrite")
	if err == nil && code != 1 {
		err = fmt.Errorf("rego put: exit code %d: %s", code, out)
	}
	return err
}

// badFile writes what no set can be.
func (s *stage) badFile() error {
	err := s.writeWrong("v4", `
  policy:
    timeout: -1s
    retry: {max_atempts: 5, backoff: {multiplier: .nan}}`)
	if err != nil {
		return err
	}
	_, err = s.all("v3")
	return err
}

// beyond writes what exceeds the limits of the control plane.
func (s *stage) beyond() error {
	if err := s.quote("limits.yaml"); err != nil {
		return err
	}
	err := s.writeWrong("v5", `
  policy:
    name: shop
    timeout: 600s
    retry: {max_attempts: 50}`)
	if err != nil {
		return err
	}
	err = s.ask(func(ctx context.Context, fleet regov1.FleetServiceClient) error {
		state, err := fleet.GetServerState(ctx, new(regov1.GetServerStateRequest))
		for _, of := range state.GetStores() {
			if of.GetService() == "" { // all that have none of their own
				fmt.Fprintf(s.out, "  GetServerState: %s, it serves %s\n", of.GetStanding(), of.GetVersion())
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	list, err := s.listed("shop")
	for _, c := range list {
		if c.GetRefusal() != nil {
			return fmt.Errorf("%s has seen %s", c.GetNode().GetInstance(), c.GetRefusal().GetVersion())
		}
		fmt.Fprintf(s.out, "  ListClients: %s has %s, %s, and has refused nothing\n", c.GetNode().GetInstance(), c.GetVersion(), c.GetState())
	}
	return err
}

// greedy writes what the control plane allows, but no client.
func (s *stage) greedy() error {
	if err := s.quote("shop.limits.yaml"); err != nil {
		return err
	}
	err := s.write("v6", `
  policy:
    name: shop
    retry: {max_attempts: 8}`)
	if err != nil {
		return err
	}
	list, err := s.awaitListed("refusals", "shop", clients, func(c *regov1.Client) bool {
		return c.GetState() == regov1.ClientState_CLIENT_STATE_REFUSED && c.GetRefusal().GetVersion() == "v6"
	})
	for _, c := range list {
		for _, f := range c.GetRefusal().GetFaults() {
			fmt.Fprintf(s.out, "  ListClients: %s keeps %s and refuses %s: %s: %s\n",
				c.GetNode().GetInstance(), c.GetVersion(), c.GetRefusal().GetVersion(), f.GetPath(), f.GetText())
		}
	}
	return err
}

// payers are services that have the same set, and limits of their own.
var payers = []string{"payments", "refunds"}

// pay starts a client of each of two services whose policy is in code. Their backend fails.
func (s *stage) pay() error {
	for _, service := range payers {
		p, err := s.startAs(service+"-1", "-service", service, "-as", service, "-limits", service+".limits.yaml", "-pays")
		if p != nil {
			s.payers = append(s.payers, p)
		}
		if err != nil {
			return err
		}
	}
	if err := s.awaitPayers("p1"); err != nil {
		return err
	}
	return s.tellPayers()
}

// override switches off the retries of both, by their set.
func (s *stage) override() error {
	text := "version: p2\nrules:\n- methods: [/rego.test.v1.TestService/Pay]\n  policy:\n    retry: {off: true}\n"
	if err := s.replace("payments.yaml", text); err != nil {
		return err
	}
	for _, service := range payers {
		if s.etcd != nil {
			if err := s.put("payments.yaml", "--service", service, "--overwrite"); err != nil {
				return err
			}
		}
		if err := s.quote(service + ".limits.yaml"); err != nil {
			return err
		}
	}
	if err := s.awaitPayers("p2"); err != nil {
		return err
	}
	if _, err := await("payments go by p2", func() bool { return s.payers[0].last().Policies == "p2" }); err != nil {
		return err
	}
	if err := s.tellPayers(); err != nil {
		return err
	}
	for _, p := range s.payers {
		p.kill()
	}
	s.payers = nil
	return nil
}

// awaitPayers waits until both services have a set.
func (s *stage) awaitPayers(version string) error {
	for _, service := range payers {
		_, err := s.awaitListed(service+" has "+version, service, 1, func(c *regov1.Client) bool {
			return c.GetVersion() == version && c.GetState() == regov1.ClientState_CLIENT_STATE_CURRENT
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// tellPayers prints what becomes of calls from now on, by the pages, and what the control plane
// knows of it.
func (s *stage) tellPayers() error {
	for _, p := range s.payers {
		var err error
		if p.told, err = p.look(); err != nil {
			return err
		}
	}
	if err := settle(s.payers); err != nil {
		return err
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  \thas\tattempts per call\tretry.off\tfrom")
	for _, p := range s.payers {
		page, err := p.look()
		if err != nil {
			return err
		}
		off := page.field("retry.off")
		fmt.Fprintf(w, "  %s\t%s\t%.1f\t%s\t%s\n", p.name, page.Policies.Version,
			float64(page.Total.Attempts-p.told.Total.Attempts)/float64(page.Total.Calls-p.told.Total.Calls), off.Value, off.From)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, service := range payers {
		list, err := s.listed(service)
		if err != nil {
			return err
		}
		for _, c := range list {
			for _, f := range c.GetWarnings() {
				fmt.Fprintf(s.out, "  ListClients: %s has a warning: %s: %s\n", c.GetNode().GetInstance(), f.GetPath(), f.GetText())
			}
		}
	}
	return nil
}

// quote prints the lines of a file in one.
func (s *stage) quote(name string) error {
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "  %s: %s\n", name, strings.Join(strings.Split(strings.TrimSpace(string(text)), "\n"), ", "))
	return nil
}

// field returns a field of the policy that a page shows.
func (s shown) field(name string) field {
	for _, f := range s.Policy.Fields {
		if f.Name == name {
			return f
		}
	}
	return field{Name: name}
}
