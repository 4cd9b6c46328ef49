package policy

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Store holds the set in force and takes new ones while calls run. It takes a whole set, or
// nothing of it: a set with any fault is refused, and the last good one stays, however old
// it is. The zero Store holds no rules. It is safe for concurrent use.
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

// NewStore returns a store that holds s, or the faults of s. s is in force until a source or
// a [Snapshot] has something else.
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

// Current returns the table in force, never nil. It costs one atomic load. A call takes the
// table once and keeps it to its end.
func (st *Store) Current() *Table {
	if t := st.current.Load(); t != nil {
		return t
	}
	return empty
}

// Update puts s in force for every call that starts from now on. It is for the program
// itself; sources have a [Source]. If s has faults, if a guard refuses it, or if its
// revision does not follow the one in force, Update changes nothing and returns why.
func (st *Store) Update(s Set) error { return st.Source("code").Update(s) }

// Guard adds a check that every set must pass from now on. It returns the error of check for
// what NewStore was given; then the guard is not added. If the set in force is from a source
// and does not pass, it is refused as if it came now, and what NewStore was given takes its
// place. So Guard fails only because of what is in code. An interceptor guards its store, so
// that a set which names a budget, classifier or trigger that it does not have is refused
// instead of failing calls. [Limits] is for guards of your own. check is called while the
// store is locked: it must not call methods of the store except Current, or it deadlocks.
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

// Review adds a check of every set that is in force from now on, including the one in force
// now. What look returns is in Status.Warnings, and in what sources log and report: rules
// that have no effect in this program, or may be misspelt. An interceptor reviews its store.
// look is called while the store is locked: it must not call methods of the store except
// Current, or it deadlocks.
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

// Source is what a source of sets reports to. A store should have one source at a time: with
// several, the last one to report decides.
type Source struct {
	store *Store
	name  string
}

// Source returns what a source uses to report to st. name appears in Status. It also tells
// sources apart: revisions are compared only within one name.
func (st *Store) Source(name string) *Source {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.status.Since.IsZero() {
		st.status.Since = time.Now()
	}
	return &Source{st, name}
}

// Update offers the set that the source has now. If the set is refused, it returns why, and
// the store keeps what it has. A set that is already in force is confirmed.
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

// Refuse reports that the source has something that cannot even be read as a set. version
// may be empty.
func (s *Source) Refuse(version string, err error) {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.refuseLocked(Set{Version: version}, err)
}

// Lost reports that the source is out of reach, so what is in force may be out of date. The
// next Update or Refuse says that the source is back.
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
