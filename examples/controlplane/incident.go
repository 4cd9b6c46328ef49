package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// step is one of an incident.
type step struct {
	what string
	do   func() error
}

// incident plays it, and returns an error if a call failed or a step did not work. A brief one
// leaves out what most of the time goes into.
func incident(w io.Writer, rego string, withEtcd, brief bool) error {
	s := &stage{out: w, rego: rego}
	defer s.close()
	if err := s.open(withEtcd); err != nil {
		return err
	}
	steps := slices.Concat(s.beginning(), s.longest(), s.end())
	if brief {
		steps = slices.Concat(s.beginning(), s.end())
	}
	for _, step := range steps {
		fmt.Fprintf(w, "\n%s\n", step.what)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		if err := settle(s.clients); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		if err := s.print(); err != nil {
			return err
		}
	}
	return s.sum()
}

func (s *stage) beginning() []step {
	return []step{
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
		{"somebody with the certificate of the shop says that it is payments", s.intrude},
		{"in haste, a file with mistakes: the control plane refuses it", s.badFile},
		{"a set beyond the limits of the control plane: no client sees it", s.beyond},
		{"more attempts than the clients allow: they refuse it", s.greedy},
		{"the mistakes are mended", func() error {
			return s.change("v7", `
  policy:
    name: shop
    retry: {max_attempts: 2}
    hedge: {max_extra_load: 0.02}`)
		}},
		{"two services pay by a policy in code, with three attempts, and their backend fails", s.pay},
		{"retries are switched off for both: the owner of payments allows it, the owner of refunds does not", s.override},
		{"a service of twelve instances has a set of its own", s.openCrew},
		{"a timeout that is too short is tried out on some of them", s.badCanary},
	}
}

// longest takes a minute, since a rollout bakes and a storm has to be seen and to be gone.
func (s *stage) longest() []step {
	return []step{
		{"another one that does no harm, and the control plane is killed in the middle of it", s.goodCanary},
		{"writes begin to fail, and retries make a storm of them", s.storm},
	}
}

func (s *stage) end() []step {
	return []step{
		{"the control plane is killed", s.kill},
		{"a client is restarted meanwhile", s.restartClient},
		{"the control plane is back, with a new policy", s.comeBack},
	}
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

func (s *stage) kill() error {
	for _, r := range s.replicas {
		r.killReplica()
	}
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
	const policy = `
  policy:
    name: shop
    retry: {max_attempts: 4}
    hedge: {max_extra_load: 0.05}`
	if s.etcd == nil {
		if err := s.write("v8", policy); err != nil {
			return err
		}
	}
	if err := s.startReplicas(); err != nil {
		return err
	}
	if s.etcd != nil {
		if err := s.write("v8", policy); err != nil {
			return err
		}
	}
	took, err := s.all("v8")
	fmt.Fprintf(s.out, "  v8 is used by all clients %v after the restart\n", took.Round(100*time.Millisecond))
	return err
}
