package slogobs

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/interceptor"
)

var began = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// TestRations: a line about each cause in a second, with what was left out since the last one.
func TestRations(t *testing.T) {
	t.Parallel()
	const left = -1
	get := cause{target: "t", method: "/s/Get", message: "failed", reason: interceptor.EndDeadline}
	other := func(change func(*cause)) cause {
		c := get
		change(&c)
		return c
	}
	var r rations
	for i, step := range []struct {
		at    time.Duration
		about cause
		want  int
	}{
		{0, get, 0},
		{0, get, left},
		{0, other(func(c *cause) { c.target = "u" }), 0},
		{0, other(func(c *cause) { c.method = "/s/Put" }), 0},
		{0, other(func(c *cause) { c.message = "retried" }), 0},
		{0, other(func(c *cause) { c.reason = interceptor.EndPushback }), 0},
		{0, other(func(c *cause) { c.denial = interceptor.DeniedByBudget }), 0},
		{999 * time.Millisecond, get, left},
		{time.Second, get, 2},
		{time.Second, get, left},
		{time.Hour, get, 1},
		{time.Hour - time.Minute, get, left}, // the clock was set back
	} {
		n, ok := r.take(step.about, time.Second, began.Add(step.at))
		if !ok {
			n = left
		}
		assert.Equal(t, step.want, n, "step %d", i)
	}
}

// TestRationsAreBounded: beyond 4,096 causes all share a line, until some are idle, and what was
// left out of these is told.
func TestRationsAreBounded(t *testing.T) {
	t.Parallel()
	var r rations
	take := func(name string, at time.Duration) (int, bool) {
		return r.take(cause{target: name}, time.Second, began.Add(at))
	}
	for i := range maxCauses {
		_, ok := take(fmt.Sprint("kept ", i), 0)
		assert.True(t, ok)
	}
	_, ok := take("kept 0", 0)
	assert.False(t, ok)
	_, ok = take("one more", 0)
	assert.True(t, ok)
	_, ok = take("another", 0)
	assert.False(t, ok)
	assert.Len(t, r.of, maxCauses)

	later := 2*time.Second + idle
	n, ok := take("much later", later)
	assert.True(t, ok)
	assert.Zero(t, n)
	assert.Len(t, r.of, 1)
	for i := range maxCauses - 1 {
		_, _ = take(fmt.Sprint("new ", i), later)
	}
	n, ok = take("shares", later)
	assert.True(t, ok)
	assert.Equal(t, 2, n, "kept 0 and another")
}

func BenchmarkRations(b *testing.B) {
	var r rations
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c := cause{target: "dns:///users:443", method: "/users.v1.Users/Get", message: "rego: call failed"}
		for pb.Next() {
			r.take(c, time.Second, began)
		}
	})
}
