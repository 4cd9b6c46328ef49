package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/internal/testsrv"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// stage is where an incident plays: a folder, a backend, a control plane and its clients.
type stage struct {
	out     io.Writer
	dir     string
	backend *testsrv.Server
	control string // address of the control plane
	server  *process
	clients []*process
	ended   []report // of clients that were restarted
}

const clients = 3

// incident plays it, and returns an error if a call failed or a step did not work.
func incident(w io.Writer) (err error) {
	s := &stage{out: w}
	defer s.close()
	if err := s.open(); err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"hedging on, up to 4 attempts", func() error {
			return s.change("v1", `
  policy:
    name: shop
    retry: {max_attempts: 4}
    hedge: {max_extra_load: 0.05}`)
		}},
		{"the backend suffers: hedging is switched off", func() error {
			return s.change("v2", `
  policy:
    name: shop
    retry: {max_attempts: 4}
    hedge: {max_extra_load: 0.05, off: true}`)
		}},
		{"and attempts are cut", func() error {
			return s.change("v3", `
  policy:
    name: shop
    retry: {max_attempts: 1}
    hedge: {max_extra_load: 0.05, off: true}`)
		}},
		{"in haste, a file with mistakes: the control plane refuses it", s.badFile},
		{"more attempts than the clients allow: they refuse it", s.greedy},
		{"the mistakes are mended", func() error {
			return s.change("v6", `
  policy:
    name: shop
    retry: {max_attempts: 2}
    hedge: {max_extra_load: 0.02}`)
		}},
		{"the control plane is killed", s.kill},
		{"a client is restarted meanwhile", s.restartClient},
		{"the control plane is back, with a new policy", s.comeBack},
	} {
		fmt.Fprintf(w, "\n%s\n", step.what)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		if err := s.settle(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		if err := s.print(); err != nil {
			return err
		}
	}
	return s.sum()
}

func (s *stage) open() (err error) {
	if s.dir, err = os.MkdirTemp("", "controlplane"); err != nil {
		return err
	}
	if s.backend, err = testsrv.New(testsrv.TCP(""), testsrv.NoRecording()); err != nil {
		return err
	}
	// Two calls in a hundred are slow: that is what hedging is for.
	quick, slow := testsrv.Do(testsrv.Delay(time.Millisecond), testsrv.Echo()), testsrv.Do(testsrv.Delay(50*time.Millisecond), testsrv.Echo())
	s.backend.Handle(testsrv.Get, func(a testsrv.Arrival) testsrv.Step {
		if a.Attempt%50 == 0 {
			return slow
		}
		return quick
	})
	if err := s.write("v0", ""); err != nil {
		return err
	}
	if err := s.startServer("127.0.0.1:0"); err != nil {
		return err
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
	for _, c := range s.clients {
		c.kill()
	}
	if s.server != nil {
		s.server.kill()
	}
	if s.backend != nil {
		s.backend.Close()
	}
	_ = os.RemoveAll(s.dir)
}

func (s *stage) startServer(listen string) (err error) {
	if s.server, err = start("control plane", "server", "-listen", listen, "-file", s.file()); err != nil {
		return err
	}
	const listening = "listening on "
	if _, err = await("the control plane listens", func() bool { return s.server.find(listening) != "" }); err != nil {
		return err
	}
	s.control = strings.TrimPrefix(s.server.find(listening), listening)
	return nil
}

func (s *stage) startClient(i int) error {
	name := fmt.Sprint("client-", i+1)
	c, err := start(name, "client", "-name", name, "-control", s.control, "-backend", s.backend.Addr(),
		"-snapshot", filepath.Join(s.dir, name))
	if err != nil {
		return err
	}
	if i < len(s.clients) {
		s.clients[i] = c
	} else {
		s.clients = append(s.clients, c)
	}
	_, err = await(name+" calls", func() bool { return c.last().Calls > 0 })
	return err
}

func (s *stage) file() string { return filepath.Join(s.dir, "policies.yaml") }

// write replaces the file as a whole, as every file that is watched should be.
func (s *stage) write(version, policy string) error {
	text := fmt.Sprintf("version: %s\nrules:\n- methods: [/rego.test.v1.TestService/*]%s\n", version, policy)
	if err := os.WriteFile(s.file()+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(s.file()+".new", s.file())
}

// change writes a policy, and waits until all clients use it.
func (s *stage) change(version, policy string) error {
	if err := s.write(version, policy); err != nil {
		return err
	}
	took, err := s.all(version)
	fmt.Fprintf(s.out, "  %s is used by all clients after %v\n", version, took.Round(10*time.Millisecond))
	return err
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

func (s *stage) badFile() error {
	err := s.write("v4", `
  policy:
    timeout: -1s
    retry: {max_atempts: 5, backoff: {multiplier: .nan}}`)
	if err != nil {
		return err
	}
	_, err = await("a refusal", func() bool { return s.server.find("level=ERROR") != "" })
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out, " ", s.server.find("level=ERROR"))
	_, err = s.all("v3")
	return err
}

// greedy writes what is right in itself, but more than the clients allow.
func (s *stage) greedy() error {
	err := s.write("v5", `
  policy:
    name: shop
    retry: {max_attempts: 50}`)
	if err != nil {
		return err
	}
	refused := 0
	_, err = await("refusals", func() bool {
		refused = 0
		for _, c := range s.listed() {
			if c.GetState() == regov1.ClientState_CLIENT_STATE_REFUSED && c.GetRefusal().GetVersion() == "v5" {
				refused++
			}
		}
		return refused == clients
	})
	for _, c := range s.listed() {
		f := c.GetRefusal().GetFaults()[0]
		fmt.Fprintf(s.out, "  %s keeps %s and refuses %s: %s: %s\n", c.GetNode().GetInstance(), c.GetVersion(), c.GetRefusal().GetVersion(), f.GetPath(), f.GetText())
	}
	return err
}

// listed asks the control plane for its clients, as an operator would.
func (s *stage) listed() []*regov1.Client {
	conn, err := grpc.NewClient(s.control, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	list, err := regov1.NewFleetServiceClient(conn).ListClients(ctx, &regov1.ListClientsRequest{})
	if err != nil {
		return nil
	}
	return list.GetClients()
}

func (s *stage) kill() error {
	s.server.kill()
	_, err := await("stale", func() bool {
		for _, c := range s.clients {
			if c.last().State != "stale" {
				return false
			}
		}
		return true
	})
	return err
}

func (s *stage) restartClient() error {
	c := s.clients[0]
	s.count(c)
	c.kill()
	return s.startClient(0)
}

func (s *stage) comeBack() error {
	err := s.write("v7", `
  policy:
    name: shop
    retry: {max_attempts: 4}
    hedge: {max_extra_load: 0.05}`)
	if err != nil {
		return err
	}
	if err := s.startServer(s.control); err != nil {
		return err
	}
	took, err := s.all("v7")
	fmt.Fprintf(s.out, "  v7 is used by all clients %v after the restart\n", took.Round(100*time.Millisecond))
	return err
}

// settle lets each client make some calls, so that there is something to tell of it.
func (s *stage) settle() error {
	var before [clients]int
	for i, c := range s.clients {
		before[i] = c.last().Calls
	}
	_, err := await("calls", func() bool {
		for i, c := range s.clients {
			if c.last().Calls < before[i]+100 {
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
			strings.TrimSuffix(r.Policies.Source, " "+s.control), r.Policy.MaxAttempts, hedging,
			calls, r.Total.Attempts-before.Total.Attempts-calls, r.Total.Failed-before.Total.Failed)
	}
	return w.Flush()
}

// count keeps what became of the calls of a client that is about to end.
func (s *stage) count(c *process) { s.ended = append(s.ended, c.last()) }

// sum fails if a call has.
func (s *stage) sum() error {
	fmt.Fprintln(s.out)
	for _, c := range s.clients {
		s.count(c)
		times, err := c.amplification()
		if err != nil {
			return err
		}
		fmt.Fprintf(s.out, "by its metrics %s made %.2f attempts per call\n", c.name, times)
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
