package repository

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory returns a storage that lives as long as this process, for a control plane of one
// replica and for tests.
func Memory() Storage {
	return &memory{entries: make(map[string]Entry), watches: make(map[*memoryWatch]struct{})}
}

type memory struct {
	mu       sync.Mutex
	revision uint64
	entries  map[string]Entry
	leases   map[string]*memoryLease // of keys
	watches  map[*memoryWatch]struct{}
}

func (m *memory) Durable() bool { return false }

func (m *memory) List(ctx context.Context, prefix string) ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.listLocked(prefix), ctx.Err()
}

func (m *memory) listLocked(prefix string) []Entry {
	var found []Entry
	for _, key := range slices.Sorted(maps.Keys(m.entries)) {
		if strings.HasPrefix(key, prefix) {
			found = append(found, m.entries[key])
		}
	}
	return found
}

func (m *memory) Commit(ctx context.Context, conditions []Condition, changes []Change) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range conditions {
		if m.entries[c.Key].Revision != c.Revision {
			return 0, ErrConflict
		}
	}
	if err := m.checkLocked(changes); err != nil {
		return 0, err
	}
	m.applyLocked(changes)
	return m.revision, nil
}

// checkLocked refuses what a storage of many processes refuses, so that who has tested with this
// one is not surprised.
func (m *memory) checkLocked(changes []Change) error {
	keys := make(map[string]struct{}, len(changes))
	for i, c := range changes {
		if _, ok := keys[c.Key]; ok {
			return fmt.Errorf("repository: changes[%d]: %q is changed twice", i, c.Key)
		}
		keys[c.Key] = struct{}{}
		if c.Lease == nil || c.Delete {
			continue
		}
		l, ok := c.Lease.(*memoryLease)
		if !ok || l.storage != m {
			return fmt.Errorf("repository: changes[%d]: the lease is of another storage", i)
		}
		select {
		case <-l.done: // it is closed under the lock
			return fmt.Errorf("repository: changes[%d]: the lease has ended", i)
		default:
		}
	}
	return nil
}

func (m *memory) applyLocked(changes []Change) {
	revision := m.revision + 1
	var u Update
	for _, c := range changes {
		delete(m.leases, c.Key)
		if c.Delete {
			if _, ok := m.entries[c.Key]; ok {
				delete(m.entries, c.Key)
				u.Deleted = append(u.Deleted, c.Key)
			}
			continue
		}
		e := Entry{c.Key, bytes.Clone(c.Value), revision}
		m.entries[c.Key] = e
		u.Put = append(u.Put, e)
		if l, ok := c.Lease.(*memoryLease); ok {
			if m.leases == nil {
				m.leases = make(map[string]*memoryLease)
			}
			m.leases[c.Key] = l
		}
	}
	if len(u.Put)+len(u.Deleted) == 0 {
		return
	}
	m.revision = revision
	for w := range m.watches {
		w.tell(u)
	}
}

// memoryWatch is a watch and what it has not yielded yet.
type memoryWatch struct {
	prefix string
	due    []Update      // guarded by the storage's mu
	more   chan struct{} // has room for one
}

// tell adds what of an update concerns the watch.
func (w *memoryWatch) tell(u Update) {
	mine := Update{Reset: u.Reset}
	for _, e := range u.Put {
		if strings.HasPrefix(e.Key, w.prefix) {
			mine.Put = append(mine.Put, e)
		}
	}
	for _, key := range u.Deleted {
		if strings.HasPrefix(key, w.prefix) {
			mine.Deleted = append(mine.Deleted, key)
		}
	}
	if !mine.Reset && len(mine.Put) == 0 && len(mine.Deleted) == 0 {
		return
	}
	w.due = append(w.due, mine)
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (m *memory) Watch(ctx context.Context, prefix string) iter.Seq[Update] {
	return func(yield func(Update) bool) {
		w := &memoryWatch{prefix: prefix, more: make(chan struct{}, 1)}
		m.mu.Lock()
		w.tell(Update{Reset: true, Put: m.listLocked(prefix)})
		m.watches[w] = struct{}{}
		m.mu.Unlock()
		defer func() {
			m.mu.Lock()
			delete(m.watches, w)
			m.mu.Unlock()
		}()
		for {
			select {
			case <-w.more:
			case <-ctx.Done():
				return
			}
			m.mu.Lock()
			due := w.due
			w.due = nil
			m.mu.Unlock()
			for _, u := range due {
				if ctx.Err() != nil || !yield(u) {
					return
				}
			}
		}
	}
}

// memoryLease ends when it is closed: a process hears of itself.
type memoryLease struct {
	storage *memory
	done    chan struct{}
	once    sync.Once
}

func (m *memory) Lease(ctx context.Context, _ time.Duration) (Lease, error) {
	return &memoryLease{storage: m, done: make(chan struct{})}, ctx.Err()
}

func (l *memoryLease) Done() <-chan struct{} { return l.done }

func (l *memoryLease) Close(context.Context) error {
	l.once.Do(func() {
		m := l.storage
		m.mu.Lock()
		defer m.mu.Unlock()
		var gone []Change
		for key, of := range m.leases {
			if of == l {
				gone = append(gone, Change{Key: key, Delete: true})
			}
		}
		if len(gone) > 0 {
			m.applyLocked(gone)
		}
		close(l.done)
	})
	return nil
}
