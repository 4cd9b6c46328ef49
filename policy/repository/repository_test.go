package repository_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/repository"
	"github.com/rego-go/rego/policy/rollout"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// set returns a valid set of a version.
func set(version string) policy.Set {
	return policy.Set{Version: version, Rules: []policy.Rule{{Methods: []string{"*"}, Policy: policy.Policy{Name: version}}}}
}

// durable is a storage in memory that says it outlives the process, so that its revisions are those
// of sets.
type durable struct{ repository.Storage }

func (durable) Durable() bool { return true }

func open(t *testing.T) *repository.Repository {
	t.Helper()
	return repository.New(durable{repository.Memory()}, nil)
}

// put puts a set on what is there, and returns what is there then.
func put(t *testing.T, r *repository.Repository, s policy.Set, base uint64, plan *rollout.Plan) repository.Policies {
	t.Helper()
	p, err := r.Put(t.Context(), repository.Put{By: repository.By{Author: "ann", Message: "why " + s.Version}, Service: "shop", Set: s, Base: base, Plan: plan})
	require.NoError(t, err)
	return p
}

var plan = &rollout.Plan{Steps: []float64{0.1, 0.5}, Bake: time.Minute, MinCalls: 100}

func TestPut(t *testing.T) {
	t.Parallel()
	r := open(t)
	_, err := r.Get(t.Context(), "shop")
	require.ErrorIs(t, err, repository.ErrNotFound)

	p := put(t, r, set("a"), 0, nil)
	assert.Equal(t, uint64(1), p.Set.Revision)
	assert.Equal(t, "a", p.Set.Version)
	assert.Equal(t, "ann", p.Revision.GetAuthor())
	p = put(t, r, set("b"), 1, nil)
	assert.Equal(t, uint64(2), p.Set.Revision)
	assert.Equal(t, uint64(1), p.Revision.GetBase())

	for _, tt := range []struct {
		name string
		put  repository.Put
		err  error
	}{
		{"on what is not there any more", repository.Put{Set: set("c"), Base: 1}, repository.ErrConflict},
		{"on nothing", repository.Put{Set: set("c")}, repository.ErrConflict},
		{"too long a message", repository.Put{Set: set("c"), Base: 2, By: repository.By{Message: string(make([]byte, 1<<11))}}, repository.ErrInvalid},
		{"no UTF-8", repository.Put{Set: set("c"), Base: 2, By: repository.By{Message: "\xff"}}, repository.ErrInvalid},
		{"a plan without steps", repository.Put{Set: set("c"), Base: 2, Plan: &rollout.Plan{}}, repository.ErrInvalid},
	} {
		tt.put.Service = "shop"
		_, err := r.Put(t.Context(), tt.put)
		require.ErrorIs(t, err, tt.err, tt.name)
	}
	bad := set("c")
	bad.Rules[0].Policy.Retry.MaxAttempts = -1
	_, err = r.Put(t.Context(), repository.Put{Service: "shop", Set: bad, Base: 2})
	var faults policy.Faults
	require.ErrorAs(t, err, &faults)
	assert.Equal(t, "rules[0].policy.retry.max_attempts", faults[0].Path)
	_, err = r.Put(t.Context(), repository.Put{Service: "two\nlines", Set: set("c")})
	require.ErrorIs(t, err, repository.ErrInvalid)
	bad = set("c")
	bad.Epoch = policy.MaxEpoch + 1
	_, err = r.Put(t.Context(), repository.Put{Service: "shop", Set: bad, Base: 2})
	require.ErrorContains(t, err, "epoch: must be at most 1000000")
	_, err = r.Put(t.Context(), repository.Put{Service: "other", Set: set("c"), Plan: plan})
	require.ErrorIs(t, err, repository.ErrInvalid, "nothing to compare with")

	now, err := r.Get(t.Context(), "shop")
	require.NoError(t, err)
	assert.Equal(t, uint64(2), now.Set.Revision, "nothing of this changed anything")
	again := put(t, r, set("b"), 2, nil)
	assert.Equal(t, uint64(2), again.Set.Revision, "it is in force already")
	p, err = r.Put(t.Context(), repository.Put{Service: "shop", Set: set("c"), Overwrite: true, DryRun: true})
	require.NoError(t, err)
	assert.Equal(t, "b", p.Set.Version)
	p, err = r.Put(t.Context(), repository.Put{Service: "shop", Set: set("c"), Overwrite: true})
	require.NoError(t, err)
	assert.Equal(t, uint64(3), p.Set.Revision)
}

// TestCheckRefuses what is beyond limits, also of what is put in force again.
func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	var forbidden string
	r := repository.New(repository.Memory(), func(_ string, c *policy.Table) error {
		if c.Set().Version == forbidden {
			return policy.Faults{{Path: "version", Text: "must not be that"}}
		}
		return nil
	})
	put(t, r, set("a"), 0, nil)
	put(t, r, set("b"), 1, nil)
	forbidden = "a"
	_, err := r.Put(t.Context(), repository.Put{Service: "shop", Set: set("a"), Base: 2})
	require.ErrorContains(t, err, "must not be that")
	_, err = r.RollBack(t.Context(), repository.RollBack{Service: "shop"})
	require.ErrorContains(t, err, "must not be that")
}

// TestOneOfTwo puts of the same base is made, whoever they are of.
func TestOneOfTwo(t *testing.T) {
	t.Parallel()
	r := open(t)
	put(t, r, set("first"), 0, nil)
	for round := range uint64(20) {
		var made, conflicts int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				_, err := r.Put(t.Context(), repository.Put{Service: "shop", Set: set(fmt.Sprint(round, "-", i)), Base: round + 1})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					made++
				case errors.Is(err, repository.ErrConflict):
					conflicts++
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, made)
		require.Equal(t, 7, conflicts)
	}
}

func TestSameChangeTwice(t *testing.T) {
	t.Parallel()
	r := open(t)
	change := repository.Put{By: repository.By{ChangeID: "x"}, Service: "shop", Set: set("a")}
	first, err := r.Put(t.Context(), change)
	require.NoError(t, err)
	second, err := r.Put(t.Context(), change)
	require.NoError(t, err, "its answer may have been lost")
	assert.Equal(t, first.Set.Revision, second.Set.Revision)
	put(t, r, set("b"), 1, nil)
	_, err = r.Put(t.Context(), change)
	require.ErrorIs(t, err, repository.ErrConflict)
}

func TestRollBack(t *testing.T) {
	t.Parallel()
	r := open(t)
	_, err := r.RollBack(t.Context(), repository.RollBack{Service: "shop"})
	require.ErrorIs(t, err, repository.ErrNotFound)
	put(t, r, set("a"), 0, nil)
	_, err = r.RollBack(t.Context(), repository.RollBack{Service: "shop"})
	require.ErrorIs(t, err, repository.ErrNotFound, "there was nothing before")
	put(t, r, set("b"), 1, nil)
	put(t, r, set("c"), 2, nil)
	_, err = r.RollBack(t.Context(), repository.RollBack{Service: "shop", Base: 2})
	require.ErrorIs(t, err, repository.ErrConflict)

	p, err := r.RollBack(t.Context(), repository.RollBack{Service: "shop", Base: 3})
	require.NoError(t, err)
	assert.Equal(t, "b", p.Set.Version)
	assert.Equal(t, uint64(4), p.Set.Revision, "clients refuse a lower one")
	assert.Equal(t, uint64(2), p.Revision.GetRestores())
	p, err = r.RollBack(t.Context(), repository.RollBack{Service: "shop"})
	require.NoError(t, err)
	assert.Equal(t, "a", p.Set.Version, "another one goes further back")
	assert.Equal(t, uint64(5), p.Set.Revision)
	_, err = r.RollBack(t.Context(), repository.RollBack{Service: "shop"})
	require.ErrorIs(t, err, repository.ErrNotFound, "there was nothing before")
	p, err = r.RollBack(t.Context(), repository.RollBack{Service: "shop", To: 3})
	require.NoError(t, err)
	assert.Equal(t, "c", p.Set.Version)
	assert.Equal(t, uint64(6), p.Set.Revision)
	_, err = r.RollBack(t.Context(), repository.RollBack{Service: "shop", To: 77})
	require.ErrorIs(t, err, repository.ErrNotFound)

	list, more, err := r.Log(t.Context(), "shop", 0, 3)
	require.NoError(t, err)
	assert.True(t, more)
	var versions []string
	for _, l := range list {
		versions = append(versions, l.GetVersion())
	}
	assert.Equal(t, []string{"c", "a", "b"}, versions)
	list, more, err = r.Log(t.Context(), "shop", 3, 100)
	require.NoError(t, err)
	assert.False(t, more)
	assert.Len(t, list, 2)
	old, _, err := r.At(t.Context(), "shop", 2)
	require.NoError(t, err)
	assert.Equal(t, "b", old.Version)
}

// TestFileWithoutRevision is what a rollback leads to, as any other.
func TestFileWithoutRevision(t *testing.T) {
	t.Parallel()
	r := repository.New(repository.Memory(), nil)
	kept := repository.Found{Service: "shop", Set: set("in a file")}
	now, err := r.TakeIn(t.Context(), kept)
	require.NoError(t, err)
	assert.Zero(t, now.Set.Revision)
	_, err = r.RollBack(t.Context(), repository.RollBack{Service: "shop"})
	require.ErrorIs(t, err, repository.ErrNotFound)
	put(t, r, set("put"), 0, nil)
	now, err = r.RollBack(t.Context(), repository.RollBack{Service: "shop"})
	require.NoError(t, err)
	assert.Equal(t, "in a file", now.Set.Version)
	assert.Equal(t, uint64(2), now.Set.Revision)
	again, err := r.TakeIn(t.Context(), repository.Found{Service: "shop", Set: now.Set})
	require.NoError(t, err)
	assert.True(t, again.Same(now), "it is the one that was put there")
}

func TestTrial(t *testing.T) {
	t.Parallel()
	r := open(t)
	put(t, r, set("a"), 0, nil)
	p := put(t, r, set("b"), 1, plan)
	require.True(t, p.Trying())
	assert.Equal(t, "a", p.Set.Version)
	assert.Equal(t, uint64(2), p.Candidate.Revision)
	assert.InDelta(t, 0.1, p.Rollout.GetShare(), 0)
	_, err := r.Put(t.Context(), repository.Put{Service: "shop", Set: set("c"), Base: 1})
	require.ErrorIs(t, err, repository.ErrConflict, "another set is being tried out")

	p, err = r.RollBack(t.Context(), repository.RollBack{By: repository.By{Author: "bob"}, Service: "shop", Base: 2})
	require.NoError(t, err)
	assert.False(t, p.Trying())
	assert.Equal(t, "a", p.Set.Version)
	assert.Equal(t, uint64(3), p.Set.Revision, "who has tried it comes back")
	assert.Equal(t, regov1.RolloutState_ROLLOUT_STATE_ENDED, p.Rollout.GetState())
	assert.Contains(t, p.Rollout.GetReason(), "bob")
	_, err = r.RollBack(t.Context(), repository.RollBack{Service: "shop"})
	require.ErrorIs(t, err, repository.ErrNotFound, "what was taken back does not return by another rollback")

	p = put(t, r, set("b"), 3, plan)
	p, err = r.Promote(t.Context(), repository.Promotion{By: repository.By{Author: "bob"}, Service: "shop", Candidate: p.Candidate.Revision})
	require.NoError(t, err)
	assert.Equal(t, "b", p.Set.Version)
	assert.Equal(t, uint64(4), p.Set.Revision, "who has it keeps it")
	assert.Equal(t, regov1.RolloutState_ROLLOUT_STATE_PROMOTED, p.Rollout.GetState())

	put(t, r, set("c"), 4, plan)
	p, err = r.Put(t.Context(), repository.Put{Service: "shop", Set: set("d"), Overwrite: true})
	require.NoError(t, err)
	assert.False(t, p.Trying())
	assert.Equal(t, "d", p.Set.Version)
	assert.Greater(t, p.Set.Revision, uint64(5))
}

// files remember for the next process.
type files struct {
	mark    repository.Mark
	written policy.Set
	fails   error
}

func (f *files) Write(_ string, s policy.Set) error {
	if f.fails == nil {
		f.written = s
	}
	return f.fails
}

func (f *files) Mark(_ string, m repository.Mark) error {
	if f.fails == nil {
		f.mark = m
	}
	return f.fails
}

func (f *files) Marked(string) repository.Mark { return f.mark }

// TestForgottenTrial: what is in the file gets a revision that those take who have tried another set,
// of which nobody knows any more.
func TestForgottenTrial(t *testing.T) {
	t.Parallel()
	for _, epoch := range []uint64{0, 1} {
		var kept files
		inFile := repository.Found{Service: "shop", Set: set("in the file")}
		inFile.Set.Revision = 7
		r := repository.New(repository.Memory(), nil).KeepIn(&kept)
		now, err := r.TakeIn(t.Context(), inFile)
		require.NoError(t, err)
		assert.Equal(t, uint64(7), now.Set.Revision)
		assert.Empty(t, kept.written, "it is there")
		next := set("tried")
		next.Epoch = epoch
		now = put(t, r, next, 7, plan)
		tried := now.Candidate.Revision
		assert.Equal(t, repository.Mark{Epoch: epoch, Revision: tried, SHA256: now.Rollout.GetCandidate().GetSha256()}, kept.mark)
		assert.Empty(t, kept.written)

		r = repository.New(repository.Memory(), nil).KeepIn(&kept)
		now, err = r.TakeIn(t.Context(), inFile)
		require.NoError(t, err)
		assert.Greater(t, now.Set.Revision, tried)
		assert.Equal(t, epoch, now.Set.Epoch)
		assert.Equal(t, now.Set, kept.written, "whoever starts again finds it")
		inFile.Set.Epoch = 2
		r = repository.New(repository.Memory(), nil).KeepIn(&kept)
		now, err = r.TakeIn(t.Context(), inFile)
		require.NoError(t, err)
		assert.Equal(t, uint64(7), now.Set.Revision, "a new epoch begins anew")
	}
}

// TestWritten: what is put is in the files when it is said to be in force, and what they refuse is not
// in force.
func TestWritten(t *testing.T) {
	t.Parallel()
	var kept files
	r := repository.New(repository.Memory(), nil).KeepIn(&kept)
	for _, c := range []struct {
		name   string
		change func() (repository.Policies, error)
		want   string // in the files
	}{
		{"put", func() (repository.Policies, error) {
			return r.Put(t.Context(), repository.Put{Service: "shop", Set: set("a")})
		}, "a"},
		{"another", func() (repository.Policies, error) {
			return r.Put(t.Context(), repository.Put{Service: "shop", Set: set("b"), Base: 1})
		}, "b"},
		{"rolled back", func() (repository.Policies, error) {
			return r.RollBack(t.Context(), repository.RollBack{Service: "shop"})
		}, "a"},
		{"tried out", func() (repository.Policies, error) {
			return r.Put(t.Context(), repository.Put{Service: "shop", Set: set("c"), Overwrite: true, Plan: plan})
		}, "a"},
		{"taken back", func() (repository.Policies, error) {
			return r.RollBack(t.Context(), repository.RollBack{Service: "shop"})
		}, "a"},
		{"tried out again", func() (repository.Policies, error) {
			return r.Put(t.Context(), repository.Put{Service: "shop", Set: set("c"), Overwrite: true, Plan: plan})
		}, "a"},
		{"promoted", func() (repository.Policies, error) {
			return r.Promote(t.Context(), repository.Promotion{Service: "shop"})
		}, "c"},
	} {
		before, _ := r.Get(t.Context(), "shop")
		kept.fails = assert.AnError
		_, err := c.change()
		require.ErrorIs(t, err, assert.AnError, c.name)
		now, _ := r.Get(t.Context(), "shop")
		assert.True(t, now.Same(before), c.name)
		kept.fails = nil
		now, err = c.change()
		require.NoError(t, err, c.name)
		assert.Equal(t, c.want, kept.written.Version, c.name)
		assert.Equal(t, now.Set, kept.written, c.name)
		highest := now.Set.Revision
		if now.Trying() {
			highest = now.Candidate.Revision
		}
		assert.Equal(t, highest, kept.mark.Revision, c.name)
	}
}

// TestOlderFile: who finds another file than the one that clients have got has them take it.
func TestOlderFile(t *testing.T) {
	t.Parallel()
	var kept files
	r := repository.New(repository.Memory(), nil).KeepIn(&kept)
	for range 3 {
		_, err := r.Put(t.Context(), repository.Put{Service: "shop", Set: set(fmt.Sprint(kept.mark.Revision)), Overwrite: true})
		require.NoError(t, err)
	}
	for _, c := range []struct {
		name     string
		version  string
		revision uint64
		want     uint64
	}{
		{"as it was left", "2", 3, 3},
		{"another of the same revision", "x", 3, 4},
		{"an older one", "0", 1, 5},
		{"one without a revision", "y", 0, 6},
		{"a newer one", "z", 9, 9},
	} {
		in := set(c.version)
		in.Revision = c.revision
		r := repository.New(repository.Memory(), nil).KeepIn(&kept)
		now, err := r.TakeIn(t.Context(), repository.Found{Service: "shop", Set: in})
		require.NoError(t, err)
		assert.Equal(t, c.want, now.Set.Revision, c.name)
		assert.Equal(t, c.want, kept.mark.Revision, c.name)
	}
}

// TestTakeIn: what somebody has edited has the revision that clients get, with what they had before.
func TestTakeIn(t *testing.T) {
	t.Parallel()
	type position struct{ epoch, revision uint64 }
	for _, tt := range []struct {
		name    string
		before  []position // that were found before, each with another content
		found   position
		same    bool // as the last one before
		want    position
		written bool // since the one that was found would be refused
	}{
		{"without revisions", []position{{0, 0}}, position{0, 0}, false, position{0, 0}, false},
		{"a revision at last", []position{{0, 0}}, position{0, 3}, false, position{0, 3}, false},
		{"no revision any more", []position{{0, 3}}, position{0, 0}, false, position{0, 4}, true},
		{"a higher one", []position{{0, 3}}, position{0, 9}, false, position{0, 9}, false},
		{"a higher one, and nothing else", []position{{0, 3}}, position{0, 9}, true, position{0, 9}, false},
		{"a lower one", []position{{0, 3}}, position{0, 2}, false, position{0, 4}, true},
		{"the same one", []position{{0, 3}}, position{0, 3}, false, position{0, 4}, true},
		{"the way back", []position{{0, 20261126}}, position{1, 43}, false, position{1, 43}, false},
		{"and on", []position{{0, 20261126}, {1, 43}}, position{1, 44}, false, position{1, 44}, false},
		{"a lower epoch", []position{{1, 43}}, position{0, 44}, false, position{1, 44}, true},
	} {
		for _, again := range []bool{false, true} { // the process is started again before it is found
			var kept files
			r := repository.New(repository.Memory(), nil).KeepIn(&kept)
			version := ""
			for i, at := range tt.before {
				version = fmt.Sprint("before ", i)
				s := set(version)
				s.Epoch, s.Revision = at.epoch, at.revision
				_, err := r.TakeIn(t.Context(), repository.Found{Service: "shop", Set: s})
				require.NoError(t, err)
			}
			if again {
				r = repository.New(repository.Memory(), nil).KeepIn(&kept)
			}
			if !tt.same {
				version = "found"
			}
			s := set(version)
			s.Epoch, s.Revision = tt.found.epoch, tt.found.revision
			now, err := r.TakeIn(t.Context(), repository.Found{Service: "shop", Set: s})
			require.NoError(t, err)
			name := fmt.Sprintf("%s, started again: %v", tt.name, again)
			assert.Equal(t, tt.want, position{now.Set.Epoch, now.Set.Revision}, name)
			assert.Equal(t, version, now.Set.Version, name)
			assert.Equal(t, tt.written, kept.written.Version != "", name)
			same, err := r.TakeIn(t.Context(), repository.Found{Service: "shop", Set: now.Set})
			require.NoError(t, err)
			assert.True(t, same.Same(now), "%s: it is known", name)
			next, err := r.Put(t.Context(), repository.Put{Service: "shop", Set: func() policy.Set { s := set("put"); s.Epoch = tt.want.epoch; return s }(), Overwrite: true})
			require.NoError(t, err)
			assert.Equal(t, tt.want.revision+1, next.Set.Revision, name)
		}
	}
}

// TestPutBeforeItIsTakenIn: what is put before the file could be taken in gets a revision above all that
// clients have, and what they may have never goes down.
func TestPutBeforeItIsTakenIn(t *testing.T) {
	t.Parallel()
	kept := files{mark: repository.Mark{Epoch: 1, Revision: 7}}
	r := repository.New(repository.Memory(), nil).KeepIn(&kept)
	s := set("put")
	_, err := r.Put(t.Context(), repository.Put{Service: "shop", Set: s})
	require.ErrorContains(t, err, "epoch: must not be below 1")
	s.Epoch = 1
	now, err := r.Put(t.Context(), repository.Put{Service: "shop", Set: s})
	require.NoError(t, err)
	assert.Equal(t, uint64(8), now.Set.Revision)
	kept.mark.Revision = 20 // of another service, with the same file
	now, err = r.Put(t.Context(), repository.Put{Service: "shop", Set: s, Overwrite: true})
	require.NoError(t, err)
	assert.Equal(t, uint64(8), now.Set.Revision, "it is in force")
	s.Version = "another"
	now, err = r.Put(t.Context(), repository.Put{Service: "shop", Set: s, Overwrite: true})
	require.NoError(t, err)
	assert.Equal(t, uint64(21), now.Set.Revision)
	assert.Equal(t, uint64(21), kept.mark.Revision)
}

// TestHistoryIsBounded to the last hundred, and what is in force is always there.
func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	r := open(t)
	put(t, r, set("stays"), 0, nil)
	for i := range 150 {
		put(t, r, set(fmt.Sprint(i)), p(t, r).Set.Revision, plan)
		_, err := r.RollBack(t.Context(), repository.RollBack{Service: "shop"})
		require.NoError(t, err)
	}
	list, _, err := r.Log(t.Context(), "shop", 0, 1000)
	require.NoError(t, err)
	assert.InDelta(t, 100, len(list), 1)
	assert.Equal(t, "stays", p(t, r).Set.Version)
}

func p(t *testing.T, r *repository.Repository) repository.Policies {
	t.Helper()
	now, err := r.Get(t.Context(), "shop")
	require.NoError(t, err)
	return now
}

// TestOtherNames are apart: one name is how another begins, and one is empty.
func TestOtherNames(t *testing.T) {
	t.Parallel()
	r := open(t)
	for _, service := range []string{"", "shop", "shop/cart", "sho", "shöp %"} {
		_, err := r.Put(t.Context(), repository.Put{Service: service, Set: set("of " + service)})
		require.NoError(t, err)
	}
	all, more, err := r.Services(t.Context(), 100)
	require.NoError(t, err)
	assert.Zero(t, more)
	require.Len(t, all, 5)
	for _, p := range all {
		assert.Equal(t, "of "+p.Service, p.InForce.GetVersion())
		one, err := r.Get(t.Context(), p.Service)
		require.NoError(t, err)
		assert.Equal(t, p.InForce.GetRevision(), one.Set.Revision)
		assert.Nil(t, p.Rollout)
	}
	some, more, err := r.Services(t.Context(), 2)
	require.NoError(t, err)
	assert.Equal(t, all[:2], some)
	assert.Equal(t, 3, more)
}

// TestFirstOfItsOwn: a service's first policies are above those of all others, which its clients have.
func TestFirstOfItsOwn(t *testing.T) {
	t.Parallel()
	r := repository.New(repository.Memory(), nil)
	for i := range 3 {
		all := set(fmt.Sprint("all", i))
		all.Epoch = 2
		_, err := r.Put(t.Context(), repository.Put{Set: all, Overwrite: true})
		require.NoError(t, err)
	}
	own := set("own")
	_, err := r.Put(t.Context(), repository.Put{Service: "shop", Set: own})
	require.ErrorContains(t, err, "epoch: must not be below 2")
	own.Epoch = 2
	p, err := r.Put(t.Context(), repository.Put{Service: "shop", Set: own})
	require.NoError(t, err)
	assert.Equal(t, uint64(4), p.Set.Revision)
}
