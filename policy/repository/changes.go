package repository

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/rollout"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Put is a request to put a set in force.
type Put struct {
	By
	Service string
	// Set to be put. Its revision does not count; its epoch must not be below that in force.
	Set policy.Set
	// Base is the revision in force as far as the author knows; 0 if none is. If another one
	// is in force, or a rollout is under way, the error is [ErrConflict].
	Base uint64
	// Overwrite ignores Base, and ends a rollout that is under way.
	Overwrite bool
	// Plan makes some clients try the set first. Nil means that all clients get it at once.
	Plan *rollout.Plan
	// DryRun checks everything and changes nothing.
	DryRun bool
}

// Put puts a set in force, or starts to try it out, and returns what there is then. A set
// that is already in force is not put again.
func (r *Repository) Put(ctx context.Context, p Put) (Policies, error) {
	t, err := p.Set.Compile()
	if err != nil {
		return Policies{}, err
	}
	if err := cmp.Or(validService(p.Service), p.validate()); err != nil {
		return Policies{}, err
	}
	if p.Plan != nil {
		if err := p.Plan.Validate(); err != nil {
			return Policies{}, fmt.Errorf("%w: rollout: %w", ErrInvalid, err)
		}
	}
	if r.check != nil {
		if err := r.check(p.Service, t); err != nil {
			return Policies{}, err
		}
	}
	return r.change(ctx, p.Service, p.ChangeID, func(have Policies) (*edit, error) {
		if have.Revision == nil && p.Service != "" {
			// Its clients have had what is for all others, and refuse what is lower.
			all, err := r.Get(ctx, "")
			if err != nil && !errors.Is(err, ErrNotFound) {
				return nil, err
			}
			if p.Set.Epoch < all.epoch() {
				return nil, policy.Faults{{Path: "epoch", Text: fmt.Sprintf("must not be below %d, which the clients of the service have, got %d", all.epoch(), p.Set.Epoch)}}
			}
			if have.head == nil {
				have.head = new(regov1.StoredHead)
			}
			have.head.Highest = max(have.head.GetHighest(), all.head.GetHighest())
		}
		return p.edit(have, r.highest(have).Epoch)
	})
}

// edit returns what the change comes to; nil if nothing has to be done. floor is the epoch that
// clients may have.
func (p Put) edit(have Policies, floor uint64) (*edit, error) {
	switch {
	case p.Overwrite:
	case have.revision() != p.Base && p.Base == 0:
		return nil, fmt.Errorf("%w: revision %d is in force, and the change does not say what it is based on", ErrConflict, have.revision())
	case have.revision() != p.Base && have.Revision == nil:
		return nil, fmt.Errorf("%w: nothing is in force, and the change is based on %d", ErrConflict, p.Base)
	case have.revision() != p.Base:
		return nil, fmt.Errorf("%w: revision %d is in force, and the change is based on %d", ErrConflict, have.revision(), p.Base)
	case have.Trying():
		return nil, fmt.Errorf("%w: revision %d is being tried out", ErrConflict, have.Candidate.Revision)
	}
	if p.Set.Epoch < floor {
		return nil, policy.Faults{{Path: "epoch", Text: fmt.Sprintf("must not be below %d, which is in force, got %d", floor, p.Set.Epoch)}}
	}
	if have.Revision != nil && !have.Trying() && sameContent(have.Set, p.Set) {
		return nil, nil
	}
	if p.Plan != nil && have.Revision == nil {
		return nil, fmt.Errorf("%w: there is no set in force that it could be compared with: put it without a rollout", ErrInvalid)
	}
	if p.DryRun {
		return nil, nil
	}
	now := timestamppb.Now()
	reason := fmt.Sprintf("another set was put by %s", p.Author)
	if have.Trying() && p.Plan != nil {
		// Who has tried the one set may not be among those who try the other, and has to come back
		// before: to a revision that is above the one and below the other.
		e := have.withdraw(&regov1.Revision{Time: now, Author: p.Author, Message: p.Message}, regov1.RolloutState_ROLLOUT_STATE_ENDED, reason)
		e.again = true
		return e, nil
	}
	e := have.edit()
	made := &regov1.Revision{
		Time: now, Author: p.Author, Message: p.Message, ChangeId: p.ChangeID, Base: have.revision(), Canary: p.Plan != nil,
	}
	e.add(p.Set, made)
	if have.Trying() {
		e.end(regov1.RolloutState_ROLLOUT_STATE_ENDED, reason, now)
	}
	if p.Plan == nil {
		e.enforce()
		return e, nil
	}
	plan := p.Plan.WithDefaults()
	e.head.Candidate = e.head.Last
	e.head.Rollout = &regov1.Rollout{
		Candidate: made, Plan: planProto(plan), State: regov1.RolloutState_ROLLOUT_STATE_BAKING,
		Share: plan.Steps[0], StepStarted: now, Canary: &regov1.ArmCounts{}, Rest: &regov1.ArmCounts{},
		Reason: "it has just begun",
	}
	return e, nil
}

// RollBack is a request to take a change back.
type RollBack struct {
	By
	Service string
	// Base is the revision to take back: what is tried out or, if nothing is, what is in
	// force. 0 means any. If it is another one, the error is [ErrConflict].
	Base uint64
	// To is the revision whose set is put in force again. 0 means the one that was in force
	// before. It must be 0 while a set is tried out.
	To uint64
}

// RollBack ends the rollout that is under way. If there is none, it puts an earlier set in
// force again. In both cases the old content gets a new revision, so that clients go back to
// it.
func (r *Repository) RollBack(ctx context.Context, b RollBack) (Policies, error) {
	if err := cmp.Or(validService(b.Service), b.validate()); err != nil {
		return Policies{}, err
	}
	return r.change(ctx, b.Service, b.ChangeID, func(have Policies) (*edit, error) {
		if have.Revision == nil {
			return nil, fmt.Errorf("%w: %s has no policies", ErrNotFound, whose(b.Service))
		}
		newest := have.revision()
		if have.Trying() {
			newest = have.Candidate.Revision
		}
		if b.Base != 0 && b.Base != newest {
			return nil, fmt.Errorf("%w: revision %d is the newest, and %d was to be taken back", ErrConflict, newest, b.Base)
		}
		made := &regov1.Revision{Time: timestamppb.Now(), Author: b.Author, Message: b.Message, ChangeId: b.ChangeID, Base: newest}
		if have.Trying() {
			if b.To != 0 {
				return nil, fmt.Errorf("%w: revision %d is being tried out: end that first", ErrInvalid, newest)
			}
			return have.withdraw(made, regov1.RolloutState_ROLLOUT_STATE_ENDED, because("ended", b.By)), nil
		}
		to := cmp.Or(b.To, have.Revision.GetBase())
		old, was, err := r.At(ctx, b.Service, to)
		switch {
		case to == 0 && (errors.Is(err, ErrNotFound) || have.revision() == 0): // one of a file may be there that has no revision
			return nil, fmt.Errorf("%w: there was no set before revision %d", ErrNotFound, newest)
		case err != nil:
			return nil, err
		}
		if r.check != nil { // limits may have changed since
			t, err := old.Compile()
			if err == nil {
				err = r.check(b.Service, t)
			}
			if err != nil {
				return nil, err
			}
		}
		old.Epoch = have.epoch()
		made.Restores, made.Base = to, was.GetBase()
		e := have.edit()
		e.add(old, made)
		e.enforce()
		return e, nil
	})
}

// withdraw returns the edit that ends a rollout and gives all clients what is in force again.
func (p Policies) withdraw(made *regov1.Revision, to regov1.RolloutState, reason string) *edit {
	e := p.edit()
	back := p.Set
	back.Epoch = p.epoch()
	made.Restores, made.Base = p.revision(), p.Revision.GetBase()
	e.add(back, made)
	e.enforce()
	e.end(to, reason, made.GetTime())
	return e
}

// because says who has done something, and why.
func because(done string, b By) string {
	if b.Message == "" {
		return fmt.Sprintf("%s by %s", done, b.Author)
	}
	return fmt.Sprintf("%s by %s: %s", done, b.Author, b.Message)
}

// Promotion puts the set that is tried out in force for all clients.
type Promotion struct {
	By
	Service string
	// Candidate is the revision that is tried out. 0 means any. If another one is tried out,
	// the error is [ErrConflict].
	Candidate uint64
}

// Promote puts the set that is tried out in force for all clients now.
func (r *Repository) Promote(ctx context.Context, p Promotion) (Policies, error) {
	if err := cmp.Or(validService(p.Service), p.validate()); err != nil {
		return Policies{}, err
	}
	return r.change(ctx, p.Service, p.ChangeID, func(have Policies) (*edit, error) {
		switch {
		case !have.Trying():
			return nil, fmt.Errorf("%w: no set is being tried out", ErrNotFound)
		case p.Candidate != 0 && p.Candidate != have.Candidate.Revision:
			return nil, fmt.Errorf("%w: revision %d is being tried out, not %d", ErrConflict, have.Candidate.Revision, p.Candidate)
		}
		return have.promote(because("promoted", p.By)), nil
	})
}

// promote returns the edit that puts what is tried out in force for all.
func (p Policies) promote(reason string) *edit {
	e := p.edit()
	e.head.Current, e.head.Candidate, e.inForce = p.head.GetCandidate(), 0, p.Candidate
	e.end(regov1.RolloutState_ROLLOUT_STATE_PROMOTED, reason, timestamppb.Now())
	return e
}
