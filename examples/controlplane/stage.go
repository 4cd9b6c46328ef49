package main

import (
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/policy/etcd/etcdtest"
)

// stage is where an incident plays: a folder, a backend, a control plane and its clients.
type stage struct {
	out      io.Writer
	dir      string // where all files are
	rego     string // path of the command; empty until it is built
	backend  *testsrv.Server
	etcd     *etcdtest.Cluster // nil without it
	replicas []*replica        // of the control plane
	via      string            // the address of what is between clients and them; empty if nothing is
	ill      *atomic.Bool      // writes fail
	clients  []*process        // of the shop
	crew     *process          // the service search
	stormed  int64             // writes of it that failed in the storm
	ended    []report          // of those that were restarted
	payers   []*process        // a client of each service that pays
	impostor *process          // nil until it comes
}

const clients = 3

func (s *stage) open(withEtcd bool) (err error) {
	if s.dir, err = os.MkdirTemp("", "controlplane"); err != nil {
		return err
	}
	if s.backend, err = testsrv.New(testsrv.TCP(""), testsrv.NoRecording()); err != nil {
		return err
	}
	// Two calls in a hundred are slow: that is what hedging is for.
	quick, slow := testsrv.Do(testsrv.Delay(time.Millisecond), testsrv.Echo()), testsrv.Do(testsrv.Delay(50*time.Millisecond), testsrv.Echo())
	s.backend.Handle(testsrv.Get, func(testsrv.Arrival) testsrv.Step {
		if rand.IntN(50) == 0 {
			return slow
		}
		return quick
	})
	// Payments fail, whatever is tried.
	s.backend.Script(testsrv.Pay, testsrv.Do(testsrv.Delay(time.Millisecond), testsrv.Fail(codes.Unavailable, "the ledger is down")))
	s.ward()
	if err := s.furnish(); err != nil {
		return err
	}
	if s.rego == "" {
		fmt.Fprintln(s.out, "building rego")
		s.rego, err = build(s.dir)
	} else if s.rego, err = exec.LookPath(s.rego); err == nil {
		s.rego, err = filepath.Abs(s.rego)
	}
	if err != nil {
		return err
	}
	if err := s.openReplicas(withEtcd); err != nil {
		return err
	}
	if withEtcd {
		if err := s.putAll(); err != nil {
			return err
		}
	}
	for i := range clients {
		if err := s.startClient(i); err != nil {
			return err
		}
		fmt.Fprintf(s.out, "%s shows itself at %s%s\n", s.clients[i].name, s.clients[i].last().Shows, pagePath)
	}
	return nil
}

func (s *stage) close() {
	for _, p := range slices.Concat(s.clients, s.payers, []*process{s.impostor, s.crew}) {
		if p != nil {
			p.kill()
		}
	}
	for _, r := range s.replicas {
		r.killReplica()
	}
	if s.etcd != nil {
		s.etcd.Close()
	}
	if s.backend != nil {
		s.backend.Close()
	}
	_ = os.RemoveAll(s.dir)
}

// furnish writes what everybody has when the incident begins: certificates, limits and policies.
func (s *stage) furnish() error {
	a, err := newAuthority(s.dir)
	if err != nil {
		return err
	}
	if err := a.server("server"); err != nil {
		return err
	}
	if err := a.client("operator", operatorID); err != nil {
		return err
	}
	for _, service := range append([]string{"shop", "search"}, payers...) {
		if err := a.client(service, serviceID+service); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"limits.yaml":          serverLimits,
		"shop.limits.yaml":     serviceLimits,
		"payments.limits.yaml": serviceLimits + overridable,
		"refunds.limits.yaml":  serviceLimits,
		"payments.yaml":        "version: p1\n",
		"search.yaml":          "version: s0\n",
	} {
		if err := s.replace(name, text); err != nil {
			return err
		}
	}
	return s.replace("policies.yaml", setOf("v0", ""))
}

// putAll puts what is in files without etcd.
func (s *stage) putAll() error {
	for _, put := range [][]string{{"policies.yaml"}, {"payments.yaml", "--service", "payments"}, {"payments.yaml", "--service", "refunds"}} {
		if err := s.put(append(put, "-m", "the first")...); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) startClient(i int) error {
	c, err := s.startAs(fmt.Sprint("client-", i+1), "-limits", "shop.limits.yaml")
	if c != nil && i < len(s.clients) {
		s.clients[i] = c
	} else if c != nil {
		s.clients = append(s.clients, c)
	}
	return err
}

// startAs starts a client with flags besides those that all have.
func (s *stage) startAs(name string, flags ...string) (*process, error) {
	args := append([]string{"client", "-name", name, "-snapshot", name, "-control", s.control(), "-backend", s.backend.Addr()}, flags...)
	p, err := startSelf(name, s.dir, args...)
	if err != nil {
		return nil, err
	}
	return p, p.until("calls", func() bool { return p.last().Calls > 0 })
}

// write replaces the policies of all services that have none of their own: the file, which the
// control plane watches, or with etcd what is there.
func (s *stage) write(version, policy string) error {
	if err := s.replace("policies.yaml", setOf(version, policy)); err != nil || s.etcd == nil {
		return err
	}
	return s.put("policies.yaml", "--overwrite")
}

func setOf(version, policy string) string {
	return fmt.Sprintf("version: %s\nrules:\n- methods: [/rego.test.v1.TestService/*]%s\n", version, policy)
}

// replace replaces a file as a whole, as every file that is watched should be.
func (s *stage) replace(name, text string) error {
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// all waits until the calls of all clients use a version.
func (s *stage) all(version string) (time.Duration, error) {
	return await(version, func() bool {
		for _, c := range s.clients {
			if r := c.last(); r.Policies != version || r.State != "current" {
				return false
			}
		}
		return true
	})
}

// settle lets each client make some calls, so that there is something to tell of it.
func settle(of []*process) error {
	before := make([]int, len(of))
	for i, c := range of {
		before[i] = c.last().Calls
	}
	_, err := await("calls", func() bool {
		for i, c := range of {
			if c.last().Calls < before[i]+50 {
				return false
			}
		}
		return true
	})
	return err
}

// print shows what each client uses, and what became of its calls since the last time, as their
// debug pages have it.
func (s *stage) print() error {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  \tuses\tstate\tfrom\tattempts\thedging\tcalls\textra\tfailed")
	for _, c := range s.clients {
		before := c.told
		var err error
		if c.told, err = c.look(); err != nil {
			return err
		}
		r := c.told
		hedging := "off"
		if r.Hedging != nil {
			hedging = "on"
		}
		calls := r.Total.Calls - before.Total.Calls
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%d\t%s\t%d\t%d\t%d\n", c.name, r.Policy.Version, r.Policies.State,
			source(r.Policies.Source), r.Policy.MaxAttempts, hedging,
			calls, r.Total.Attempts-before.Total.Attempts-calls, r.Total.Failed-before.Total.Failed)
	}
	return w.Flush()
}

// source returns a source without its address.
func source(name string) string {
	if strings.HasPrefix(name, "control plane ") {
		return "control plane"
	}
	return name
}

// count keeps what became of the calls of a client that is about to end.
func (s *stage) count(c *process) { s.ended = append(s.ended, c.last()) }

// sum fails if a call has.
func (s *stage) sum() error {
	fmt.Fprintln(s.out)
	if s.impostor != nil {
		s.count(s.impostor)
		if err := s.unmask(); err != nil {
			return err
		}
	}
	for _, c := range s.clients {
		s.count(c)
		times, err := c.amplification()
		if err != nil {
			return err
		}
		fmt.Fprintf(s.out, "by its metrics %s made %.2f attempts per call\n", c.name, times)
	}
	if s.crew != nil {
		if err := s.unharmed(); err != nil {
			return err
		}
		now := s.crew.crew()
		fmt.Fprintf(s.out, "search made %d calls to read; %d failed, all by what was tried out\n", now.total().Calls, now.total().Failed)
		fmt.Fprintf(s.out, "search made %d calls to write; %d failed, all in the storm\n", now.writes().Calls, now.writes().Failed)
	}
	var sum report
	for _, r := range s.ended {
		sum.Calls += r.Calls
		sum.Failed += r.Failed
		sum.Slowest = max(sum.Slowest, r.Slowest)
		sum.Failure = cmp.Or(sum.Failure, r.Failure)
	}
	fmt.Fprintf(s.out, "%d calls, %d failed; the slowest took %v\n", sum.Calls, sum.Failed, sum.Slowest.Round(time.Millisecond))
	if sum.Failed > 0 {
		return fmt.Errorf("calls failed: %s", sum.Failure)
	}
	return nil
}
