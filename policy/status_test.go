package policy_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// broken has one fault.
func broken(v string) policy.Set {
	s := version(v)
	s.Rules[0].Policy.Timeout = -1
	return s
}

// TestStates follows a store and its source: what the source says, a second after
// what came before, and what the store says then.
func TestStates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st, err := policy.NewStore(version("built in"))
		require.NoError(t, err)
		assert.Equal(t, policy.Status{Version: "built in"}, st.Status())
		src := st.Source("file")
		update := func(s policy.Set) func() { return func() { _ = src.Update(s) } }
		unread := errors.New("line 3: no colon")
		gone := errors.New("no such file")
		start := time.Now()
		for i, step := range []struct {
			does     func()
			state    policy.State
			version  string
			source   string
			refused  string // version of the last refusal; empty if there is none
			age      time.Duration
			notified bool
		}{
			{update(broken("0")), policy.StateRefused, "built in", "", "0", 0, true},
			{update(version("1")), policy.StateCurrent, "1", "file", "", 0, true},
			{update(version("1")), policy.StateCurrent, "1", "file", "", 0, false}, // confirmed
			{update(broken("2")), policy.StateRefused, "1", "file", "2", 0, true},
			{update(broken("2")), policy.StateRefused, "1", "file", "2", time.Second, false},
			{func() { src.Refuse("", unread) }, policy.StateRefused, "1", "file", "", 2 * time.Second, true},
			{update(version("1")), policy.StateCurrent, "1", "file", "", 0, true}, // taken back
			{func() { src.Lost(gone) }, policy.StateStale, "1", "file", "", 0, true},
			{func() { src.Lost(gone) }, policy.StateStale, "1", "file", "", time.Second, false},
			{update(broken("3")), policy.StateRefused, "1", "file", "3", 2 * time.Second, true}, // it is back, at least
			{func() { src.Lost(gone) }, policy.StateStale, "1", "file", "3", 3 * time.Second, true},
			{update(version("4")), policy.StateCurrent, "4", "file", "", 0, true},
			{func() { _ = st.Update(version("5")) }, policy.StateCurrent, "5", "code", "", 0, true},
			{update(version("5")), policy.StateCurrent, "5", "file", "", 0, true}, // the same, from elsewhere
		} {
			changed := st.Changed()
			step.does()
			status := st.Status()
			assert.Equal(t, step.state, status.State(), "step %d", i)
			assert.Equal(t, step.version, status.Version, "step %d", i)
			assert.Equal(t, step.version, st.Current().Version(), "step %d", i)
			assert.Equal(t, step.source, status.Source, "step %d", i)
			assert.Equal(t, step.age, status.Age(time.Now()), "step %d", i)
			if step.refused != "" {
				assert.Equal(t, step.refused, status.Refusal.Version, "step %d", i)
				assert.Equal(t, "file", status.Refusal.Source, "step %d", i)
			}
			if step.state == policy.StateCurrent {
				assert.Equal(t, time.Now(), status.Confirmed, "step %d", i)
				assert.Nil(t, status.Refusal, "step %d", i)
				require.NoError(t, status.Lost, "step %d", i)
			}
			assert.Equal(t, step.notified, closed(changed), "step %d", i)
			virtual.Sleep(time.Second)
		}
		assert.Equal(t, start.Add(12*time.Second), st.Status().Accepted, "when code brought it")
	})
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestStateNames(t *testing.T) {
	t.Parallel()
	for s, want := range []string{"initial", "current", "stale", "refused", "invalid"} {
		text, err := policy.State(s).MarshalText()
		require.NoError(t, err)
		assert.Equal(t, want, string(text))
	}
}

// TestRevisions: the order of the sets of a source, and the way back from a revision that was
// too high.
func TestRevisions(t *testing.T) {
	t.Parallel()
	st := new(policy.Store)
	for _, r := range []struct {
		epoch    uint64
		revision uint64
		version  string
		want     string // empty if it is taken
	}{
		{0, 0, "a", ""},
		{0, 0, "b", ""}, // not counted yet
		{0, 7, "b", ""},
		{0, 7, "b", ""}, // confirmed
		{0, 7, "c", "revision: must be above 7, which is in force with another content"},
		{0, 6, "d", "revision: must not be below 7, which is in force, got 6 (a higher epoch begins anew)"},
		{0, 8, "e", ""},
		{0, 7, "b", "revision: must not be below 8, which is in force, got 7 (a higher epoch begins anew)"},
		{0, 0, "f", "revision: must be there, and above 8, which is in force"},
		{0, math.MaxUint64, "too high", ""},
		{0, 9, "g", "revision: must not be below 18446744073709551615, which is in force, got 9 (a higher epoch begins anew)"},
		{1, 9, "g", ""}, // the way back
		{0, math.MaxUint64, "too high", "epoch: must not be below 1, which is in force, got 0"}, // of a replica that lags
		{1, 10, "h", ""},
		{2, 0, "i", ""},
		{2, 0, "j", ""},
	} {
		err := st.Update(policy.Set{Version: r.version, Epoch: r.epoch, Revision: r.revision})
		if r.want == "" {
			require.NoError(t, err)
			assert.Equal(t, r.version, st.Current().Version())
			assert.Equal(t, r.epoch, st.Status().Epoch)
			continue
		}
		require.EqualError(t, err, r.want)
		assert.Equal(t, r.revision, st.Status().Refusal.Revision)
		assert.Equal(t, r.epoch, st.Status().Refusal.Epoch)
	}
}

// TestRevisionsOfSources: revisions of two sources have nothing to do with one another.
func TestRevisionsOfSources(t *testing.T) {
	t.Parallel()
	st, err := policy.NewStore(policy.Set{Version: "built in", Revision: 50})
	require.NoError(t, err)
	require.NoError(t, st.Source("file").Update(policy.Set{Version: "a", Revision: 42}))
	require.NoError(t, st.Source("control plane").Update(policy.Set{Version: "b", Revision: 7}))
	require.Error(t, st.Source("control plane").Update(policy.Set{Version: "c", Revision: 6}))
	require.NoError(t, st.Source("file").Update(policy.Set{Version: "d"}))
}

// TestAgeWithoutSource: a client that never reached its source says so, too.
func TestAgeWithoutSource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st := new(policy.Store)
		virtual.Sleep(time.Minute)
		assert.Zero(t, st.Status().Age(time.Now()), "it has no source")
		source := st.Source("control plane")
		began := time.Now()
		virtual.Sleep(time.Minute)
		assert.Equal(t, policy.StateInitial, st.Status().State())
		assert.Equal(t, time.Minute, st.Status().Age(time.Now()), "it has not answered")
		source.Lost(errors.New("no such host"))
		virtual.Sleep(time.Minute)
		assert.Equal(t, 2*time.Minute, st.Status().Age(time.Now()), "it cannot be reached")
		source.Refuse("1", errors.New("bad"))
		virtual.Sleep(time.Minute)
		assert.Equal(t, 3*time.Minute, st.Status().Age(time.Now()), "what it has was refused")
		assert.True(t, began.Equal(st.Status().Since))
		require.NoError(t, source.Update(version("2")))
		virtual.Sleep(time.Minute)
		assert.Zero(t, st.Status().Age(time.Now()))
		source.Lost(errors.New("gone"))
		virtual.Sleep(time.Minute)
		assert.Equal(t, time.Minute, st.Status().Age(time.Now()))
	})
}

// TestReview: what is noticed of the set in force stands in the status.
func TestReview(t *testing.T) {
	t.Parallel()
	st, err := policy.NewStore(version("built in"))
	require.NoError(t, err)
	changed := st.Changed()
	look := func(t *policy.Table) (found policy.Faults) {
		for range len(t.Version()) {
			found = append(found, policy.Fault{Path: t.Version(), Text: fmt.Sprint(len(found))})
		}
		return found
	}
	st.Review(look)
	assert.True(t, closed(changed))
	assert.Len(t, st.Status().Warnings, len("built in"))
	st.Review(look)
	assert.Len(t, st.Status().Warnings, len("built in"), "two interceptors say the same")
	require.NoError(t, st.Update(version("2")))
	assert.Equal(t, policy.Faults{{Path: "2", Text: "0"}}, st.Status().Warnings)
	require.Error(t, st.Update(broken("3")))
	assert.Len(t, st.Status().Warnings, 1, "the set in force stays")
	require.NoError(t, st.Update(version(strings.Repeat("4", 200))))
	assert.Len(t, st.Status().Warnings, 101)
	assert.Equal(t, "and more", st.Status().Warnings[100].Error())
}

// TestGuardOverSource: what a source has sent before a guard was there does not make
// the guard fail. It is refused, and what is in code takes its place.
func TestGuardOverSource(t *testing.T) {
	t.Parallel()
	st, err := policy.NewStore(version("built in"))
	require.NoError(t, err)
	require.NoError(t, st.Source("file").Update(version("bad")))
	bad := errors.New("names what is not there")
	changed := st.Changed()
	require.NoError(t, st.Guard(func(t *policy.Table) error {
		if t.Version() == "bad" {
			return bad
		}
		return nil
	}))
	assert.True(t, closed(changed))
	assert.Equal(t, "built in", st.Current().Version())
	status := st.Status()
	assert.Equal(t, policy.StateRefused, status.State())
	assert.Equal(t, "bad", status.Refusal.Version)
	assert.Equal(t, "file", status.Refusal.Source)
	assert.Equal(t, bad, status.Refusal.Err)
	require.ErrorIs(t, st.Source("file").Update(version("bad")), bad, "it stays")
	require.NoError(t, st.Source("file").Update(version("good")))
	require.Error(t, st.Guard(func(*policy.Table) error { return bad }), "what is in code must pass")
	require.NoError(t, st.Update(version("good again")), "a guard that failed is not added")
}

// TestTooManyRules: refused before work is done for them.
func TestTooManyRules(t *testing.T) {
	t.Parallel()
	st := new(policy.Store)
	err := st.Update(policy.Set{Rules: make([]policy.Rule, policy.MaxRules+1)})
	require.EqualError(t, err, `rules: must be at most 100000 with as many methods, got 100001`)
	err = st.Update(policy.Set{Rules: []policy.Rule{{Methods: make([]string, policy.MaxRules+1)}}})
	require.EqualError(t, err, `rules: must be at most 100000 with as many methods, got 100001`)
}

// TestChangedUnderLoad: a waiter sees the last set, however many come at once.
func TestChangedUnderLoad(t *testing.T) {
	t.Parallel()
	st := new(policy.Store)
	var waiting, busy sync.WaitGroup
	for range 8 {
		waiting.Go(func() {
			for {
				changed := st.Changed()
				if st.Current().Version() == "last" {
					return
				}
				<-changed
			}
		})
	}
	for range 4 {
		busy.Go(func() {
			for range 100 {
				_ = st.Source("a").Update(version("x"))
				st.Source("b").Lost(errors.New("gone"))
				_ = st.Source("c").Update(broken("y"))
				_ = st.Status().Age(time.Now())
			}
		})
	}
	busy.Wait()
	require.NoError(t, st.Update(version("last")))
	waiting.Wait()
}
