package spread

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/metadata"

	"github.com/rego-go/rego/internal/backends"
)

// scripted is a child picker that picks one backend after the other, by their letters, and
// then the last one for ever. What it cannot pick is '!'. It counts what is picked and not
// done.
type scripted struct {
	picks string

	mu     sync.Mutex
	at     int
	open   map[string]int
	ends   []error // of what is done, in order
	conns  map[string]*subConn
	inners map[balancer.SubConn]string
}

func script(picks string) *scripted {
	return &scripted{picks: picks, open: map[string]int{}, conns: map[string]*subConn{}, inners: map[balancer.SubConn]string{}}
}

var errNothing = errors.New("nothing to pick")

func (s *scripted) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := s.picks[min(s.at, len(s.picks)-1):][:1]
	s.at++
	if name == "!" {
		return balancer.PickResult{}, errNothing
	}
	if s.conns[name] == nil {
		s.conns[name] = &subConn{SubConn: new(struct {
			fakeConn
			_ int // two of size zero may have one address
		}), backend: name}
		s.inners[s.conns[name].SubConn] = name
	}
	s.open[name]++
	return balancer.PickResult{
		SubConn:  s.conns[name],
		Metadata: metadata.Pairs("picked", name),
		Done: func(d balancer.DoneInfo) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.open[name]--
			s.ends = append(s.ends, d.Err)
		},
	}, nil
}

func (s *scripted) running() (names string) {
	for name, n := range s.open {
		names += strings.Repeat(name, n)
	}
	return names
}

func newPicker(child balancer.Picker, endpoints int) *picker {
	p := &picker{child: child, target: benchTarget, known: new(atomic.Pointer[map[string]bool])}
	p.known.Store(letters("abcdefghij"[:endpoints]))
	return p
}

// letters are backends.
func letters(s string) *map[string]bool {
	set := map[string]bool{}
	for _, r := range s {
		set[string(r)] = true
	}
	return &set
}

// TestPickAnother: what is picked for the attempts of a call, and how often the child is asked.
func TestPickAnother(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		endpoints int
		used      string // by earlier attempts
		picks     string // of the child
		got       string
		asked     int
		noOther   bool
	}{
		"the first attempt":                         {3, "", "a", "a", 1, false},
		"not used":                                  {3, "a", "b", "b", 1, false},
		"used, then another":                        {3, "a", "ab", "b", 2, false},
		"two used":                                  {3, "ab", "abac", "c", 4, false},
		"eight picks at most":                       {9, "ab", "ababababc", "a", 8, true},
		"found with the eighth":                     {9, "ab", "abababac", "c", 8, false},
		"a random policy may repeat itself":         {3, "a", "aaab", "b", 4, false},
		"one backend: not asked again":              {1, "a", "a", "a", 1, true},
		"all used: take what comes":                 {2, "ab", "b", "b", 1, true},
		"all used twice":                            {2, "abab", "b", "b", 1, true},
		"an error on the second pick":               {3, "a", "a!", "a", 2, true},
		"an error on the third":                     {3, "ab", "ab!", "a", 3, true},
		"no pick at all":                            {3, "a", "!", "", 1, false},
		"a backend that the resolver has forgotten": {2, "xy", "a", "a", 1, false},
		"one that is left, and a new one":           {2, "xa", "ab", "b", 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := backends.NewCall(benchTarget)
			for i, b := range r.used {
				backends.From(c.Attempt(t.Context(), i+1), benchTarget).TakeAgain(string(b))
			}
			child, number := script(r.picks), len(r.used)+1
			got, err := newPicker(child, r.endpoints).Pick(balancer.PickInfo{Ctx: c.Attempt(t.Context(), number)})
			assert.Equal(t, r.asked, child.at, "picks")
			if r.got == "" {
				require.ErrorIs(t, err, errNothing)
				assert.Empty(t, child.running())
				noted, _ := c.Of(number)
				assert.Empty(t, noted)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, r.got, child.inners[got.SubConn], "the SubConn that the parent knows")
			assert.Equal(t, []string{r.got}, got.Metadata["picked"])
			noted, noOther := c.Of(number)
			assert.Equal(t, r.got, noted)
			assert.Equal(t, r.noOther, noOther)

			assert.Equal(t, r.got, child.running(), "what was rejected is done")
			for _, err := range child.ends {
				require.ErrorIs(t, err, errRejected, "and no success")
			}
			got.Done(balancer.DoneInfo{})
			assert.Empty(t, child.running())
		})
	}
}

// TestRejectedAreHeld: as long as the child is asked, it knows of what it has picked. Least
// request would pick the same backend again otherwise.
func TestRejectedAreHeld(t *testing.T) {
	t.Parallel()
	child := script("aab")
	atThird := ""
	c := backends.NewCall(benchTarget)
	backends.From(c.Attempt(t.Context(), 1), benchTarget).Take("a")
	p := newPicker(pickFunc(func(info balancer.PickInfo) (balancer.PickResult, error) {
		if child.at == 2 {
			atThird = child.running()
		}
		return child.Pick(info)
	}), 3)
	_, err := p.Pick(balancer.PickInfo{Ctx: c.Attempt(t.Context(), 2)})
	require.NoError(t, err)
	assert.Equal(t, "aa", atThird)
	assert.Equal(t, "b", child.running())
}

type pickFunc func(balancer.PickInfo) (balancer.PickResult, error)

func (f pickFunc) Pick(info balancer.PickInfo) (balancer.PickResult, error) { return f(info) }

// TestSticky: a child that picks nothing but one backend is soon asked twice only, until it
// picks another one.
func TestSticky(t *testing.T) {
	t.Parallel()
	p := newPicker(script("a"), 3)
	asked := func(child *scripted) int {
		p.child = child
		c := backends.NewCall(benchTarget)
		backends.From(c.Attempt(t.Context(), 1), benchTarget).Take("a")
		_, err := p.Pick(balancer.PickInfo{Ctx: c.Attempt(t.Context(), 2)})
		require.NoError(t, err)
		return child.at
	}
	for i, want := range []int{8, 8, 2, 2, 2} {
		assert.Equal(t, want, asked(script("a")), i)
	}
	assert.Equal(t, 2, asked(script("ab")), "not any more")
	assert.Equal(t, 8, asked(script("a")))
	assert.Equal(t, 3, asked(script("aa!")), "an error says nothing of it")
	assert.Equal(t, 8, asked(script("a")))
}

// TestPickedAgain: when grpc picks again for an attempt, what it had picked has not got the
// request.
func TestPickedAgain(t *testing.T) {
	t.Parallel()
	c := backends.NewCall(benchTarget)
	child := script("abcaab")
	p := newPicker(child, 3)
	pick := func(ctx context.Context) {
		_, err := p.Pick(balancer.PickInfo{Ctx: ctx})
		require.NoError(t, err)
	}
	of := func(number int) string { b, _ := c.Of(number); return b }

	first, second := c.Attempt(t.Context(), 1), c.Attempt(t.Context(), 2)
	pick(first) // a
	pick(first) // b: a was gone
	assert.Equal(t, "b", of(1))
	pick(second) // c
	pick(second) // a, which nobody else has used
	assert.Equal(t, "a", of(2))
	pick(second) // a: it is back
	_, noOther := c.Of(2)
	assert.Equal(t, "a", of(2))
	assert.False(t, noOther)
	p.known.Store(letters("b"))
	pick(second) // b is all there is
	_, noOther = c.Of(2)
	assert.Equal(t, "b", of(2))
	assert.True(t, noOther)
}

// TestPolicyBelow: a policy that spreads by itself is not asked again for what it has just
// noted.
func TestPolicyBelow(t *testing.T) {
	t.Parallel()
	asked, below := 0, ready("abc")
	p := newPicker(pickFunc(func(info balancer.PickInfo) (balancer.PickResult, error) {
		asked++
		return below.Pick(info)
	}), 3)
	c, got := backends.NewCall(benchTarget), map[string]bool{}
	for n := 1; n <= 4; n++ {
		_, err := p.Pick(balancer.PickInfo{Ctx: c.Attempt(t.Context(), n)})
		require.NoError(t, err)
		b, noOther := c.Of(n)
		got[b] = true
		assert.Equal(t, n == 4, noOther)
	}
	assert.Len(t, got, 3)
	assert.Equal(t, 4, asked)
}

// TestNoRecord: without a record, or with that of a call to another target, a pick is the
// child's.
func TestNoRecord(t *testing.T) {
	t.Parallel()
	foreign := backends.NewCall("dns:///tokens:443")
	backends.From(foreign.Attempt(t.Context(), 1), "dns:///tokens:443").Take("a")
	for _, ctx := range []context.Context{t.Context(), foreign.Attempt(t.Context(), 2)} {
		for _, p := range []balancer.Picker{newPicker(script("a"), 3), ready("a")} {
			_, err := p.Pick(balancer.PickInfo{Ctx: ctx})
			require.NoError(t, err)
		}
	}
	noted, _ := foreign.Of(2)
	assert.Empty(t, noted)
}

// TestForeignSubConn: a child that returns what it has not been given by rego_spread is left
// alone.
func TestForeignSubConn(t *testing.T) {
	t.Parallel()
	c := backends.NewCall(benchTarget)
	sc := new(fakeConn)
	p := newPicker(one{balancer.PickResult{SubConn: sc}}, 3)
	r, err := p.Pick(balancer.PickInfo{Ctx: c.Attempt(t.Context(), 1)})
	require.NoError(t, err)
	assert.Same(t, sc, r.SubConn)
}

// ready is the picker of rego_round_robin above backends with these letters.
func ready(names string) *turns {
	t := &turns{target: benchTarget}
	for _, name := range names {
		t.ready = append(t.ready, member{script(string(name)), string(name)})
	}
	return t
}

func TestTurns(t *testing.T) {
	t.Parallel()
	p := ready("abcd")
	plain := ""
	for range 8 {
		r, err := p.Pick(balancer.PickInfo{Ctx: t.Context()})
		require.NoError(t, err)
		plain += r.Metadata["picked"][0]
	}
	assert.Equal(t, "bcdabcda", plain)

	for start := range uint32(100) {
		p.next.Store(start)
		c := backends.NewCall(benchTarget)
		got := map[string]bool{}
		for n := 1; n <= 4; n++ {
			p.next.Store(start) // others may be in between
			_, err := p.Pick(balancer.PickInfo{Ctx: c.Attempt(t.Context(), n)})
			require.NoError(t, err)
			b, noOther := c.Of(n)
			got[b] = true
			assert.False(t, noOther)
		}
		assert.Len(t, got, 4, "as many backends as attempts")
		_, err := p.Pick(balancer.PickInfo{Ctx: c.Attempt(t.Context(), 5)})
		require.NoError(t, err)
		_, noOther := c.Of(5)
		assert.True(t, noOther)
	}
}

// TestTurnsAreEven: what one backend does not get is shared by all others, and not taken by
// the next one alone.
func TestTurnsAreEven(t *testing.T) {
	t.Parallel()
	p, got := ready("abcd"), map[string]int{}
	for range 1200 {
		c := backends.NewCall(benchTarget)
		backends.From(c.Attempt(t.Context(), 1), benchTarget).Take("a")
		_, err := p.Pick(balancer.PickInfo{Ctx: c.Attempt(t.Context(), 2)})
		require.NoError(t, err)
		b, _ := c.Of(2)
		got[b]++
	}
	assert.Equal(t, map[string]int{"b": 400, "c": 400, "d": 400}, got)
}

// TestTurnsFail: a pick that fails is not noted.
func TestTurnsFail(t *testing.T) {
	t.Parallel()
	c := backends.NewCall(benchTarget)
	p := &turns{target: benchTarget, ready: []member{{script("!"), "a"}}}
	_, err := p.Pick(balancer.PickInfo{Ctx: c.Attempt(t.Context(), 1)})
	require.ErrorIs(t, err, errNothing)
	b, _ := c.Of(1)
	assert.Empty(t, b)
}

// TestAtOnce: hedges that are picked for at the same time do not get the same backend.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	for range 500 {
		for name, p := range map[string]balancer.Picker{RoundRobin: ready("abcd"), Name: newPicker(script("aabbccd"), 4)} {
			c := backends.NewCall(benchTarget)
			var picks sync.WaitGroup
			for n := range 4 {
				ctx := c.Attempt(t.Context(), n+1)
				picks.Go(func() {
					_, err := p.Pick(balancer.PickInfo{Ctx: ctx})
					assert.NoError(t, err)
				})
			}
			picks.Wait()
			got := map[string]bool{}
			for n := range 4 {
				b, _ := c.Of(n + 1)
				got[b] = true
			}
			assert.Len(t, got, 4, name)
		}
	}
}
