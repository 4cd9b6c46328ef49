package policy

import (
	"math"
	"math/rand/v2"
	"time"
)

// Jitter says how the computed backoff b is spread, so that clients which failed together do
// not come back together.
type Jitter uint8

const (
	// JitterFull, the zero value, draws from 0 to b (AWS Architecture Blog,
	// "Exponential Backoff And Jitter").
	JitterFull Jitter = iota
	// JitterNone waits exactly b.
	JitterNone
	// JitterEqual draws from b/2 to b.
	JitterEqual
	// JitterProportional draws from 0.8·b to 1.2·b (gRFC A6).
	JitterProportional
)

var jitterNames = [...]string{"full", "none", "equal", "proportional"}

func (j Jitter) String() string {
	if int(j) < len(jitterNames) {
		return jitterNames[j]
	}
	return "invalid"
}

// NoWait as Backoff.Initial retries at once, without any wait.
const NoWait time.Duration = -1

// Backoff is the wait before a retry: min(Initial·Multiplier^n, Max), spread by Jitter.
// Proportional jitter may exceed Max by a fifth, as in gRFC A6.
type Backoff struct {
	// Initial is the wait before the first retry. Zero means 50 ms, or Max if that is
	// shorter. NoWait means no wait before any retry.
	Initial time.Duration
	// Multiplier is the factor from one wait to the next, above zero. Below one, the waits
	// become shorter. Zero means 2.
	Multiplier float64
	// Max bounds the wait. Zero means 5 s, or Initial if that is longer.
	Max time.Duration
	// Jitter spreads the wait. Zero means JitterFull.
	Jitter Jitter
}

func (b Backoff) withDefaults() Backoff {
	if b.Initial == 0 {
		b.Initial = DefaultInitialBackoff
		if b.Max > 0 {
			b.Initial = min(b.Initial, b.Max)
		}
	}
	if b.Multiplier == 0 {
		b.Multiplier = DefaultMultiplier
	}
	if b.Max == 0 {
		b.Max = max(DefaultMaxBackoff, b.Initial)
	}
	return b
}

// Delay returns the wait before retry n, where n is 0 for the first. It is a pure function
// of its arguments. It draws from r at most once; nil means the global source. b must be
// valid, as in a policy that passed Validate.
func (b Backoff) Delay(n int, r *rand.Rand) time.Duration {
	b = b.withDefaults()
	if b.Initial == NoWait {
		return 0
	}
	d := float64(b.Initial)
	if n > 0 {
		d *= math.Pow(b.Multiplier, float64(n))
	}
	d = min(d, float64(b.Max))
	switch b.Jitter {
	case JitterNone:
	case JitterFull:
		d *= uniform(r)
	case JitterEqual:
		d *= 0.5 + 0.5*uniform(r)
	case JitterProportional:
		d *= 0.8 + 0.4*uniform(r)
	}
	return time.Duration(d)
}

// From returns b with its defaults filled in, and with Initial and Max raised to initial if
// they are below it. It is for waits that must not be short. NoWait counts as below.
func (b Backoff) From(initial time.Duration) Backoff {
	b = b.withDefaults()
	b.Initial = max(b.Initial, initial)
	b.Max = max(b.Max, initial)
	return b
}

func uniform(r *rand.Rand) float64 {
	if r == nil {
		return rand.Float64()
	}
	return r.Float64()
}

func (b Backoff) validate(f *faults) {
	if b.Initial != NoWait {
		f.duration("initial", b.Initial)
	}
	f.duration("max", b.Max)
	if b.Max > 0 && b.Initial > b.Max {
		f.add("max", "must be at least initial %v, got %v", b.Initial, b.Max)
	}
	if m := b.Multiplier; m != 0 && !(m > 0 && m <= MaxMultiplier) { // NaN fails both
		f.add("multiplier", "must be above 0 and at most %d, got %v", MaxMultiplier, m)
	}
	if int(b.Jitter) >= len(jitterNames) {
		f.add("jitter", "unknown value %d", b.Jitter)
	}
}
