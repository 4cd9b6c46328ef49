package policy_test

import (
	"errors"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy"
)

func version(v string) policy.Set {
	return policy.Set{Version: v, Rules: []policy.Rule{rule(v, "*")}}
}

// TestStoreKeepsLastGood follows one store through updates: what is offered, what
// is said to it, what is in force afterwards.
func TestStoreKeepsLastGood(t *testing.T) {
	t.Parallel()
	broken := version("broken")
	broken.Rules[0].Policy.Timeout = -1
	broken.Rules = append(broken.Rules, rule("fine", "/a.B/C")) // not even this one
	const fault = `rules[0]: policy "broken": timeout: must be between 0 and 24h0m0s, got -1ns`

	st := new(policy.Store)
	for _, step := range []struct {
		set  policy.Set
		err  string
		want string // in force
	}{
		{broken, fault, ""}, // the zero store is empty
		{version("1"), "", "1"},
		{broken, fault, "1"},
		{version("2"), "", "2"},
		{version("2"), "", "2"}, // a version may come again
		{version("1"), "", "1"}, // and go back
		{policy.Set{}, "", ""},  // no rules is a valid set
	} {
		err := st.Update(step.set)
		if step.err == "" {
			require.NoError(t, err, step.set.Version)
		} else {
			require.EqualError(t, err, step.err)
			var faults policy.Faults
			require.ErrorAs(t, err, &faults)
		}
		assert.Equal(t, step.want, st.Current().Version(), "after %q", step.set.Version)
		assert.NotEqual(t, "fine", found(st.Current(), "/a.B/C"), "after %q", step.set.Version)
	}
}

func TestZeroStore(t *testing.T) {
	t.Parallel()
	var st policy.Store
	table := st.Current()
	require.NotNil(t, table)
	assert.Nil(t, table.Lookup("/a.B/C"))
	assert.Empty(t, table.Version())
	assert.False(t, table.RetriesOff())
	assert.False(t, table.HedgesOff())
}

func TestNewStore(t *testing.T) {
	t.Parallel()
	st, err := policy.NewStore(version("1"))
	require.NoError(t, err)
	assert.Equal(t, "1", st.Current().Version())

	st, err = policy.NewStore(rules(rule("a")))
	require.EqualError(t, err, `rules[0].methods: must name at least one method`)
	assert.Nil(t, st)
}

// TestSnapshot: a call that took the table keeps it, whatever comes after.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	st, err := policy.NewStore(version("1"))
	require.NoError(t, err)
	mine := st.Current()
	require.NoError(t, st.Update(version("2")))
	assert.Equal(t, "1", mine.Version())
	assert.Equal(t, "1", found(mine, "/a.B/C"))
	assert.Equal(t, "2", found(st.Current(), "/a.B/C"))
}

func TestGuards(t *testing.T) {
	t.Parallel()
	st, err := policy.NewStore(version("1"))
	require.NoError(t, err)
	refuse := func(version, text string, asked *int) func(*policy.Table) error {
		return func(table *policy.Table) error {
			*asked++
			if table.Version() == version {
				return errors.New(text)
			}
			return nil
		}
	}
	var a, b, c int
	require.NoError(t, st.Guard(refuse("2", "not two", &a)))
	assert.Equal(t, 1, a, "the set in force is checked at once")
	require.NoError(t, st.Guard(refuse("3", "not three", &b)))
	require.EqualError(t, st.Guard(refuse("1", "not one", &c)), "not one")

	require.EqualError(t, st.Update(version("2")), "not two")
	assert.Equal(t, "1", st.Current().Version())
	require.EqualError(t, st.Update(version("3")), "not three")
	assert.Equal(t, "1", st.Current().Version())
	require.NoError(t, st.Update(version("4")))
	assert.Equal(t, "4", st.Current().Version())
	require.NoError(t, st.Update(version("1")), "a guard that refused the set in force was not added")
	assert.Equal(t, 1, c)

	before := a
	require.Error(t, st.Update(rules(rule("no methods"))))
	assert.Equal(t, before, a, "guards see valid sets only")

	zero, asked := new(policy.Store), 0
	require.EqualError(t, zero.Guard(refuse("", "not empty", &asked)), "not empty", "the zero store has a set in force too")
}

// TestStoreConcurrent is for the race detector: readers see one whole version
// each time, whatever is written beside them.
func TestStoreConcurrent(t *testing.T) {
	t.Parallel()
	const updates = 300
	st, err := policy.NewStore(version("0"))
	require.NoError(t, err)

	done := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				table := st.Current()
				if v := table.Version(); found(table, "/a.B/C") != v {
					assert.Fail(t, "mixed versions", "table %q has policy %q", v, found(table, "/a.B/C"))
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for w := range 2 {
		writers.Go(func() {
			for i := range updates {
				_ = st.Update(version(strconv.Itoa(2*i + w)))
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	assert.Contains(t, []string{strconv.Itoa(2*updates - 2), strconv.Itoa(2*updates - 1)}, st.Current().Version())
}

// TestGuardsRunOneAtATime: what a guard sees cannot change under it.
func TestGuardsRunOneAtATime(t *testing.T) {
	t.Parallel()
	const updates, guards = 50, 5
	var st policy.Store
	var running, overlaps atomic.Int32
	checks := 0
	count := func(*policy.Table) error {
		if running.Add(1) > 1 {
			overlaps.Add(1)
		}
		checks++
		runtime.Gosched() // lets another one in, if it can
		running.Add(-1)
		return nil
	}
	require.NoError(t, st.Guard(count))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range updates {
				_ = st.Update(version(strconv.Itoa(i)))
			}
		})
	}
	wg.Go(func() {
		for range guards {
			_ = st.Guard(count)
		}
	})
	wg.Wait()
	assert.Zero(t, overlaps.Load())
	assert.GreaterOrEqual(t, checks, 1+guards+4*updates, "each guard when it is added, the first at every update")
}
