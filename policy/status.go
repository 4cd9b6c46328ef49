package policy

import "time"

// State is how the set in force stands to what its source has.
type State uint8

const (
	// StateInitial, the zero value: no source has spoken. In force is what NewStore
	// was given.
	StateInitial State = iota
	// StateCurrent: what is in force is the newest that the source has.
	StateCurrent
	// StateStale: what is in force is the last known good, from a snapshot or from a
	// source that is out of reach.
	StateStale
	// StateRefused: the newest that the source has was refused, and what was in force
	// before is.
	StateRefused
)

var stateNames = [...]string{"initial", "current", "stale", "refused"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "invalid"
}

// MarshalText returns the words of String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Status is what is known of the set in force.
type Status struct {
	// Version, Epoch and Revision are those of the set in force.
	Version  string
	Epoch    uint64
	Revision uint64
	// Source is the name of the source that it is from: "snapshot" if it was read
	// from there, and empty for what NewStore was given.
	Source string
	// Accepted is when it was put in force, by an earlier process if it is from a
	// snapshot.
	Accepted time.Time
	// Confirmed is when it was last known to be the newest that the source has; zero
	// if it never was.
	Confirmed time.Time
	// Refusal is the last set that was refused since; nil if none was.
	Refusal *Refusal
	// Refusals is how many sets were refused since the store was made.
	Refusals int64
	// Lost says why the source is out of reach; nil while it is not.
	Lost error
	// Since is when the store was first given a source; zero if it has none.
	Since time.Time
	// Warnings tell what of the set in force has no effect in this program, or not the one
	// that its author may think. See [Store.Review].
	Warnings Faults
	// SnapshotErr says why the snapshot could not be read or written; nil if it
	// could, or none is kept. See [Snapshot].
	SnapshotErr error

	known   bool // it is from a source, or a snapshot
	refused bool // the source's newest was
	kept    bool // it is from a snapshot
}

// Refusal is a set that was not taken.
type Refusal struct {
	// Source that offered it.
	Source string
	// Version, Epoch and Revision of the set, as far as they could be read.
	Version  string
	Epoch    uint64
	Revision uint64
	// Time of the refusal.
	Time time.Time
	// Err says why: a [Faults] if the set itself is at fault.
	Err error
}

// State sums the status up.
func (s Status) State() State {
	switch {
	case s.Lost != nil:
		return StateStale
	case s.refused:
		return StateRefused
	case s.kept:
		return StateStale
	case s.known:
		return StateCurrent
	}
	return StateInitial
}

// Age is how long the set in force has not been known to be the newest: zero while
// it is. If it never was, since a source has never been reached or has had nothing that could
// be taken, it counts from Since. Without any source it is zero. It is no reason to drop the
// set.
func (s Status) Age(now time.Time) time.Duration {
	from := s.Confirmed
	if from.IsZero() {
		from = s.Since
	}
	if s.State() == StateCurrent || from.IsZero() {
		return 0
	}
	return max(now.Sub(from), 0)
}

func describe(s *Status, t *Table) {
	s.Version, s.Epoch, s.Revision = t.set.Version, t.set.Epoch, t.set.Revision
}

// confirm notes that until now the set in force was the newest, if it was.
func confirm(s *Status, now time.Time) {
	if s.State() == StateCurrent {
		s.Confirmed = now
	}
}

func newRefusal(source string, set Set, now time.Time, err error) *Refusal {
	return &Refusal{Source: source, Version: set.Version, Epoch: set.Epoch, Revision: set.Revision, Time: now, Err: err}
}

// Status returns what is known of the set in force.
func (st *Store) Status() Status {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.status
}

// Changed returns a channel that is closed when what Status returns changes next, but
// for Confirmed alone. Take it before looking, so that no change is missed:
//
//	for {
//		changed := store.Changed()
//		look(store.Current(), store.Status())
//		<-changed
//	}
//
// Whoever looks late sees the newest, and holds up nobody.
func (st *Store) Changed() <-chan struct{} {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.changed == nil {
		st.changed = make(chan struct{})
	}
	return st.changed
}

func (st *Store) notifyLocked() {
	if st.changed != nil {
		close(st.changed)
		st.changed = nil
	}
}
