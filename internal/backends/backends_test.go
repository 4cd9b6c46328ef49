package backends_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/backends"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/policy"
)

const target = "dns:///users:443"

func TestRecord(t *testing.T) {
	t.Parallel()
	c := backends.NewCall(target)
	all := map[string]bool{"a": true, "b": true, "c": true, "d": true, "e": true, "f": true, "g": true}
	at := make([]*backends.Attempt, 6)
	for n := range at {
		at[n] = backends.From(c.Attempt(t.Context(), n+1), target)
		require.NotNil(t, at[n])
	}
	story := func() (s string) {
		for n := range at {
			if b, noOther := c.Of(n + 1); b != "" && noOther {
				s += fmt.Sprint(" ", n+1, b, "!")
			} else if b != "" {
				s += fmt.Sprint(" ", n+1, b)
			}
		}
		return s
	}
	for _, r := range []struct {
		does string // number, backend, and ! for TakeAgain
		ok   bool
		then string
		used int
	}{
		{"1a", true, " 1a", 0},
		{"2a", false, " 1a", 1},
		{"2b", true, " 1a 2b", 1},
		{"3c", true, " 1a 2b 3c", 2},
		{"3c", true, " 1a 2b 3c", 2}, // a policy above has seen what the one below has picked
		{"3c!", true, " 1a 2b 3c", 2},
		{"3d", true, " 1a 2b 3d", 2}, // what it had picked before has not got the request
		{"4c", true, " 1a 2b 3d 4c", 3},
		{"5a!", true, " 1a 2b 3d 4c 5a!", 4},
		{"5a", false, " 1a 2b 3d 4c 5a!", 4},
		{"1a!", true, " 1a! 2b 3d 4c 5a!", 4},
		{"6e", true, " 1a! 2b 3d 4c 5a! 6e", 4}, // more than there is room for at first
		{"5f", true, " 1a! 2b 3d 4c 5f 6e", 5},
		{"1g", true, " 1g 2b 3d 4c 5f 6e", 5},
	} {
		a, b := at[r.does[0]-'1'], r.does[1:2]
		if len(r.does) == 2 {
			assert.Equal(t, r.ok, a.Take(b), r.does)
		} else {
			a.TakeAgain(b)
		}
		assert.Equal(t, r.then, story(), r.does)
		assert.Equal(t, r.used, a.Used(all), r.does)
	}
	assert.Equal(t, 1, at[0].Used(map[string]bool{"b": true, "z": true}))
	at[1].Forget()
	assert.Equal(t, " 1g 3d 4c 5f 6e", story())
	assert.True(t, at[5].Take("b"))
	c.Renew(4)
	assert.Equal(t, " 4c", story())
	assert.False(t, at[4].Take("c"))
	assert.True(t, at[4].Take("b"))
}

func TestNoRecord(t *testing.T) {
	t.Parallel()
	var none *backends.Call
	b, noOther := none.Of(1)
	assert.Empty(t, b)
	assert.False(t, noOther)
	none.Renew(1)
	assert.Nil(t, backends.From(t.Context(), target))
	ctx := backends.NewCall(target).Attempt(t.Context(), 1)
	assert.Nil(t, backends.From(ctx, "dns:///tokens:443"), "a call to others with the context of an attempt")
	inner := backends.NewCall(target).Attempt(ctx, 1)
	assert.Same(t, inner, backends.From(inner, target))
}

// TestContext: it is that of the call in all else, and what is derived from it ends with
// that.
func TestContext(t *testing.T) {
	t.Parallel()
	type name struct{}
	parent, cancel := context.WithCancel(context.WithValue(t.Context(), name{}, "value"))
	ctx := backends.NewCall(target).Attempt(parent, 1)
	child, stop := context.WithCancel(ctx)
	defer stop()
	assert.Equal(t, "value", child.Value(name{}))
	assert.NotNil(t, backends.From(child, target))
	cancel()
	<-child.Done()
	assert.ErrorIs(t, child.Err(), context.Canceled)
}

// TestMadeAgain: whoever has kept the context of an attempt keeps that.
func TestMadeAgain(t *testing.T) {
	t.Parallel()
	type try struct{}
	c := backends.NewCall(target)
	one := c.Attempt(context.WithValue(t.Context(), try{}, 1), 1)
	assert.True(t, backends.From(one, target).Take("a"))
	two := c.Attempt(context.WithValue(t.Context(), try{}, 2), 1)
	assert.Equal(t, 1, one.Value(try{}))
	assert.Equal(t, 2, two.Value(try{}))
	assert.True(t, backends.From(two, target).Take("b"))
	b, _ := c.Of(1)
	assert.Equal(t, "b", b)
}

func TestSideBySide(t *testing.T) {
	t.Parallel()
	c := backends.NewCall(target)
	var mu sync.Mutex
	var taken int
	var attempts sync.WaitGroup
	for n := range 8 {
		a := backends.From(c.Attempt(t.Context(), n+1), target)
		attempts.Go(func() {
			if a.Take("a") {
				mu.Lock()
				defer mu.Unlock()
				taken++
			}
			a.Used(nil)
			c.Of(n)
		})
	}
	attempts.Wait()
	assert.Equal(t, 1, taken)
}

// TestRecordCostsOneAllocation: and nothing before there is a policy that reads it, nor for a
// call that can have one attempt only. It is not parallel, since others would count too.
func TestRecordCostsOneAllocation(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties sync.Pool at random")
	}
	require.False(t, backends.Expected())
	allocs := func(retry policy.Retry) float64 {
		it, err := interceptor.New(interceptor.WithPolicy(policy.Policy{Idempotency: classify.Idempotent, Retry: retry}))
		require.NoError(t, err)
		unary := it.Unary()
		ok := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
		return testing.AllocsPerRun(1000, func() { _ = unary(context.Background(), testsrv.Get, nil, nil, nil, ok) })
	}
	some, one := policy.Retry{}, policy.Retry{MaxAttempts: 1}
	before, beforeOne := allocs(some), allocs(one)
	backends.Expect()
	require.True(t, backends.Expected())
	assert.InDelta(t, before+1, allocs(some), 0)
	assert.InDelta(t, beforeOne, allocs(one), 0)
}
