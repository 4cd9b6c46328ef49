package policy

import "time"

// State compares the set in force with what its source has.
type State uint8

const (
	// StateInitial, the zero value: no source has reported. What NewStore was given is in
	// force.
	StateInitial State = iota
	// StateCurrent: the set in force is the newest that the source has.
	StateCurrent
	// StateStale: the last good set is in force, from a snapshot or from a source that is
	// out of reach.
	StateStale
	// StateRefused: the newest set of the source was refused, and the set before it is in
	// force.
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

// Status says what is known about the set in force.
type Status struct {
	// Version, Epoch and Revision are those of the set in force.
	Version  string
	Epoch    uint64
	Revision uint64
	// Source is the name of the source of the set: "snapshot" if it was read from there, and
	// empty for what NewStore was given.
	Source string
	// Accepted is when the set was put in force, by an earlier process if it is from a
	// snapshot.
	Accepted time.Time
	// Confirmed is when the set was last known to be the newest that the source has; zero if
	// it never was.
	Confirmed time.Time
	// Refusal is the last set that was refused since the set in force was accepted; nil if
	// none was.
	Refusal *Refusal
	// Refusals is how many sets were refused since the store was made.
	Refusals int64
	// Lost says why the source is out of reach; nil while it is not.
	Lost error
	// Since is when the store was first given a source; zero if it has none.
	Since time.Time
	// Warnings say which parts of the set in force have no effect in this program, or
	// perhaps another effect than their author thinks. See [Store.Review].
	Warnings Faults
	// SnapshotErr says why the snapshot could not be read or written. It is nil if it could,
	// or if there is no snapshot. See [Snapshot].
	SnapshotErr error

	known   bool // it is from a source, or a snapshot
	refused bool // the source's newest was
	kept    bool // it is from a snapshot
}

// Refusal is a set that was refused.
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

// Age is how long the set in force has not been known to be the newest: zero while it is. If
// it never was, because the source was never reached or had nothing that could be taken, it
// counts from Since. Without any source it is zero. An old set is no reason to drop the set.
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

// Status returns what is known about the set in force.
func (st *Store) Status() Status {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.status
}

// Changed returns a channel that is closed when the result of Status changes next. A change
// of Confirmed alone does not count. Take the channel before you look, so that you miss no
// change:
//
//	for {
//		changed := store.Changed()
//		look(store.Current(), store.Status())
//		<-changed
//	}
//
// If you look late, you see the newest state. You hold up nobody.
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
