package controlplane

import (
	"context"
	"time"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/repository"
)

// outlet is where the policies of a service are, if that is not the repository: in a file.
type outlet struct {
	store  *policy.Store
	name   string
	seen   *policy.Table // of the store, which was taken in
	failed *policy.Table // that could not be, which was said
}

// takeIn takes what an outlet has into the repository, and reports whether that is done. What was put
// there from the repository is in its history, and nothing new.
func (r *Replica) takeIn(ctx context.Context, service string, from *outlet) bool {
	t := from.store.Current()
	if t == from.seen || from.store.Status().Source == "" {
		return true
	}
	_, err := r.repo.TakeIn(ctx, repository.Found{
		By: repository.By{Author: from.name, Message: "found there"}, Service: service, Set: t.Set(),
	})
	if err == nil {
		from.seen = t
		return true
	}
	if ctx.Err() == nil && t != from.failed {
		from.failed = t
		r.log.Error("rego: policies cannot be taken into the repository, which is tried again", "service", service, "error", err)
	}
	return false
}

// takeInAgain is the wait before what could not be taken in is tried again.
const takeInAgain = 5 * time.Second

// takeInAll goes on taking in what an outlet gets.
func (r *Replica) takeInAll(ctx context.Context, service string, from *outlet) {
	for {
		changed := from.store.Changed()
		var again <-chan time.Time
		if !r.takeIn(ctx, service, from) {
			again = time.After(takeInAgain)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}
