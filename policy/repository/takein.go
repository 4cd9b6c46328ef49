package repository

import (
	"bytes"
	"cmp"
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Found is a set that is in force elsewhere: in a file that somebody has edited.
type Found struct {
	By
	Service string
	Set     policy.Set
}

// TakeIn takes in a set that was found, and returns what there is then. The set keeps its
// revision if clients accept it with that. Otherwise it gets a higher one, and is written
// where it was found. It ends a rollout. If the history has that set with that revision,
// nothing changes. The check of [New] is not asked, because the set is already in force
// where it was found. It is for storages that are not durable.
func (r *Repository) TakeIn(ctx context.Context, f Found) (Policies, error) {
	if _, err := f.Set.Compile(); err != nil {
		return Policies{}, err
	}
	if err := cmp.Or(validService(f.Service), f.validate()); err != nil {
		return Policies{}, err
	}
	return r.change(ctx, f.Service, f.ChangeID, func(have Policies) (*edit, error) {
		if known, err := r.knows(ctx, have, f.Set); known || err != nil {
			return nil, err
		}
		e := have.edit()
		f.Set = e.number(f.Set, r.highest(have))
		now := timestamppb.Now()
		e.add(f.Set, &regov1.Revision{Time: now, Author: f.Author, Message: f.Message, ChangeId: f.ChangeID, Base: have.revision()})
		if have.Trying() {
			e.end(regov1.RolloutState_ROLLOUT_STATE_ENDED, fmt.Sprintf("another set was put by %s", f.Author), now)
		}
		e.enforce()
		return e, nil
	})
}

// knows reports whether a set is in the history with its revision or, if it has none, in force.
func (r *Repository) knows(ctx context.Context, have Policies, s policy.Set) (bool, error) {
	if s.Revision == 0 {
		return have.Revision != nil && have.revision() == 0 && have.Set.Epoch == s.Epoch && sameContent(have.Set, s), nil
	}
	all, err := r.storage.List(ctx, logs+escape(have.Service)+"/")
	if err != nil {
		return false, err
	}
	sum := digest(s)
	for _, e := range all {
		m, err := r.revisionOf(e)
		if err != nil {
			return false, err
		}
		if m.GetEpoch() == s.Epoch && m.GetRevision() == s.Revision && bytes.Equal(m.GetSha256(), sum) {
			return true, nil
		}
	}
	return false, nil
}

// number has a set that is added keep its revision if whoever has the highest one takes it with that.
// It returns the set as it is to be added.
func (e *edit) number(s policy.Set, highest Mark) policy.Set {
	mine := Mark{s.Epoch, s.Revision, digest(s)}
	switch {
	case highest.above(mine):
	case mine.above(highest), mine.Revision == 0, bytes.Equal(mine.SHA256, highest.SHA256):
		e.kept, e.head.Highest = true, s.Revision
		return s
	}
	s.Epoch, e.head.Highest = highest.Epoch, highest.Revision
	return s
}

// Mark is the highest revision that was given to a set. Clients that have it refuse a lower
// revision, and the same revision with other content. They do so also after the server
// starts again and has forgotten what was tried out, or finds another file.
type Mark struct {
	Epoch, Revision uint64
	SHA256          []byte // of the set in its binary form, without epoch and revision
}

func (m Mark) above(o Mark) bool {
	return m.Epoch > o.Epoch || m.Epoch == o.Epoch && m.Revision > o.Revision
}

// highest returns the highest revision that clients may have.
func (r *Repository) highest(have Policies) Mark {
	m := Mark{Epoch: have.epoch(), Revision: have.head.GetHighest()}
	if r.files != nil {
		if marked := r.files.Marked(have.Service); !m.above(marked) {
			return marked
		}
	}
	return m
}
