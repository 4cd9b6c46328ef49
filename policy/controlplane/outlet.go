package controlplane

import (
	"context"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/repository"
)

// outlet is where the policies of a service are, if that is not the repository: in a file.
type outlet struct {
	store *policy.Store
	name  string
	seen  *policy.Table // of the store, when it was last looked at
}

// takeIn takes what an outlet has into the repository. What was put there from the repository is in
// its history, and nothing new.
func (r *Replica) takeIn(ctx context.Context, service string, from *outlet) {
	t := from.store.Current()
	if t == from.seen || from.store.Status().Source == "" {
		return
	}
	from.seen = t
	_, err := r.repo.Put(ctx, repository.Put{
		By: repository.By{Author: from.name, Message: "it was changed there"}, Service: service, Set: t.Set(), KeepRevision: true,
	})
	if err != nil && ctx.Err() == nil {
		r.log.Error("rego: policies cannot be taken into the repository", "service", service, "error", err)
	}
}

// takeInAll goes on taking in what an outlet gets.
func (r *Replica) takeInAll(ctx context.Context, service string, from *outlet) {
	for {
		changed := from.store.Changed()
		r.takeIn(ctx, service, from)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
