package repository

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/rego-go/rego/policy"
)

// Changes is what a watch reports about policies.
type Changes struct {
	// Policies of services that have changed: all of them first, and after the storage was
	// lost.
	Policies []Policies
	// All says that services which are not in Policies have no policies that can be read.
	All bool
	// Lost says why the storage is out of reach. Everything else is empty then.
	Lost error
}

// backoff is the wait before what could not be read is read again.
var backoff = policy.Backoff{Initial: 200 * time.Millisecond, Multiplier: 2, Max: 5 * time.Second, Jitter: policy.JitterEqual}

// Watch yields the policies of all services and then each change, until ctx is done. If
// changes come faster than they are taken, some are left out, but never the newest. A
// service with damaged entries is left out, and logged: its clients keep what they have.
func (r *Repository) Watch(ctx context.Context, log *slog.Logger) iter.Seq[Changes] {
	return func(yield func(Changes) bool) {
		for u := range r.storage.Watch(ctx, heads) {
			c := Changes{All: u.Reset, Lost: u.Lost}
			for _, e := range u.Put {
				if p, ok := r.read(ctx, serviceOf(e.Key), e, log); ok {
					c.Policies = append(c.Policies, p)
				} else if ctx.Err() != nil {
					return
				}
			}
			if !yield(c) {
				return
			}
		}
	}
}

// read loads what a head says, again and again while the storage does not answer.
func (r *Repository) read(ctx context.Context, service string, e Entry, log *slog.Logger) (Policies, bool) {
	for tries := 0; ; tries++ {
		within, cancel := context.WithTimeout(ctx, readTimeout)
		p, err := r.load(within, service, e)
		cancel()
		switch {
		case err == nil:
			return p, true
		case ctx.Err() != nil:
			return Policies{}, false
		case errors.Is(err, ErrDamaged):
			log.Error("rego: policies are left out", "service", service, "error", err)
			return Policies{}, false
		case tries == 0:
			log.Warn("rego: policies cannot be read yet", "service", service, "error", err)
		}
		again := time.NewTimer(backoff.Delay(tries, nil))
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return Policies{}, false
		}
	}
}

// Follower keeps a store up to date with the policies of a service.
type Follower struct {
	stop context.CancelFunc
	done chan struct{}
}

// Follow keeps st up to date with what is in force for service, until the Follower is
// closed. If the service has no policies of its own, these are the policies of all others.
// name is the name of the source in the status of the store. st never gets a set that is
// tried out, because this program is not among the clients that are compared. A nil log
// means slog.Default.
func (r *Repository) Follow(service, name string, st *policy.Store, log *slog.Logger) *Follower {
	if log == nil {
		log = slog.Default()
	}
	ctx, stop := context.WithCancel(context.Background())
	f := &Follower{stop, make(chan struct{})}
	source := st.Source(name)
	go func() {
		defer close(f.done)
		own := false // the service has policies of its own
		for c := range r.Watch(ctx, log) {
			if c.Lost != nil {
				source.Lost(c.Lost)
				log.Warn("rego: the storage of policies is out of reach, policies stay as they are", "error", c.Lost)
				continue
			}
			var set *policy.Set
			for _, p := range c.Policies {
				if p.Service == service || p.Service == "" && !own && set == nil {
					set = &p.Set
					own = own || p.Service == service
				}
			}
			if set == nil {
				continue
			}
			if err := source.Update(*set); err != nil {
				log.Error("rego: policies are refused", "version", set.Version, "revision", set.Revision, "error", strings.TrimSpace(err.Error()))
			} else {
				log.Info("rego: policies are in force", "version", set.Version, "revision", set.Revision)
			}
		}
	}()
	return f
}

// Close ends it and returns when it has ended. The store keeps what it has.
func (f *Follower) Close() error {
	f.stop()
	<-f.done
	return nil
}
