// Package storagetest tests what every repository.Storage promises.
package storagetest

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy/repository"
)

// patience is how long a watch may take to tell what has happened, and a lease to end.
const patience = 20 * time.Second

// Test runs the suite. Every subtest opens a storage of its own, which is empty.
func Test(t *testing.T, open func(*testing.T) repository.Storage) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*testing.T, repository.Storage)
	}{
		{"list", testList},
		{"conditions", testConditions},
		{"all or nothing", testAllOrNothing},
		{"changes", testChanges},
		{"counters", testCounters},
		{"watch", testWatch},
		{"watch ends", testWatchEnds},
		{"watches follow writers", testWatchesFollowWriters},
		{"many entries", testManyEntries},
		{"large values", testLargeValues},
		{"lease", testLease},
		{"lease of an entry", testLeaseOfEntry},
		{"lease that has ended", testLeaseThatHasEnded},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func put(key, value string) repository.Change {
	return repository.Change{Key: key, Value: []byte(value)}
}

func del(key string) repository.Change { return repository.Change{Key: key, Delete: true} }

func at(key string, revision uint64) repository.Condition {
	return repository.Condition{Key: key, Revision: revision}
}

// commit makes changes without conditions.
func commit(t *testing.T, s repository.Storage, changes ...repository.Change) uint64 {
	t.Helper()
	revision, err := s.Commit(t.Context(), nil, changes)
	require.NoError(t, err)
	return revision
}

// show is entries as text: key=value@revision.
func show(entries []repository.Entry) []string {
	lines := make([]string, len(entries))
	for i, e := range entries {
		lines[i] = fmt.Sprintf("%s=%s@%d", e.Key, e.Value, e.Revision)
	}
	return lines
}

func list(t *testing.T, s repository.Storage, prefix string) []string {
	t.Helper()
	entries, err := s.List(t.Context(), prefix)
	require.NoError(t, err)
	return show(entries)
}

func testList(t *testing.T, s repository.Storage) {
	require.Empty(t, list(t, s, ""))
	first := commit(t, s, put("b/2", "two"), put("a", "letter"), put("b/1", "one"), put("b", ""))
	second := commit(t, s, put("b0", "zero"), put("b/1", "uno"))
	require.Greater(t, second, first)
	require.Equal(t, []string{
		fmt.Sprintf("a=letter@%d", first), fmt.Sprintf("b=@%d", first), fmt.Sprintf("b/1=uno@%d", second),
		fmt.Sprintf("b/2=two@%d", first), fmt.Sprintf("b0=zero@%d", second),
	}, list(t, s, ""))
	require.Equal(t, []string{fmt.Sprintf("b/1=uno@%d", second), fmt.Sprintf("b/2=two@%d", first)}, list(t, s, "b/"))
	require.Empty(t, list(t, s, "c"))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.List(ctx, "")
	require.ErrorIs(t, err, context.Canceled)
}

func testConditions(t *testing.T, s repository.Storage) {
	try := func(change repository.Change, conditions ...repository.Condition) (uint64, error) {
		return s.Commit(t.Context(), conditions, []repository.Change{change})
	}
	first, err := try(put("k", "1"), at("k", 0)) // there is none
	require.NoError(t, err)
	_, err = try(put("k", "2"), at("k", 0)) // there is one
	require.ErrorIs(t, err, repository.ErrConflict)
	second, err := try(put("k", "2"), at("k", first))
	require.NoError(t, err)
	_, err = try(put("k", "3"), at("k", first)) // overtaken
	require.ErrorIs(t, err, repository.ErrConflict)
	_, err = try(put("k", "3"), at("k", second), at("other", 0), at("another", first)) // the last does not hold
	require.ErrorIs(t, err, repository.ErrConflict)
	_, err = try(del("k"), at("k", first))
	require.ErrorIs(t, err, repository.ErrConflict)
	_, err = try(del("k"), at("k", second), at("other", 0))
	require.NoError(t, err)
	_, err = try(put("k", "4"), at("k", second)) // gone
	require.ErrorIs(t, err, repository.ErrConflict)
	last, err := try(put("k", "5"), at("k", 0))
	require.NoError(t, err)
	require.Equal(t, []string{fmt.Sprintf("k=5@%d", last)}, list(t, s, ""))
}

func testAllOrNothing(t *testing.T, s repository.Storage) {
	first := commit(t, s, put("a", "1"), put("b", "1"))
	before := list(t, s, "")
	_, err := s.Commit(t.Context(), []repository.Condition{at("a", first), at("b", first+1000)},
		[]repository.Change{put("a", "2"), del("b"), put("c", "2")})
	require.ErrorIs(t, err, repository.ErrConflict)
	require.Equal(t, before, list(t, s, ""))

	_, err = s.Commit(t.Context(), nil, []repository.Change{put("c", "1"), put("c", "2")})
	require.Error(t, err, "a key that is changed twice")
	require.NotErrorIs(t, err, repository.ErrConflict)
	_, err = s.Commit(t.Context(), nil, []repository.Change{put("c", "1"), del("c")})
	require.Error(t, err, "a key that is put and deleted")
	require.Equal(t, before, list(t, s, ""))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Commit(ctx, nil, []repository.Change{put("c", "1")})
	require.ErrorIs(t, err, context.Canceled)
}

func testChanges(t *testing.T, s repository.Storage) {
	value := []byte("mine")
	commit(t, s, repository.Change{Key: "k", Value: value})
	copy(value, "your") // the caller's again
	commit(t, s, del("absent"))
	entries, err := s.List(t.Context(), "k")
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, "mine", string(entries[0].Value))

	// No changes: a question whether the conditions hold.
	revision, err := s.Commit(t.Context(), []repository.Condition{at("k", entries[0].Revision)}, nil)
	require.NoError(t, err)
	require.Equal(t, entries[0].Revision, revision)
	_, err = s.Commit(t.Context(), []repository.Condition{at("k", entries[0].Revision+1)}, nil)
	require.ErrorIs(t, err, repository.ErrConflict)
}

// testCounters has writers add to two counters, which is right only if none is overwritten.
func testCounters(t *testing.T, s repository.Storage) {
	const writers, each = 4, 25
	var wg sync.WaitGroup
	var conflicts atomic.Int64
	errs := make(chan error, writers)
	add := func() error {
		for {
			entries, err := s.List(t.Context(), "n/")
			if err != nil {
				return err
			}
			values := map[string]repository.Entry{}
			for _, e := range entries {
				values[e.Key] = e
			}
			var conditions []repository.Condition
			var changes []repository.Change
			for _, key := range []string{"n/1", "n/2"} {
				n, _ := strconv.Atoi(string(values[key].Value))
				conditions = append(conditions, at(key, values[key].Revision))
				changes = append(changes, put(key, strconv.Itoa(n+1)))
			}
			_, err = s.Commit(t.Context(), conditions, changes)
			if err != repository.ErrConflict { //nolint:errorlint // it is the error itself
				return err
			}
			conflicts.Add(1)
		}
	}
	for range writers {
		wg.Go(func() {
			for range each {
				if err := add(); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	require.NoError(t, <-errs)
	entries, err := s.List(t.Context(), "n/")
	require.NoError(t, err)
	require.Len(t, entries, 2)
	for _, e := range entries {
		require.Equal(t, strconv.Itoa(writers*each), string(e.Value), e.Key)
	}
	t.Logf("%d conflicts", conflicts.Load())
}

func testManyEntries(t *testing.T, s repository.Storage) {
	const entries, each = 1500, 100
	want := make([]string, 0, entries)
	for from := 0; from < entries; from += each {
		changes := make([]repository.Change, each)
		for i := range changes {
			changes[i] = put(fmt.Sprintf("many/%05d", from+i), strings.Repeat("x", (from+i)%7))
		}
		revision := commit(t, s, changes...)
		for _, c := range changes {
			want = append(want, fmt.Sprintf("%s=%s@%d", c.Key, c.Value, revision))
		}
	}
	commit(t, s, put("man", ""), put("many0", ""), put("zoo", ""))
	require.Equal(t, want, list(t, s, "many/"))
}

func testLargeValues(t *testing.T, s repository.Storage) {
	const size, n = 1 << 20, 12
	updates := watch(t, s, "large/")
	updates.next() // empty
	for i := range n {
		commit(t, s, put(fmt.Sprintf("large/%02d", i), strings.Repeat(string(rune('a'+i)), size)))
	}
	entries, err := s.List(t.Context(), "large/")
	require.NoError(t, err)
	require.Len(t, entries, n)
	for i, e := range entries {
		require.Len(t, e.Value, size)
		require.Equal(t, byte('a'+i), e.Value[size-1])
	}
	// A commit of many changes that is nearly as large as it may be is told as one.
	changes := make([]repository.Change, 100)
	for i := range changes {
		changes[i] = put(fmt.Sprintf("large/many/%03d", i), strings.Repeat("m", 14<<10))
	}
	revision := commit(t, s, changes...)
	for u := updates.next(); ; u = updates.next() {
		if len(u.Put) == 1 {
			continue
		}
		require.Len(t, u.Put, len(changes))
		require.Equal(t, revision, u.Put[0].Revision)
		break
	}
}

// watching is a watch that a test pulls updates from.
type watching struct {
	t       *testing.T
	updates chan repository.Update
	cancel  context.CancelFunc
	ended   chan struct{}
}

func watch(t *testing.T, s repository.Storage, prefix string) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watching{t: t, updates: make(chan repository.Update, 10000), cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		for u := range s.Watch(ctx, prefix) {
			w.updates <- u
		}
	}()
	t.Cleanup(w.stop)
	return w
}

func (w *watching) stop() {
	w.t.Helper()
	w.cancel()
	select {
	case <-w.ended:
	case <-time.After(patience):
		w.t.Error("a watch did not end")
	}
}

func (w *watching) next() repository.Update {
	w.t.Helper()
	select {
	case u := <-w.updates:
		return u
	case <-time.After(patience):
		require.Fail(w.t, "a watch told nothing")
		return repository.Update{}
	}
}

// state is what a watch has told, put together.
type state map[string]repository.Entry

func (s state) take(u repository.Update) {
	if u.Reset {
		clear(s)
	}
	for _, e := range u.Put {
		s[e.Key] = e
	}
	for _, key := range u.Deleted {
		delete(s, key)
	}
}

func (s state) show() []string {
	entries := make([]repository.Entry, 0, len(s))
	for _, key := range slices.Sorted(maps.Keys(s)) {
		entries = append(entries, s[key])
	}
	return show(entries)
}

// first is the updates of a sequence until one fits.
func first(updates iter.Seq[repository.Update], fits func(repository.Update) bool) []repository.Update {
	var seen []repository.Update
	for u := range updates {
		seen = append(seen, u)
		if fits(u) {
			break
		}
	}
	return seen
}
