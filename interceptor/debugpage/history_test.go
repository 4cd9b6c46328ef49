package debugpage

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
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
	c.history = &history{n: -1, methods: make(map[key]*series), budgets: make(map[budgetKey]*budgetSeries)}
	c.state.Targets = []interceptor.TargetState{{Name: "t", Budgets: []interceptor.BudgetState{{Since: c.now}}}}
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
	for _, p := range c.sumLocked(&c.state) {
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
	c.made(0, again, 3)
	budget.Since, budget.Granted, budget.Denied = again, 3, 5
	k := budgetKey{key{target: "t"}, interceptor.BudgetOfTarget}
	for range 2 { // before and after the next sample
		assert.EqualValues(t, 23, c.recent(0))
		granted, denied := c.recentBudgetLocked(k, budget)
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

// TestLateMethodGetsPlace: one that is called comes before any number of those that are not.
func TestLateMethodGetsPlace(t *testing.T) {
	t.Parallel()
	c := newCounted()
	since := c.now.Add(time.Second)
	const late = 2*maxSeries + 99
	for i := range late + 1 {
		c.made(i, since, 1)
	}
	c.next()
	m := &c.state.Targets[0].Methods[late]
	assert.False(t, c.keepsLocked(c.methods[key{"t", m.Method}], m))
	for n := range int64(samples + 2) {
		c.made(late, since, 1+n)
		c.next()
	}
	c.made(late, since, 100)
	c.next()
	assert.True(t, c.keepsLocked(c.methods[key{"t", m.Method}], m))
	assert.Positive(t, c.recent(late))
	assert.LessOrEqual(t, len(c.methods), maxSeries)
}
