package policy

import (
	"sync"
	"sync/atomic"
)

// Store holds the set in force and takes new ones while calls run. A set is
// taken whole or not at all: one that has any fault is refused and the last good
// one stays. The zero Store holds no rules. Safe for concurrent use.
type Store struct {
	current atomic.Pointer[Table]

	mu     sync.Mutex // held while a set is checked and taken
	guards []func(*Table) error
}

// NewStore returns a store that holds s, or the faults of s.
func NewStore(s Set) (*Store, error) {
	st := new(Store)
	if err := st.Update(s); err != nil {
		return nil, err
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

// Update puts s in force for every call that starts from now on. If s has faults
// it changes nothing and returns them all.
func (st *Store) Update(s Set) error {
	t, err := s.Compile()
	if err != nil {
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, g := range st.guards {
		if err := g(t); err != nil {
			return err
		}
	}
	st.current.Store(t)
	return nil
}

// Guard adds a check that every set must pass from now on, and returns its error
// for the set in force. An interceptor guards its store so that a set which
// names a budget or classifier it does not have is refused, instead of failing
// calls. A guard that refuses the set in force is not added. check is called
// while the store is locked, so it must not call Update or Guard.
func (st *Store) Guard(check func(*Table) error) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if err := check(st.Current()); err != nil {
		return err
	}
	st.guards = append(st.guards, check)
	return nil
}
