package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy/etcd"
	"github.com/rego-go/rego/policy/etcd/etcdtest"
	"github.com/rego-go/rego/policy/repository"
)

// patience is how long a cluster of processes on a busy machine may take for anything.
const patience = 40 * time.Second

// follower is a watch, and what it has told, judged as it comes.
type follower struct {
	name string

	mu      sync.Mutex
	entries map[string]repository.Entry
	seen    uint64
	faults  []string // what it must not have told
	lost    error    // while it is lost
	losses  int
	resets  int
}

// follow watches until the test ends.
func follow(t *testing.T, name string, s *etcd.Storage) *follower {
	t.Helper()
	f := &follower{name: name, entries: make(map[string]repository.Entry)}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		for u := range s.Watch(ctx, "") {
			f.take(u)
		}
	})
	t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	return f
}

func (f *follower) take(u repository.Update) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case u.Lost != nil:
		f.fault(f.lost != nil, "lost twice: %v", u.Lost)
		f.lost = u.Lost
		f.losses++
		return
	case u.Reset:
		f.reset(u)
	default:
		f.fault(f.lost != nil, "an update while it is lost")
		f.commit(u)
	}
	for _, e := range u.Put {
		f.entries[e.Key] = e
		f.seen = max(f.seen, e.Revision)
	}
	for _, key := range u.Deleted {
		delete(f.entries, key)
	}
}

// reset expects a state that is not older. Of entries, those below log/ are never deleted.
func (f *follower) reset(u repository.Update) {
	before := f.entries
	f.lost, f.entries = nil, make(map[string]repository.Entry, len(u.Put))
	f.resets++
	for _, e := range u.Put {
		f.fault(e.Revision < before[e.Key].Revision, "a reset with an older %s", e.Key)
		delete(before, e.Key)
	}
	for key := range before {
		f.fault(strings.HasPrefix(key, "log/"), "a reset without %s", key)
	}
}

// commit expects one commit that is newer than all before.
func (f *follower) commit(u repository.Update) {
	f.fault(len(u.Put)+len(u.Deleted) == 0, "an update of nothing")
	for _, e := range u.Put {
		f.fault(e.Revision <= f.seen, "%s at %d after %d", e.Key, e.Revision, f.seen)
		f.fault(e.Revision != u.Put[0].Revision, "two commits in one update")
	}
	// A writer changes two entries at once, and they are told at once.
	for _, e := range u.Put {
		if strings.HasPrefix(e.Key, "log/") {
			f.fault(len(u.Put) != 2, "half of a commit")
		}
	}
}

func (f *follower) fault(is bool, format string, args ...any) {
	if is {
		f.faults = append(f.faults, fmt.Sprintf(format, args...))
	}
}

func (f *follower) isLost() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost != nil
}

func (f *follower) counts() (losses, resets int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.losses, f.resets
}

func (f *follower) isAt(revision uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost == nil && f.seen >= revision
}

func (f *follower) state() map[string]repository.Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.entries)
}

// attempt is a commit of a writer: the key that only it puts, and what came of it.
type attempt struct {
	key      string
	revision uint64 // 0 unless it was acknowledged
	err      error
}

// load is writers that contend for one entry, until it is stopped.
type load struct {
	stop    context.CancelFunc
	writers sync.WaitGroup

	mu       sync.Mutex
	attempts []attempt
}

func startLoad(t *testing.T, s *etcd.Storage, writers int) *load {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l := &load{stop: stop}
	for n := range writers {
		l.writers.Go(func() { l.write(ctx, s, n) })
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.stop()
	l.writers.Wait()
}

// write makes a commit every 20 ms, or as often as it can. It takes the revision of the
// contended entry from a read before, so that others may be faster.
func (l *load) write(ctx context.Context, s *etcd.Storage, n int) {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		<-pace.C
		key := fmt.Sprintf("log/%d/%06d", n, i)
		revision, err := commitOne(ctx, s, key)
		l.mu.Lock()
		l.attempts = append(l.attempts, attempt{key, revision, err})
		l.mu.Unlock()
	}
}

var errNotRead = errors.New("the contended entry could not be read")

func commitOne(ctx context.Context, s *etcd.Storage, key string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	entries, err := s.List(ctx, "contended")
	if err != nil {
		return 0, errNotRead
	}
	condition := repository.Condition{Key: "contended"}
	if len(entries) > 0 {
		condition.Revision = entries[0].Revision
	}
	return s.Commit(ctx, []repository.Condition{condition, {Key: key}}, []repository.Change{
		{Key: "contended", Value: []byte(key)}, {Key: key, Value: []byte("made")},
	})
}

// check compares what writers were told with what is there.
func (l *load) check(t *testing.T, s *etcd.Storage) {
	t.Helper()
	l.end()
	there := make(map[string]uint64)
	entries, err := s.List(t.Context(), "log/")
	require.NoError(t, err)
	for _, e := range entries {
		there[e.Key] = e.Revision
	}
	var acknowledged, conflicts, unknown, made int
	for _, a := range l.attempts {
		at, ok := there[a.key]
		switch {
		case a.err == nil:
			acknowledged++
			assert.Equal(t, a.revision, at, "%s was acknowledged", a.key)
		case errors.Is(a.err, repository.ErrConflict), errors.Is(a.err, errNotRead):
			conflicts++
			assert.False(t, ok, "%s was made: %v", a.key, a.err)
		default:
			unknown++
			if ok {
				made++
			}
		}
	}
	t.Logf("%d commits: %d acknowledged, %d not made, %d with another error, of which %d were made",
		len(l.attempts), acknowledged, conflicts, unknown, made)
	require.Positive(t, acknowledged)
	require.Positive(t, conflicts)
}

// rig is a cluster under load, and followers: some that may go to any member, and one for each
// member that has no other.
type rig struct {
	*testing.T
	cluster *etcdtest.Cluster
	storage *etcd.Storage
	load    *load
	free    []*follower
	bound   []*follower
}

func newRig(t *testing.T) *rig {
	t.Helper()
	c := start(t, 3)
	r := &rig{T: t, cluster: c, storage: etcd.New(newClient(t, c.Endpoints()...), "/rig/")}
	for i := range 3 {
		r.free = append(r.free, follow(t, fmt.Sprint("free ", i), etcd.New(newClient(t, c.Endpoints()...), "/rig/")))
	}
	for i, endpoint := range c.Endpoints() {
		r.bound = append(r.bound, follow(t, fmt.Sprint("bound to ", i), etcd.New(newClient(t, endpoint), "/rig/")))
	}
	r.load = startLoad(t, r.storage, 2)
	return r
}

func (r *rig) followers() []*follower { return slices.Concat(r.bound, r.free) }

// eventually waits for what a cluster does in its own time, and returns how long that took.
func (r *rig) eventually(what string, is func() bool) time.Duration {
	r.Helper()
	begun := time.Now()
	require.Eventually(r.T, is, patience, 5*time.Millisecond, what)
	return time.Since(begun).Round(10 * time.Millisecond)
}

// do makes a change, as soon as it can be made, and returns its revision.
func (r *rig) do(c repository.Change) uint64 {
	r.Helper()
	var revision uint64
	r.eventually("a commit", func() bool {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		var err error
		revision, err = r.storage.Commit(ctx, nil, []repository.Change{c})
		return err == nil
	})
	return revision
}

// settle waits until followers are where the storage is.
func (r *rig) settle(followers ...*follower) {
	r.Helper()
	writes := time.Now()
	mark := r.do(repository.Change{Key: "mark"})
	text := fmt.Sprintf("a commit after %v; followers then after", time.Since(writes).Round(10*time.Millisecond))
	for _, f := range followers {
		took := r.eventually(f.name+" follows", func() bool { return f.isAt(mark) })
		losses, resets := f.counts()
		text += fmt.Sprintf(" %v (%s: lost %d, reset %d);", took, f.name, losses, resets)
	}
	r.Log(text)
}

// leader is the member that leads, once one does.
func (r *rig) leader() int {
	r.Helper()
	var leader int
	r.eventually("a leader", func() bool {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		var err error
		leader, err = r.cluster.Leader(ctx)
		return err == nil
	})
	return leader
}
