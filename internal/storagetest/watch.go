package storagetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy/repository"
)

func testWatch(t *testing.T, s repository.Storage) {
	before := commit(t, s, put("w/a", "1"), put("w/b", "1"), put("x", "1"))
	w := watch(t, s, "w/")
	u := w.next()
	require.True(t, u.Reset)
	require.Equal(t, []string{fmt.Sprintf("w/a=1@%d", before), fmt.Sprintf("w/b=1@%d", before)}, show(u.Put))
	require.Empty(t, u.Deleted)
	require.NoError(t, u.Lost)

	commit(t, s, put("x", "2")) // not seen
	second := commit(t, s, put("w/a", "2"), del("w/b"), put("w/c", "2"), put("x", "3"))
	u = w.next()
	require.False(t, u.Reset)
	require.Equal(t, []string{fmt.Sprintf("w/a=2@%d", second), fmt.Sprintf("w/c=2@%d", second)}, show(u.Put))
	require.Equal(t, []string{"w/b"}, u.Deleted)

	_, err := s.Commit(t.Context(), []repository.Condition{at("w/a", before)}, []repository.Change{put("w/a", "3")})
	require.ErrorIs(t, err, repository.ErrConflict) // not seen
	commit(t, s, del("w/none"))                     // nor this, since nothing changes
	third := commit(t, s, put("w/a", "2"))          // the same value is a change
	u = w.next()
	require.Equal(t, []string{fmt.Sprintf("w/a=2@%d", third)}, show(u.Put))
	require.Empty(t, u.Deleted)

	all := watch(t, s, "")
	require.Len(t, all.next().Put, 3)
}

func testWatchEnds(t *testing.T, s repository.Storage) {
	commit(t, s, put("k", "1"))
	always := func(repository.Update) bool { return true }
	updates := s.Watch(t.Context(), "")
	// Each range over it is a watch, and leaving the loop ends it.
	for range 3 {
		seen := first(updates, always)
		require.Len(t, seen, 1)
		require.True(t, seen[0].Reset)
		require.Len(t, seen[0].Put, 1)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Empty(t, first(s.Watch(ctx, ""), func(repository.Update) bool { return false }), "of a context that is done")

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	seen := first(s.Watch(ctx, ""), func(repository.Update) bool { cancel(); return false })
	require.Len(t, seen, 1)
}

// testWatchesFollowWriters has watches begin at any moment of a storm of commits. Each sees the
// commits in order, and ends where the storage does.
func testWatchesFollowWriters(t *testing.T, s repository.Storage) {
	const writers, each, watches = 3, 60, 4
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for n := range writers {
		wg.Go(func() {
			for i := range each {
				key := fmt.Sprintf("s/%d/%d", n, i%5)
				changes := []repository.Change{put(key, fmt.Sprint(i)), put("s/last", fmt.Sprint(n, i))}
				if i%7 == 6 {
					changes[0] = del(key)
				}
				if _, err := s.Commit(t.Context(), nil, changes); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	ws := make([]*watching, watches)
	for i := range ws {
		ws[i] = watch(t, s, "s/")
		ws[i].t = t
	}
	wg.Wait()
	close(errs)
	require.NoError(t, <-errs)
	end := commit(t, s, put("s/last", "end"))
	want := list(t, s, "s/")
	for _, w := range ws {
		got := state{}
		var at uint64
		for at < end {
			u := w.next()
			require.NoError(t, u.Lost)
			got.take(u)
			for _, e := range u.Put {
				if !u.Reset {
					require.Greater(t, e.Revision, at, "told before")
				}
			}
			for _, e := range u.Put {
				at = max(at, e.Revision)
			}
		}
		require.Equal(t, want, got.show())
	}
}

const ttl = 30 * time.Second

func lease(t *testing.T, s repository.Storage) repository.Lease {
	t.Helper()
	l, err := s.Lease(t.Context(), ttl)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

func leased(key, value string, l repository.Lease) repository.Change {
	return repository.Change{Key: key, Value: []byte(value), Lease: l}
}

func testLease(t *testing.T, s repository.Storage) {
	one, other := lease(t, s), lease(t, s)
	commit(t, s, leased("l/1", "", one), leased("l/2", "", one), leased("l/3", "", other), put("l/4", ""))
	w := watch(t, s, "l/")
	require.Len(t, w.next().Put, 4)
	select {
	case <-one.Done():
		require.Fail(t, "a lease ended by itself")
	default:
	}
	require.NoError(t, one.Close(t.Context()))
	<-one.Done()
	u := w.next()
	require.ElementsMatch(t, []string{"l/1", "l/2"}, u.Deleted)
	require.Empty(t, u.Put)
	require.Len(t, list(t, s, "l/"), 2)
	require.NoError(t, one.Close(t.Context()), "twice")
	select {
	case <-other.Done():
		require.Fail(t, "a lease ended with another")
	default:
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Lease(ctx, ttl)
	require.ErrorIs(t, err, context.Canceled)
}

// testLeaseOfEntry: an entry ends with the lease that it was put with last.
func testLeaseOfEntry(t *testing.T, s repository.Storage) {
	ctx, cancel := context.WithCancel(t.Context())
	one, err := s.Lease(ctx, ttl)
	require.NoError(t, err)
	cancel() // the lease is not that of a request
	other := lease(t, s)
	commit(t, s, leased("l/kept", "", one), leased("l/moved", "", one), leased("l/gone", "", one), leased("l/deleted", "", one))
	commit(t, s, put("l/kept", "kept"), leased("l/moved", "moved", other), del("l/deleted"))
	commit(t, s, put("l/deleted", "again"))
	select {
	case <-one.Done():
		require.Fail(t, "a lease ended with the context that it was asked for with")
	default:
	}
	require.NoError(t, one.Close(t.Context()))
	require.Len(t, list(t, s, "l/"), 3)
	require.NoError(t, other.Close(t.Context()))
	entries, err := s.List(t.Context(), "l/")
	require.NoError(t, err)
	require.Len(t, entries, 2)
	require.Equal(t, "again", string(entries[0].Value))
	require.Equal(t, "kept", string(entries[1].Value))
}

// testLeaseThatHasEnded: nothing is put with it, or it would never go.
func testLeaseThatHasEnded(t *testing.T, s repository.Storage) {
	l := lease(t, s)
	require.NoError(t, l.Close(t.Context()))
	_, err := s.Commit(t.Context(), nil, []repository.Change{put("a", ""), leased("b", "", l)})
	require.Error(t, err)
	require.NotErrorIs(t, err, repository.ErrConflict)
	require.Empty(t, list(t, s, ""))
}
