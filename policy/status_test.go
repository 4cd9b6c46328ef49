package policy_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
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
			time.Sleep(time.Second)
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

// TestRevisions: a set may not take the store back.
func TestRevisions(t *testing.T) {
	t.Parallel()
	st := new(policy.Store)
	for _, r := range []struct {
		revision uint64
		version  string
		want     string // empty if it is taken
	}{
		{0, "a", ""},
		{7, "b", ""},
		{7, "c", ""}, // a restart counts anew
		{6, "d", "revision: must not be below 7, which is in force, got 6"},
		{8, "e", ""},
		{7, "b", "revision: must not be below 8, which is in force, got 7"},
		{0, "f", ""}, // not compared
		{1, "g", ""},
	} {
		err := st.Update(policy.Set{Version: r.version, Revision: r.revision})
		if r.want == "" {
			require.NoError(t, err)
			assert.Equal(t, r.version, st.Current().Version())
			continue
		}
		require.EqualError(t, err, r.want)
		assert.Equal(t, r.revision, st.Status().Refusal.Revision)
		assert.NotEqual(t, r.version, st.Current().Version())
	}
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

func TestLimits(t *testing.T) {
	t.Parallel()
	l := policy.Limits{MaxAttempts: 4, MaxExtraLoad: 0.05, MaxTimeout: 10 * time.Second}
	for _, r := range []struct {
		limits policy.Limits
		policy policy.Policy
		want   string
	}{
		{l, policy.Policy{}, ""},
		{policy.Limits{}, policy.Policy{Timeout: time.Hour, Hedge: policy.Hedge{Delay: 1}, Retry: policy.Retry{MaxAttempts: 100}}, ""},
		{l, policy.Policy{Retry: policy.Retry{MaxAttempts: 4}, Timeout: 10 * time.Second, Hedge: policy.Hedge{MaxExtraLoad: 0.05}}, ""},
		{l, policy.Policy{Hedge: policy.Hedge{Percentile: 0.95}}, ""},
		{policy.Limits{MaxExtraLoad: 0.02}, policy.Policy{Hedge: policy.Hedge{Percentile: 0.98}}, ""},
		{l, policy.Policy{Hedge: policy.Hedge{Off: true, Delay: 1}}, ""},
		{l, policy.Policy{Retry: policy.Retry{MaxAttempts: 5}}, `retry.max_attempts: must not exceed the limit 4, got 5`},
		{policy.Limits{MaxAttempts: 2}, policy.Policy{}, `retry.max_attempts: must not exceed the limit 2, got 3`}, // the default
		{l, policy.Policy{Timeout: time.Minute}, `timeout: must not exceed the limit 10s, got 1m0s`},
		{l, policy.Policy{AttemptTimeout: time.Minute}, `attempt_timeout: must not exceed the limit 10s, got 1m0s`},
		{l, policy.Policy{Hedge: policy.Hedge{MaxExtraLoad: 0.06}}, `hedge.max_extra_load: must not exceed the limit 0.05, got 0.06`},
		{l, policy.Policy{Hedge: policy.Hedge{Percentile: 0.9}}, `hedge.percentile: must be at least 0.95, since the limit of extra load is 0.05, got 0.9`},
		{l, policy.Policy{Hedge: policy.Hedge{Delay: time.Second}}, `hedge.delay: has no bound on extra load, which the limit 0.05 asks for`},
		{l, policy.Policy{Hedge: policy.Hedge{Trigger: "mine", MaxExtraLoad: 0.05}}, ""},
		{l, policy.Policy{Hedge: policy.Hedge{Trigger: "mine"}}, `hedge.trigger: needs max_extra_load beside it, since the limit of extra load is 0.05`},
	} {
		st := new(policy.Store)
		require.NoError(t, st.Guard(r.limits.Check))
		r.policy.Name, r.policy.Idempotency = "users", classify.Idempotent
		err := st.Update(policy.Set{Rules: []policy.Rule{{Methods: []string{"*"}, Policy: r.policy}}})
		if r.want == "" {
			require.NoError(t, err, "%+v", r.policy)
			continue
		}
		require.EqualError(t, err, `rules[0]: policy "users": `+r.want)
	}

	ratio := policy.Set{Budgets: []policy.Budget{{Name: "a", Ratio: &budget.RatioConfig{Ratio: 0.2}}}}
	st := new(policy.Store)
	require.NoError(t, st.Guard(l.Check))
	require.EqualError(t, st.Update(ratio), `budgets[0].ratio.ratio: must not exceed the limit 0.05, got 0.2`)
	require.NoError(t, new(policy.Store).Update(ratio))
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
