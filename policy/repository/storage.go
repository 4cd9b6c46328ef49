package repository

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Storage is where the replicas of a control plane keep what they share: entries by key,
// each with the revision at which it was written last. Every commit has a higher revision
// than the one before. [Memory] is a storage of one process. Package policy/etcd has a
// storage for many. Implementations are safe for concurrent use.
type Storage interface {
	// List returns the entries whose keys begin with prefix, by key, all as they were at one
	// revision. No commit that has returned is newer than that revision.
	List(ctx context.Context, prefix string) ([]Entry, error)

	// Commit makes all changes if all conditions hold, and returns its revision. If a
	// condition does not hold, it returns [ErrConflict] and has changed nothing. After any
	// other error it may have made all changes, or none. It is an error to change a key
	// twice, or to put an entry with a lease that has ended. A commit that changes nothing
	// has the revision of the one before.
	Commit(ctx context.Context, conditions []Condition, changes []Change) (uint64, error)

	// Watch yields all entries whose keys begin with prefix, as an Update with Reset, and
	// then each commit that changes some of them, in order, until ctx is done. If it could
	// not follow, it yields another Reset. While it waits for a storage that is out of
	// reach, it yields an Update with Lost, once.
	Watch(ctx context.Context, prefix string) iter.Seq[Update]

	// Lease returns a lease that is kept alive until it is closed. Entries put with it are
	// gone when it is closed, or when this process has not been heard of for ttl.
	Lease(ctx context.Context, ttl time.Duration) (Lease, error)

	// Durable reports whether entries outlive this process, and revisions go on after it.
	Durable() bool
}

// ErrConflict is what [Storage.Commit] returns if a condition does not hold.
var ErrConflict = errors.New("something else is there by now")

// Entry is a key with its value.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64 // at which it was written last; it is never zero
}

// Condition says that the entry of a key was written last at a revision. Zero means that
// there is no entry.
type Condition struct {
	Key      string
	Revision uint64
}

// Change puts an entry, or deletes one.
type Change struct {
	Key    string
	Value  []byte
	Lease  Lease // that the entry ends with; nil if it does not end. It is one of the same storage
	Delete bool  // the entry of Key; no error if there is none
}

// Update is what a watch reports.
type Update struct {
	// Reset says that Put is everything: entries that are not in it are gone.
	Reset bool
	Put   []Entry
	// Deleted are the keys of entries that were deleted, or whose lease has ended.
	Deleted []string
	// Lost says why the storage is out of reach. Everything else is empty then. A Reset follows.
	Lost error
}

// Lease makes entries end with the process.
type Lease interface {
	// Done is closed when the lease has ended, for any reason: the entries are gone, or
	// about to be. A process that is alive then asks for another lease.
	Done() <-chan struct{}
	// Close ends the lease, with its entries. The error says that the storage could not be
	// told; it will notice by itself.
	Close(ctx context.Context) error
}
