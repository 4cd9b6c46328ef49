package policy

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Store holds the set in force and takes new ones while calls run. A set is
// taken whole or not at all: one that has any fault is refused and the last good
// one stays, however old it is. The zero Store holds no rules. Safe for concurrent
// use.
type Store struct {
	current atomic.Pointer[Table]

	mu       sync.Mutex // held while a set is checked and taken
	guards   []func(*Table) error
	reviews  []func(*Table) Faults
	initial  *Table // what NewStore was given; nil if there is none
	status   Status
	origin   string        // the source that the set in force is from; empty for the initial one
	changed  chan struct{} // closed when the status changes; nil if nobody waits
	snapshot *snapshot     // nil if none is kept
}

// StoreOption configures [NewStore].
type StoreOption interface{ open(*Store) }

// NewStore returns a store that holds s, or the faults of s. What s says is in force
// until a source has something else, or a [Snapshot] does.
func NewStore(s Set, opts ...StoreOption) (*Store, error) {
	t, err := s.Compile()
	if err != nil {
		return nil, err
	}
	st := &Store{initial: t}
	describe(&st.status, t)
	st.current.Store(t)
	for _, o := range opts {
		if o != nil {
			o.open(st)
		}
	}
	return st, nil
}

var empty = &Table{}

// Current returns the table in force; never nil. It costs one atomic load. A
// call takes it once and keeps it to its end.
func (st *Store) Current() *Table {
	if t := st.current.Load(); t != nil {
		return t
	}
	return empty
}

// Update puts s in force for every call that starts from now on, on behalf of the
// program itself: sources have a [Source]. If s has faults, a guard refuses it or its
// revision does not follow that in force, it changes nothing and returns why.
func (st *Store) Update(s Set) error { return st.Source("code").Update(s) }

// Guard adds a check that every set must pass from now on, and returns its error
// for what [NewStore] was given. A set in force that a source has sent, and that
// does not pass, is refused as if it came now: what NewStore was given takes its
// place. So a guard fails only for what is in code. An interceptor guards its store
// so that a set which names a budget, classifier or trigger it does not have is refused,
// instead of failing calls; [Limits] is for guards of one's own. A guard that returns
// an error is not added. check is called while the store is locked, so it must not
// call methods of the store but Current.
func (st *Store) Guard(check func(*Table) error) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	initial := st.initial
	if initial == nil {
		initial = empty
	}
	if err := check(initial); err != nil {
		return err
	}
	st.guards = append(st.guards, check)
	if t := st.Current(); t != initial {
		if err := check(t); err != nil {
			refusal := newRefusal(st.status.Source, t.set, time.Now(), err)
			st.status = Status{Since: st.status.Since, Refusal: refusal, Refusals: st.status.Refusals + 1, SnapshotErr: st.status.SnapshotErr, refused: true}
			describe(&st.status, initial)
			st.origin = ""
			st.status.Warnings = st.reviewLocked(initial)
			st.current.Store(initial)
			st.notifyLocked()
		}
	}
	return nil
}

// Review adds a look at every set that is in force from now on, the one that is there included.
// What look says of it is in [Status.Warnings], and in what sources log and report: rules that have
// no effect in this program, or may be misspelt. An interceptor reviews its store. look is
// called while the store is locked, so it must not call methods of the store but Current.
func (st *Store) Review(look func(*Table) Faults) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.reviews = append(st.reviews, look)
	if found := st.reviewLocked(st.Current()); len(found) != len(st.status.Warnings) {
		st.status.Warnings = found
		st.notifyLocked()
	}
}

// maxWarnings is how many are kept of a set.
const maxWarnings = 100

func (st *Store) reviewLocked(t *Table) (found Faults) {
	for _, look := range st.reviews {
		for _, f := range look(t) {
			switch {
			case slices.Contains(found, f): // of two interceptors
			case len(found) < maxWarnings:
				found = append(found, f)
			case len(found) == maxWarnings:
				return append(found, Fault{Text: "and more"})
			}
		}
	}
	return found
}

// Source is how a source of sets reports to a store. A store is meant to have one
// source at a time: of several, whoever speaks last decides.
type Source struct {
	store *Store
	name  string
}

// Source returns what a source reports to st with. name is shown in [Status], and tells sources
// apart: revisions are compared within one.
func (st *Store) Source(name string) *Source {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.status.Since.IsZero() {
		st.status.Since = time.Now()
	}
	return &Source{st, name}
}

// Update offers the set that the source has now. It returns why the set is refused,
// and the store keeps what it has. A set that is in force already is confirmed.
func (s *Source) Update(set Set) error {
	t, err := set.Compile()
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if err == nil {
		err = s.store.admissibleLocked(s.name, t)
	}
	if err != nil {
		s.refuseLocked(set, err)
		return err
	}
	s.takeLocked(t)
	return nil
}

// Refuse reports that the source has something that could not even be read as a set.
// version may be empty.
func (s *Source) Refuse(version string, err error) {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.refuseLocked(Set{Version: version}, err)
}

// Lost reports that the source is out of reach: what is in force may be out of date.
// The next Update or Refuse says that it is back.
func (s *Source) Lost(err error) {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	st := &s.store.status
	known := st.Lost != nil && st.Lost.Error() == err.Error()
	confirm(st, time.Now())
	st.Lost = err
	if !known {
		s.store.notifyLocked()
	}
}

// admissibleLocked returns why a valid set may not take the place of the one in force.
func (st *Store) admissibleLocked(source string, t *Table) error {
	if source == st.origin {
		if err := follows(st.Current().set, t.set); err != nil {
			return err
		}
	}
	for _, g := range st.guards {
		if err := g(t); err != nil {
			return err
		}
	}
	return nil
}

// follows returns why a set may not come after another one of the same source.
func follows(have, next Set) error {
	switch {
	case next.Epoch > have.Epoch:
	case next.Epoch < have.Epoch:
		return Faults{{Path: "epoch", Text: fmt.Sprintf("must not be below %d, which is in force, got %d", have.Epoch, next.Epoch)}}
	case next.Revision == 0 && have.Revision > 0:
		return Faults{{Path: "revision", Text: fmt.Sprintf("must be there, and above %d, which is in force", have.Revision)}}
	case next.Revision < have.Revision:
		return Faults{{Path: "revision", Text: fmt.Sprintf("must not be below %d, which is in force, got %d (a higher epoch begins anew)", have.Revision, next.Revision)}}
	case next.Revision == have.Revision && next.Revision > 0 && !reflect.DeepEqual(have, next):
		return Faults{{Path: "revision", Text: fmt.Sprintf("must be above %d, which is in force with another content", have.Revision)}}
	}
	return nil
}

func (s *Source) takeLocked(t *Table) {
	st, now := s.store, time.Now()
	before := st.status
	same := st.current.Load() != nil && reflect.DeepEqual(st.Current().set, t.set)
	next := Status{
		Source: s.name, Accepted: now, Confirmed: now, Since: before.Since, Warnings: before.Warnings,
		Refusals: before.Refusals, SnapshotErr: before.SnapshotErr, known: true,
	}
	describe(&next, t)
	if !same {
		next.Warnings = st.reviewLocked(t)
	}
	if same && before.known {
		next.Accepted = before.Accepted
	}
	st.status, st.origin = next, s.name
	if !same {
		st.current.Store(t)
	}
	if !same || before.State() != StateCurrent || before.Source != s.name {
		st.notifyLocked()
	}
	if !same || before.Source != s.name {
		st.saveLocked(t)
	}
}

func (s *Source) refuseLocked(set Set, err error) {
	st := &s.store.status
	now := time.Now()
	confirm(st, now)
	again := st.State() == StateRefused && st.Refusal.Version == set.Version && st.Refusal.Err.Error() == err.Error()
	st.Refusal = newRefusal(s.name, set, now, err)
	st.Refusals++
	st.Lost, st.refused = nil, true
	if !again {
		s.store.notifyLocked()
	}
}
