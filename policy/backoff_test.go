package policy_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy"
)

// draws is a source of chosen numbers: 0, a half and the greatest below 1, again
// and again. It counts what was drawn.
type draws struct{ n int }

func (d *draws) Uint64() uint64 {
	d.n++
	return [...]uint64{0, 1 << 52, 1<<53 - 1}[(d.n-1)%3]
}

// TestBackoffLedger follows one backoff, 100 ms × 2 up to 1 s, through its
// retries: for each jitter the least, the middle and the greatest wait, give or
// take a nanosecond.
func TestBackoffLedger(t *testing.T) {
	t.Parallel()
	type waits [3]time.Duration
	rows := []struct {
		n                         int
		base                      time.Duration
		full, equal, proportional waits
	}{
		{0, 100 * ms, waits{0, 50 * ms, 100 * ms}, waits{50 * ms, 75 * ms, 100 * ms}, waits{80 * ms, 100 * ms, 120 * ms}},
		{1, 200 * ms, waits{0, 100 * ms, 200 * ms}, waits{100 * ms, 150 * ms, 200 * ms}, waits{160 * ms, 200 * ms, 240 * ms}},
		{2, 400 * ms, waits{0, 200 * ms, 400 * ms}, waits{200 * ms, 300 * ms, 400 * ms}, waits{320 * ms, 400 * ms, 480 * ms}},
		{3, 800 * ms, waits{0, 400 * ms, 800 * ms}, waits{400 * ms, 600 * ms, 800 * ms}, waits{640 * ms, 800 * ms, 960 * ms}},
		{4, second, waits{0, 500 * ms, second}, waits{500 * ms, 750 * ms, second}, waits{800 * ms, second, 1200 * ms}}, // Max
		{5, second, waits{0, 500 * ms, second}, waits{500 * ms, 750 * ms, second}, waits{800 * ms, second, 1200 * ms}},
		{math.MaxInt, second, waits{0, 500 * ms, second}, waits{500 * ms, 750 * ms, second}, waits{800 * ms, second, 1200 * ms}},
	}
	for _, r := range rows {
		for jitter, want := range map[policy.Jitter]waits{
			policy.JitterNone: {r.base, r.base, r.base}, policy.JitterFull: r.full,
			policy.JitterEqual: r.equal, policy.JitterProportional: r.proportional,
		} {
			b := policy.Backoff{Initial: 100 * ms, Multiplier: 2, Max: second, Jitter: jitter}
			source := new(draws)
			for i, w := range want {
				assert.InDelta(t, w, b.Delay(r.n, rand.New(source)), 1, "%v jitter, retry %d, draw %d", jitter, r.n, i)
			}
			drawn := 3
			if jitter == policy.JitterNone {
				drawn = 0
			}
			assert.Equal(t, drawn, source.n, "%v jitter must draw once per wait, none never", jitter)
		}
	}
}

// TestBackoffSeeded: equal seeds give equal waits, which is what makes a test of
// a caller repeatable.
func TestBackoffSeeded(t *testing.T) {
	t.Parallel()
	for _, jitter := range []policy.Jitter{policy.JitterFull, policy.JitterEqual, policy.JitterProportional} {
		b := policy.Backoff{Jitter: jitter}
		one, same, other := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(3, 4))
		differ := false
		for n := range 10 {
			wait := b.Delay(n, one)
			assert.Equal(t, wait, b.Delay(n, same), "%v jitter, retry %d", jitter, n)
			differ = differ || wait != b.Delay(n, other)
		}
		assert.True(t, differ, "%v jitter must depend on the source", jitter)
	}
}

// TestBackoffBounds: whatever valid backoff is drawn, no wait is negative or too
// long, and without jitter none is shorter than the one before.
func TestBackoffBounds(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	duration := func() time.Duration { // of any magnitude, sometimes zero
		return min(time.Duration(math.Exp(r.Float64()*33)-1), policy.MaxDuration)
	}
	for range 2000 {
		b := policy.Backoff{
			Initial:    duration(),
			Multiplier: []float64{0, 1, 1 + 99*r.Float64(), policy.MaxMultiplier}[r.IntN(4)],
			Jitter:     policy.Jitter(r.IntN(4)),
		}
		if r.IntN(3) > 0 {
			b.Max = max(b.Initial, duration())
		}
		if r.IntN(10) == 0 {
			b.Initial = policy.NoWait
		}
		require.NoError(t, policy.Policy{Retry: policy.Retry{Backoff: b}}.Validate(), "seed %d: %+v", seed, b)

		longest := b.Max
		if longest == 0 {
			longest = max(policy.DefaultMaxBackoff, b.Initial)
		}
		if b.Jitter == policy.JitterProportional {
			longest = time.Duration(float64(longest) * 1.2)
		}
		plain, before := b, time.Duration(0)
		plain.Jitter = policy.JitterNone
		for _, n := range []int{0, 1, 2, 3, 10, 63, 64, 1000, 1 << 40, math.MaxInt} {
			wait := b.Delay(n, r)
			require.GreaterOrEqual(t, wait, time.Duration(0), "seed %d: %+v, retry %d", seed, b, n)
			require.LessOrEqual(t, wait, longest, "seed %d: %+v, retry %d", seed, b, n)
			if b.Initial == policy.NoWait {
				require.Zero(t, wait, "seed %d: %+v, retry %d", seed, b, n)
			}
			base := plain.Delay(n, nil)
			require.GreaterOrEqual(t, base, before, "seed %d: %+v, retry %d", seed, b, n)
			before = base
		}
	}
}

// TestBackoffDefaults: zero fields and what they stand for wait the same.
func TestBackoffDefaults(t *testing.T) {
	t.Parallel()
	rows := []struct{ zero, spelled policy.Backoff }{
		{policy.Backoff{}, policy.Default().Retry.Backoff},
		{policy.Backoff{}, policy.Backoff{Initial: 50 * ms, Multiplier: 2, Max: 5 * second, Jitter: policy.JitterFull}},
		{policy.Backoff{Initial: 10 * second}, policy.Backoff{Initial: 10 * second, Multiplier: 2, Max: 10 * second}},
		{policy.Backoff{Max: 20 * ms}, policy.Backoff{Initial: 20 * ms, Multiplier: 2, Max: 20 * ms}},
		{policy.Backoff{Multiplier: 3}, policy.Backoff{Initial: 50 * ms, Multiplier: 3, Max: 5 * second}},
	}
	for _, r := range rows {
		for n := range 10 {
			a, b := rand.New(rand.NewPCG(1, 1)), rand.New(rand.NewPCG(1, 1))
			assert.Equal(t, r.spelled.Delay(n, a), r.zero.Delay(n, b), "%+v, retry %d", r.zero, n)
		}
	}
	zero := policy.Backoff{Jitter: policy.JitterNone}
	assert.Equal(t, 50*ms, zero.Delay(0, nil))
	assert.Equal(t, 50*ms, zero.Delay(-1, nil), "before the first is as the first")
	assert.Equal(t, 100*ms, zero.Delay(1, nil))
	assert.Equal(t, 5*second, zero.Delay(7, nil))
}

func TestBackoffFrom(t *testing.T) {
	t.Parallel()
	filled := policy.Backoff{Initial: 50 * ms, Multiplier: 2, Max: 5 * second}
	rows := []struct {
		b    policy.Backoff
		from time.Duration
		want policy.Backoff
	}{
		{policy.Backoff{}, 0, filled},
		{policy.Backoff{}, second, policy.Backoff{Initial: second, Multiplier: 2, Max: 5 * second}},
		{policy.Backoff{}, 10 * second, policy.Backoff{Initial: 10 * second, Multiplier: 2, Max: 10 * second}},
		{policy.Backoff{Initial: 2 * second}, second, policy.Backoff{Initial: 2 * second, Multiplier: 2, Max: 5 * second}}, // later already
		{policy.Backoff{Max: 20 * ms}, 0, policy.Backoff{Initial: 20 * ms, Multiplier: 2, Max: 20 * ms}},
		{policy.Backoff{Max: 20 * ms}, second, policy.Backoff{Initial: second, Multiplier: 2, Max: second}},
		{policy.Backoff{Initial: policy.NoWait}, second, policy.Backoff{Initial: second, Multiplier: 2, Max: 5 * second}},
		{policy.Backoff{Multiplier: 3, Jitter: policy.JitterEqual}, second, policy.Backoff{Initial: second, Multiplier: 3, Max: 5 * second, Jitter: policy.JitterEqual}},
	}
	for _, r := range rows {
		assert.Equal(t, r.want, r.b.From(r.from), "%+v from %v", r.b, r.from)
	}
}

func TestJitterWords(t *testing.T) {
	t.Parallel()
	for i, want := range []string{"full", "none", "equal", "proportional", "invalid"} {
		assert.Equal(t, want, policy.Jitter(i).String())
	}
	assert.Equal(t, policy.JitterFull, policy.Jitter(0), "the zero value is the one that spreads most")
	assert.Equal(t, "invalid", policy.Jitter(255).String())
}
