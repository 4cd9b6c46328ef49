package budget

import (
	"fmt"
	"time"
)

// TokenBucketConfig says how much a [TokenBucket] allows.
type TokenBucketConfig struct {
	// PerSecond is how many extra attempts per second are allowed in the long
	// run, above 0 and at most a million. It is rounded to a millionth.
	PerSecond float64

	// Burst is how many extra attempts can be saved, from 1 to a million. Zero means what
	// one second adds, and at least one.
	Burst float64
}

// TokenBucket allows extra attempts at a steady rate, whatever the traffic is and however
// they end.
//
// A new bucket is full. An extra attempt takes one token, and is denied if there is less
// than one. Each second PerSecond tokens are added, up to Burst. An attempt that was not
// sent gives its token back, and no other does. Originals take no token. So over any span of
// time
//
//	granted - given back ≤ PerSecond × seconds + Burst
//
// and in addition at most one per cell and a quarter of Burst, which are kept ready as in
// [Ratio].
//
// Make one with [NewTokenBucket].
type TokenBucket struct {
	perSecond int64
	burst     int64
	began     time.Time

	account account
	answers
}

// NewTokenBucket returns a full bucket. An error names the field: per_second or
// burst.
func NewTokenBucket(c TokenBucketConfig) (*TokenBucket, error) {
	if err := checkRange("per_second", c.PerSecond, 0, maxPerSecond); err != nil {
		return nil, err
	}
	if units(c.PerSecond) == 0 {
		return nil, fmt.Errorf("per_second: must be at least a millionth, got %v", c.PerSecond)
	}
	if c.Burst == 0 {
		c.Burst = max(1, c.PerSecond)
	}
	if err := checkRange("burst", c.Burst, 1, maxPerSecond); err != nil {
		return nil, err
	}
	return &TokenBucket{
		perSecond: units(c.PerSecond),
		burst:     units(c.Burst),
		began:     time.Now(),
		account:   account{cells: newCells()},
		answers:   newAnswers(),
	}, nil
}

// Acquire implements [Budget].
func (b *TokenBucket) Acquire(k Kind) bool {
	return k == Original || b.answer(b.ask(k))
}

func (b *TokenBucket) ask(Kind) bool {
	return b.account.spend() || b.account.withdraw(b.earned(b.now()))
}

// Release implements [Budget].
func (b *TokenBucket) Release(k Kind, r Result) {
	if k != Original && r == Unsent {
		b.account.giveBack()
	}
}

// Balance returns how many tokens there are. It reads the clock; what exceeds Burst is then
// lost.
func (b *TokenBucket) Balance() float64 { return b.balance(b.now()) }

func (b *TokenBucket) balance(now time.Duration) float64 {
	return attempts(b.account.balance(b.earned(now)))
}

func (b *TokenBucket) now() time.Duration { return time.Since(b.began) }

func (b *TokenBucket) earned(now time.Duration) (earned, most int64) {
	return b.burst + accrued(b.perSecond, now), b.burst
}
