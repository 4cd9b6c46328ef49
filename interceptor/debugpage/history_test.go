package debugpage

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
)

// counted is what an interceptor would tell at each sample.
type counted struct {
	*history
	now   time.Time
	state interceptor.State
}

func newCounted() *counted {
	c := &counted{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	c.history = emptyHistory()
	c.state.Targets = []interceptor.TargetState{{Name: "t", Since: c.now, Budgets: []interceptor.BudgetState{{Since: c.now}}}}
	return c
}

// next takes a sample ten seconds after the last one.
func (c *counted) next() {
	c.now = c.now.Add(interval)
	c.state.Time = c.now
	c.takeLocked(&c.state)
}

// made makes calls of a method that there is since a time.
func (c *counted) made(i int, since time.Time, calls int64) {
	t := &c.state.Targets[0]
	for len(t.Methods) <= i {
		t.Methods = append(t.Methods, interceptor.MethodState{Method: fmt.Sprintf("/a.B/M%04d", len(t.Methods)), Since: since})
	}
	t.Methods[i].Since = since
	t.Methods[i].Calls = []interceptor.CallCount{{Code: codes.OK, Count: calls}}
}

func (c *counted) recent(i int) int64 {
	m := &c.state.Targets[0].Methods[i]
	sum := c.recentLocked(key{"t", m.Method}, m)
	return sum.calls
}

func (c *counted) pastCalls() (list []int64) {
	past, _ := c.sumLocked(&c.state)
	for _, p := range past {
		list = append(list, p.Calls)
	}
	return list
}

// TestTargetComesBack: between two samples, so that all of it counts anew; and what is gone
// stays in the past of all methods.
func TestTargetComesBack(t *testing.T) {
	t.Parallel()
	c := newCounted()
	c.next()
	began := c.now.Add(time.Second)
	c.made(0, began, 20)
	budget := &c.state.Targets[0].Budgets[0]
	budget.Since, budget.Granted, budget.Denied = began, 20, 2
	c.next()
	again := c.now.Add(time.Second)
	c.state.Targets[0].Since = again
	c.made(0, again, 3)
	budget.Since, budget.Granted, budget.Denied = again, 3, 5
	k := budgetKey{key{target: "t"}, interceptor.BudgetOfTarget}
	for range 2 { // before and after the next sample
		assert.EqualValues(t, 23, c.recent(0))
		granted, denied, _ := c.recentBudgetLocked(k, budget)
		assert.Equal(t, [2]int64{23, 7}, [2]int64{granted, denied})
		for _, p := range c.budgetPastLocked(k, budget, c.now) {
			assert.GreaterOrEqual(t, p.Granted, int64(0))
		}
		c.next()
	}
	c.state.Targets = nil
	c.next()
	assert.Equal(t, []int64{20, 3, 0, 0, 0}, c.pastCalls())
}

// TestHistoryBegins: of a method or a budget that gets a place late, there is nothing from before
// that; and a budget has no balance before it was made.
func TestHistoryBegins(t *testing.T) {
	t.Parallel()
	c := newCounted()
	for range 4 {
		c.next()
	}
	made := c.now.Add(time.Second)
	target := &c.state.Targets[0]
	target.Budgets = append(target.Budgets, interceptor.BudgetState{Kind: interceptor.BudgetOfMethod, Name: "/a.B/M0000", Since: made, HasBalance: true, Balance: 3})
	c.made(0, made, 5)
	c.next()
	m, b := &target.Methods[0], &target.Budgets[1]
	k := budgetKey{key{"t", b.Name}, b.Kind}
	assert.Len(t, c.pastLocked(key{"t", m.Method}, m, c.now), 5, "a new method was not called before")
	past := c.budgetPastLocked(k, b, c.now)
	assert.Len(t, past, 2)
	for _, p := range past {
		assert.InDelta(t, 3, p.Balance, 0)
	}
	delete(c.methods, key{"t", m.Method}) // it has to yield, and gets a place again
	c.made(0, made, 7)
	c.next()
	_, ok := c.knownLocked(c.methods[key{"t", m.Method}], m)
	assert.False(t, ok, "the history begins now")
	c.made(0, made, 8)
	c.next()
	since, ok := c.knownLocked(c.methods[key{"t", m.Method}], m)
	assert.True(t, ok)
	assert.Equal(t, c.now.Add(-interval), since)
	assert.EqualValues(t, 1, c.recent(0))
	assert.Len(t, c.pastLocked(key{"t", m.Method}, m, c.now), 2)
	_, recent := c.sumLocked(&c.state)
	assert.EqualValues(t, 8, recent.Calls, "of all, nothing is missing")
}

// TestPlacesGoToThoseThatNeedThem: with more methods than there are places, the one that fails and
// the one that is busy get one at the next sample, and those that are equal keep theirs.
func TestPlacesGoToThoseThatNeedThem(t *testing.T) {
	t.Parallel()
	c := newCounted()
	since := c.now.Add(time.Second)
	const n = maxSeries + 100
	calls := func(i int) int64 { return int64(c.n+2) * int64(10+i%5) }
	all := func() {
		for i := range n {
			c.made(i, since, calls(i))
		}
	}
	all()
	c.next()
	placed := maps.Clone(c.methods)
	for range 10 {
		all()
		c.next()
	}
	assert.Equal(t, placed, c.methods, "nobody needs a place much more than another")

	of := func(i int) key { return key{"t", fmt.Sprintf("/a.B/M%04d", i)} }
	var without []int
	for i := range n {
		if c.methods[of(i)] == nil {
			without = append(without, i)
		}
	}
	require.Len(t, without, 100)
	busy, bad := without[0], without[1]
	all()
	c.made(busy, since, calls(busy)+1000)
	m := &c.state.Targets[0].Methods[bad]
	m.Calls = append(m.Calls, interceptor.CallCount{Code: codes.Internal, Reason: interceptor.EndNonRetryable, Count: 5})
	c.next()
	assert.Contains(t, c.methods, of(busy))
	assert.Contains(t, c.methods, of(bad))
	assert.Len(t, c.methods, maxSeries)
}

// TestSumOfAll: calls of methods without a place count in the sum of all, those that are gone too.
func TestSumOfAll(t *testing.T) {
	t.Parallel()
	c := newCounted()
	since := c.now.Add(time.Second)
	const n = maxSeries + 500
	c.next()
	for round := range int64(3) {
		for i := range n {
			c.made(i, since, 1+round)
		}
		c.next()
	}
	_, recent := c.sumLocked(&c.state)
	assert.EqualValues(t, 3*n, recent.Calls)
	assert.Equal(t, []int64{n, n, n, 0}, c.pastCalls())
	c.state.Targets = nil
	_, recent = c.sumLocked(&c.state)
	assert.EqualValues(t, 3*n, recent.Calls)
}

// TestReasonsHaveRoom: the last place is that of reasons which this package does not know.
func TestReasonsHaveRoom(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "invalid", endReason(reasons-1), "interceptor.EndReason has grown: reasons in interceptor/debugpage/history.go")
	assert.Equal(t, "invalid", denialReason(reasons-1), "interceptor.DenialReason has grown: reasons in interceptor/debugpage/history.go")
}
