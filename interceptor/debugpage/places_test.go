package debugpage

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestContest: who loses a place and who gets one.
func TestContest(t *testing.T) {
	t.Parallel()
	type c = claim[string]
	for name, r := range map[string]struct {
		holders, others []c
		free            int
		out, in         []string
	}{
		"there is room":               {nil, []c{{"a", madeUp, 0}, {"b", own, 0}}, 2, nil, []string{"b", "a"}},
		"the best get what is free":   {nil, []c{{"a", own, 1}, {"b", own, 5}, {"c", madeUp, 9}}, 1, nil, []string{"b"}},
		"busier by little":            {[]c{{"a", own, 5}}, []c{{"b", own, 10}}, 0, nil, nil},
		"busier by much":              {[]c{{"a", own, 5}}, []c{{"b", own, 11}}, 0, []string{"a"}, []string{"b"}},
		"the quietest yields":         {[]c{{"a", own, 5}, {"b", own, 1}}, []c{{"c", own, 11}}, 0, []string{"b"}, []string{"c"}},
		"quiet yields to any call":    {[]c{{"a", own, 0}}, []c{{"b", own, 1}}, 0, []string{"a"}, []string{"b"}},
		"but not to another":          {[]c{{"a", own, 0}}, []c{{"b", own, 0}}, 0, nil, nil},
		"made up yields first":        {[]c{{"a", own, 0}, {"b", madeUp, 99}}, []c{{"c", own, 1}}, 0, []string{"b"}, []string{"c"}},
		"made up takes nothing":       {[]c{{"a", own, 0}}, []c{{"b", madeUp, 99}}, 0, nil, nil},
		"but of what is idle":         {[]c{{"a", idle, 0}}, []c{{"b", madeUp, 1}}, 0, []string{"a"}, []string{"b"}},
		"shared comes before all":     {[]c{{"a", own, 99}}, []c{{"b", shared, 1}}, 0, []string{"a"}, []string{"b"}},
		"as many as can be satisfied": {[]c{{"a", own, 1}, {"b", own, 7}}, []c{{"c", own, 20}, {"d", own, 9}}, 0, []string{"a"}, []string{"c"}},
	} {
		out, in := contest(r.holders, r.others, r.free)
		assert.Equal(t, r.out, out, name)
		assert.Equal(t, r.in, in, name)
	}
}

// TestCrowd: what those without a place have done since, also when a count wraps around or a method
// is gone. Those that share a cell pass for equals.
func TestCrowd(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		before, now []int64 // of those in a cell
		want        int64
	}{
		"one":            {[]int64{7}, []int64{12}, 5},
		"new":            {nil, []int64{12}, 12},
		"nothing":        {[]int64{7}, []int64{7}, 0},
		"wraps around":   {[]int64{1<<32 - 1}, []int64{1<<32 + 4}, 5},
		"somebody left":  {[]int64{7, 100}, []int64{12}, 0},
		"two":            {[]int64{7, 7}, []int64{17, 7}, 5},
		"one did little": {[]int64{7, 7, 7}, []int64{8, 7, 7}, 1},
	} {
		var before, now crowd[string]
		for _, n := range r.before {
			before.add("a", n)
		}
		for _, n := range r.now {
			now.add("a", n)
		}
		assert.Equal(t, r.want, now.since(&before, "a"), name)
	}
}
