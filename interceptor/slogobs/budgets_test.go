package slogobs

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/budget"
)

// TestSpells: it begins with a denial, and is over at the first call that ends five seconds
// after the last one.
func TestSpells(t *testing.T) {
	t.Parallel()
	const sec = time.Second
	retries, hedges := denier{"t", budget.Retry}, denier{"t", budget.Hedge}
	var b budgets
	for i, call := range []struct {
		at              time.Duration
		of              denier
		granted, denied int
		want            change
		denials         int // of the spell that stops
		since           int // granted since the last of them
		lasted          time.Duration
	}{
		{at: 0, of: retries, granted: 1},
		{at: 1 * sec, of: retries, denied: 1, want: begins},
		{at: 1 * sec, of: hedges},                             // a budget of another kind
		{at: 1 * sec, of: denier{"u", budget.Retry}},          // of another target
		{at: 2 * sec, of: retries, granted: 1, denied: 2},     // goes on
		{at: 6 * sec, of: retries, granted: 3},                // it was paid in: no end yet
		{at: 6500 * time.Millisecond, of: retries, denied: 1}, // and goes on
		{at: 6400 * time.Millisecond, of: retries, denied: 1}, // was told late
		{at: 7 * sec, of: hedges, denied: 1, want: begins},
		{at: 8 * sec, of: retries, granted: 2},
		{at: 11499 * time.Millisecond, of: retries},
		{at: 11500 * time.Millisecond, of: retries, want: stops, denials: 5, since: 2, lasted: 5500 * time.Millisecond},
		{at: 11500 * time.Millisecond, of: retries},
		{at: 12 * sec, of: retries, denied: 1, want: begins},
		{at: 60 * sec, of: retries, denied: 1, want: again, denials: 1}, // nothing has shown that it was over
		{at: 62 * sec, of: retries, denied: 1},
		{at: 99 * sec, of: retries, granted: 1, want: stops, denials: 2, since: 1, lasted: 2 * sec},
		{at: 99 * sec, of: hedges, want: stops, denials: 1},
	} {
		got, was := b.note(call.of, call.granted, call.denied, began.Add(call.at))
		assert.Equal(t, call.want, got, "call %d", i)
		assert.Equal(t, call.denials, was.denied, "call %d", i)
		assert.Equal(t, call.since, was.granted, "call %d", i)
		assert.Equal(t, call.lasted, was.last.Sub(was.began), "call %d", i)
	}
	assert.True(t, b.allGrant())
}

// TestSpellsAreBounded: there are no lines about further ones, until some are idle.
func TestSpellsAreBounded(t *testing.T) {
	t.Parallel()
	var b budgets
	deny := func(target string, at time.Duration) change {
		c, _ := b.note(denier{target, budget.Retry}, 0, 1, began.Add(at))
		return c
	}
	for i := range maxSpells {
		assert.Equal(t, begins, deny(fmt.Sprint(i), 0))
	}
	assert.Equal(t, none, deny("one more", 0))
	assert.Equal(t, again, deny("0", idle))
	assert.Equal(t, begins, deny("one more", idle+time.Second))
	assert.Len(t, *b.spells.Load(), 2)
}
