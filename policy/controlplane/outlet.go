package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/repository"
)

// outlet is where the policies of a service are, if that is not the repository: in a file.
type outlet struct {
	store *policy.Store
	name  string
	put   func(policy.Set) error
	due   chan policy.Set // has room for one

	// Only who keeps it the same as the repository has to do with the rest.
	seen  *policy.Table // of the store, when it was last looked at
	last  []policy.Set  // that were put there, the newest last
	known uint64        // the newest revision of the repository that it has, or is about to get
}

// handOver gives the outlet a set that is to be put there, in the place of one that has not been
// yet.
func (o *outlet) handOver(s policy.Set) {
	select {
	case <-o.due:
	default:
	}
	o.due <- s // there is room: nobody else puts something in
}

// takeIn takes what an outlet has into the repository, if that is another set than was known. known is
// the newest revision of the repository that the outlet has, or is about to get: a set that was put
// meanwhile is not undone by what was there before it.
func (r *Replica) takeIn(ctx context.Context, service string, from *outlet) {
	t := from.store.Current()
	if t == from.seen || from.store.Status().Source == "" {
		return
	}
	from.seen = t
	if slices.ContainsFunc(from.last, func(s policy.Set) bool { return same(s, t.Set()) }) {
		return // it is what was put there, or was a moment ago
	}
	after, err := r.repo.Put(ctx, repository.Put{
		By: repository.By{Author: from.name, Message: "it was changed there"}, Service: service, Set: t.Set(), Base: from.known, KeepRevision: true,
	})
	switch {
	case err == nil:
		from.known = after.Set.Revision
	case ctx.Err() == nil && !errors.Is(err, repository.ErrConflict): // what was put meanwhile comes here
		r.log.Error("rego: policies cannot be taken into the repository", "service", service, "error", err)
	}
}

// keepSame keeps an outlet and the repository the same: what is new in the store goes into the
// repository, and what was put there, promoted or taken back goes to where the store has its sets
// from.
func (r *Replica) keepSame(ctx context.Context, service string, from *outlet) {
	var again <-chan time.Time
	var due *policy.Set
	for {
		changed := from.store.Changed()
		r.takeIn(ctx, service, from)
		if due != nil && again == nil {
			from.last = append(from.last[max(len(from.last)-lastPut, 0):], *due)
			if same(*due, from.store.Current().Set()) {
				due = nil
			} else if err := from.put(*due); err != nil {
				r.log.Error("rego: policies cannot be written", "service", service, "to", from.name, "error", err)
				again = time.After(retryOutlet)
			} else {
				due = nil
			}
		}
		select {
		case <-changed:
		case s := <-from.due:
			if s.Revision != from.known || !same(s, from.store.Current().Set()) {
				due, again, from.known = &s, nil, s.Revision
			}
		case <-again:
			again = nil
		case <-ctx.Done():
			return
		}
	}
}

func same(a, b policy.Set) bool {
	encode := proto.MarshalOptions{Deterministic: true}
	x, _ := encode.Marshal(a.Proto())
	y, _ := encode.Marshal(b.Proto())
	return bytes.Equal(x, y)
}

// keyOf is what the share of the clients is taken by that try a set out.
func keyOf(s *policy.Set) string {
	if s.Version != "" {
		return s.Version
	}
	return fmt.Sprint(s.Revision)
}

// lastPut is how many sets that were put are told from what somebody else has changed, besides the
// newest.
const lastPut = 20

// retryOutlet is the wait before what could not be put is put again.
const retryOutlet = 5 * time.Second
