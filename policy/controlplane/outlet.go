package controlplane

import (
	"bytes"
	"context"
	"fmt"
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

// takeIn keeps an outlet and the repository the same: what is new in the store goes into the
// repository, and what was put there, promoted or taken back goes to where the store has its sets
// from.
func (r *Replica) takeIn(ctx context.Context, service string, from *outlet) {
	var seen *policy.Table
	var again <-chan time.Time
	var due *policy.Set
	for {
		changed := from.store.Changed()
		if t := from.store.Current(); t != seen && from.store.Status().Source != "" {
			seen = t
			_, err := r.repo.Put(ctx, repository.Put{
				By: repository.By{Author: from.name, Message: "it was changed there"}, Service: service, Set: t.Set(), Overwrite: true, KeepRevision: true,
			})
			if err != nil && ctx.Err() == nil {
				r.log.Error("rego: policies cannot be taken into the repository", "service", service, "error", err)
			}
		}
		if due != nil && again == nil {
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
			due, again = &s, nil
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

// retryOutlet is the wait before what could not be put is put again.
const retryOutlet = 5 * time.Second
