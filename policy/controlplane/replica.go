package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/repository"
)

// Replica is a [Server] for a repository: it serves the policies of services, also of
// services that get policies later, and sets that are tried out on a share of the clients.
// It keeps nothing of its own that matters. Any number of replicas can serve one shared
// repository, and any of them can die. Each replica judges the rollouts by the reports to
// all replicas, lists the clients of all ([Server.Fleet]), and takes changes
// ([Replica.Admin]).
//
// While the storage of the repository is out of reach, clients keep what they have. New
// clients get what the replica has.
type Replica struct {
	*Server
	name string // of this process: another one of the same name has another
	repo *repository.Repository
	log  *slog.Logger
	stop context.CancelFunc
	done sync.WaitGroup

	ready     chan struct{} // closed when the policies have been read once
	readyOnce sync.Once

	services map[string]*serviceState // only run has to do with it
	counting counting
}

// NewReplica returns a replica that serves repo until it is closed. name is shown to
// operators; two replicas may have the same name. A repository that is not durable has only
// one replica. Clients are asked for reports every 5 s, unless [ReportEvery] says otherwise.
// It takes the options of a server, and also [Guarded], [Outlet], [SourceName], [OnDecision]
// and [LogTo].
func NewReplica(repo *repository.Repository, name string, opts ...ServeOption) (*Replica, error) {
	s := newServer(append([]ServeOption{ReportEvery(5 * time.Second)}, opts...))
	r := &Replica{
		Server: s, name: fmt.Sprintf("%s/%x", name, rand.Uint64()), repo: repo, log: s.config.log,
		ready: make(chan struct{}), services: make(map[string]*serviceState),
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	for service, of := range s.config.outlets {
		r.services[service] = r.newService(service, of.store)
	}
	if r.services[""] == nil {
		main, err := r.newStore()
		if err != nil {
			return nil, err
		}
		r.services[""] = r.newService("", main)
	}
	for service, of := range r.services {
		s.scopes[service] = &scope{main: of.main}
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	s.onReport = r.heard
	if repo.Durable() {
		s.exchange = newExchange(s, name, repo.Storage(), r.log)
		r.done.Go(func() { s.exchange.run(ctx) })
	}
	for service, of := range s.config.outlets {
		r.takeIn(ctx, service, of) // before somebody can put something
	}
	r.done.Go(func() { r.run(ctx) })
	r.done.Go(func() { r.judge(ctx) })
	for service, of := range s.config.outlets {
		r.done.Go(func() { r.takeInAll(ctx, service, of) })
	}
	return r, nil
}

// Close ends what the replica does in addition to serving. Its grpc.Server ends serving.
// Close returns when other replicas have been told.
func (r *Replica) Close() error {
	r.stop()
	r.done.Wait()
	return nil
}

// Ready is closed when the policies have been read once. Until then the replica has nothing
// to send.
func (r *Replica) Ready() <-chan struct{} { return r.ready }

// Store returns what is in force for a service, or with "" for all services without policies
// of their own. It is nil for a service without policies of its own.
func (r *Replica) Store(service string) *policy.Store { return r.stores()[service] }

// Services returns what is in force, by service. "" stands for all services without policies
// of their own.
func (r *Replica) Services() map[string]*policy.Store { return r.stores() }

// serviceState is what a replica has of the policies of a service.
type serviceState struct {
	main   *feed
	source *policy.Source // of main's store; nil if the policies are from an outlet
	trial  *feed          // of the set that is tried out; nil if none is
	trying uint64         // its revision
}

func (r *Replica) newStore() (*policy.Store, error) {
	st := new(policy.Store)
	if g := r.config.guard; g != nil {
		if err := st.Guard(g); err != nil {
			return nil, err
		}
	}
	return st, nil
}

func (r *Replica) newService(service string, st *policy.Store) *serviceState {
	of := &serviceState{main: r.newFeed(st)}
	if r.config.outlets[service] == nil {
		of.source = st.Source(r.config.sourceName)
	}
	return of
}

// run serves what the repository has.
func (r *Replica) run(ctx context.Context) {
	for c := range r.repo.Watch(ctx, r.log) {
		if c.Lost != nil {
			r.log.Warn("rego: the storage of policies is out of reach, policies stay as they are", "error", c.Lost)
			for _, of := range r.services {
				if of.source != nil {
					of.source.Lost(c.Lost)
				}
			}
			continue
		}
		// Those of all others come last: a client that got them, since those of its service were not
		// there yet, would refuse its own if they have a lower revision.
		slices.SortStableFunc(c.Policies, func(a, b repository.Policies) int { return -strings.Compare(a.Service, b.Service) })
		for _, p := range c.Policies {
			r.serve(p)
		}
		if c.All {
			r.readyOnce.Do(func() { close(r.ready) })
		}
	}
}

// serve has the clients of a service get what it has now: what is in force first, so that those
// who tried something out come back to the newest.
func (r *Replica) serve(p repository.Policies) {
	of := r.services[p.Service]
	if of == nil {
		st, err := r.newStore()
		if err != nil { // not for an empty store
			r.log.Error("rego: a service cannot be served", "service", p.Service, "error", err)
			return
		}
		of = r.newService(p.Service, st)
		r.services[p.Service] = of
		if r.config.onService != nil {
			r.config.onService(p.Service, st)
		}
	}
	if p.Revision != nil && of.source != nil {
		if err := of.source.Update(p.Set); err != nil {
			r.log.Error("rego: policies in the storage are refused", "service", p.Service, "version", p.Set.Version, "revision", p.Set.Revision, "error", err)
		}
	}
	now := &scope{main: of.main}
	if p.Trying() {
		r.try(of, p)
		now.trial = of.trial
		now.change = change{key: keyOf(p.Candidate), share: p.Rollout.GetShare()}
	} else {
		of.trial, of.trying = nil, 0
	}
	r.counting.follow(p)
	r.arrange(p.Service, now)
}

// keyOf is what the share of the clients is taken by that try a set out.
func keyOf(s *policy.Set) string {
	if s.Version != "" {
		return s.Version
	}
	return fmt.Sprint(s.Revision)
}

// try makes what serves the set that is tried out.
func (r *Replica) try(of *serviceState, p repository.Policies) {
	if of.trial != nil && of.trying == p.Candidate.Revision {
		return
	}
	st, err := r.newStore()
	if err == nil {
		err = st.Source(r.config.sourceName).Update(*p.Candidate)
	}
	if err != nil {
		r.log.Error("rego: a set that is to be tried out is refused", "service", p.Service, "version", p.Candidate.Version, "revision", p.Candidate.Revision, "error", err)
		of.trial, of.trying = nil, 0
		return
	}
	of.trial, of.trying = r.newFeed(st), p.Candidate.Revision
}
