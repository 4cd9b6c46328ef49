package controlplane

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rego-go/rego/policy/repository"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// counting is what a replica has heard of the calls of clients since a set is tried out, by the
// service that tries it.
type counting struct {
	mu     sync.Mutex
	trials map[string]*trial
}

// trial is a set that is tried out, and that which it is compared with.
type trial struct {
	candidate, current edition
	strata             map[string]*regov1.StoredStratum // by method
}

// follow has counted what is tried out now.
func (c *counting) follow(p repository.Policies) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.Trying() {
		delete(c.trials, p.Service)
		return
	}
	candidate := editionOf(*p.Candidate)
	if t := c.trials[p.Service]; t != nil && t.candidate == candidate {
		return
	}
	if c.trials == nil {
		c.trials = make(map[string]*trial)
	}
	c.trials[p.Service] = &trial{candidate, editionOf(p.Set), make(map[string]*regov1.StoredStratum)}
}

// add counts a report of a client whose policies are those of a service. Calls under another set
// than the two that are compared say nothing about them.
func (c *counting) add(service string, r *regov1.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.trials[service]
	if t == nil {
		return
	}
	var arm func(*regov1.StoredStratum) *regov1.ArmCounts
	switch (edition{r.GetVersion(), r.GetEpoch(), r.GetRevision()}) {
	case t.candidate:
		arm = (*regov1.StoredStratum).GetCanary
	case t.current:
		arm = (*regov1.StoredStratum).GetRest
	default:
		return
	}
	for _, m := range r.GetMethods() {
		s := t.strata[m.GetMethod()]
		if s == nil {
			method := m.GetMethod()
			if len(t.strata) >= repository.MaxStrata {
				method = ""
			}
			if s = t.strata[method]; s == nil {
				s = &regov1.StoredStratum{Method: method, Canary: &regov1.ArmCounts{}, Rest: &regov1.ArmCounts{}}
				t.strata[method] = s
			}
		}
		to := arm(s)
		to.Extra += int64(m.GetRetries() + m.GetHedges())
		for _, e := range m.GetEnds() {
			to.Calls += int64(e.GetCalls())
			if failed(e) {
				to.Failed += int64(e.GetCalls())
			}
		}
	}
}

// failed reports whether calls failed as their callers saw it.
func failed(e *regov1.EndCount) bool {
	return e.GetCode() != regov1.Code_OK && e.GetReason() != "caller-cancelled"
}

// counts returns what was heard, by method.
func (c *counting) counts(service string, candidate uint64) []*regov1.StoredStratum {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.trials[service]
	if t == nil || t.candidate.revision != candidate {
		return nil
	}
	list := make([]*regov1.StoredStratum, 0, len(t.strata))
	for _, method := range slices.Sorted(maps.Keys(t.strata)) {
		s := t.strata[method]
		list = append(list, &regov1.StoredStratum{Method: method, Canary: cloneCounts(s.GetCanary()), Rest: cloneCounts(s.GetRest())})
	}
	return list
}

func cloneCounts(c *regov1.ArmCounts) *regov1.ArmCounts {
	return &regov1.ArmCounts{Calls: c.GetCalls(), Failed: c.GetFailed(), Extra: c.GetExtra()}
}

// underway returns the services that try something out, with its revision.
func (c *counting) underway() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]uint64, len(c.trials))
	for service, t := range c.trials {
		all[service] = t.candidate.revision
	}
	return all
}

// judgeEvery is how often a replica tells of what it has heard, and looks whether that decides.
const judgeEvery = 2 * time.Second

// judge tells the repository what this replica has heard of each trial, and has it decide.
func (r *Replica) judge(ctx context.Context) {
	for {
		wait := time.NewTimer(spread(judgeEvery))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
		for service, candidate := range r.counting.underway() {
			r.look(ctx, service, candidate)
		}
	}
}

func (r *Replica) look(ctx context.Context, service string, candidate uint64) {
	ctx, cancel := context.WithTimeout(ctx, 3*judgeEvery)
	defer cancel()
	heard := r.trialClients(service)
	heard.Strata, heard.ReportEvery = r.counting.counts(service, candidate), r.config.asks()
	after, decided, err := r.repo.Judge(ctx, service, r.name, candidate, heard)
	switch {
	case errors.Is(err, repository.ErrConflict), errors.Is(err, repository.ErrNotFound): // another replica was faster
	case err != nil:
		r.log.Warn("rego: a rollout cannot be judged now", "service", service, "error", err)
	case decided:
		ro := after.Rollout
		r.log.Info("rego: a rollout has gone on", "service", service, "version", ro.GetCandidate().GetVersion(), "revision", ro.GetCandidate().GetRevision(),
			"state", ro.GetState().String(), "share", ro.GetShare(), "reason", ro.GetReason())
		if r.config.onDecision != nil {
			r.config.onDecision(after)
		}
	}
}

// trialClients counts the clients of this replica that a trial is about.
func (r *Replica) trialClients(service string) *regov1.StoredCounts {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := new(regov1.StoredCounts)
	for c := range r.clients {
		if r.ownerLocked(c.node.GetService()) != service {
			continue
		}
		m.Clients++
		if c.canary {
			m.CanaryClients++
			if c.refused {
				m.Refusing++
			}
		}
	}
	return m
}

// ownerLocked returns whose policies the clients of a service get: its own, or those of "".
func (s *Server) ownerLocked(service string) string {
	if _, own := s.scopes[service]; own {
		return service
	}
	return ""
}

// heard takes what a client has told.
func (r *Replica) heard(c *client, m *regov1.Report) {
	r.mu.Lock()
	owner := r.ownerLocked(c.node.GetService())
	r.mu.Unlock()
	r.counting.add(owner, m)
	r.traffic.add(c, m, time.Now())
}
