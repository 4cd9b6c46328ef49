package budget

import (
	"fmt"
	"math"
	"sync/atomic"
)

// ThrottleConfig is the retryThrottling of a gRPC service config.
type ThrottleConfig struct {
	// MaxTokens is the number of tokens at the start, and the most there can be: above 0 and
	// at most 1000, as in gRFC A6.
	MaxTokens float64

	// TokenRatio is what a success adds, at least 0.001 and at most 1000. Decimals after the
	// third are ignored, as in gRFC A6.
	TokenRatio float64
}

// Throttle is the retry throttling of gRFC A6: it stops extra attempts while
// too many attempts fail.
//
// It starts with MaxTokens. Every attempt that fails takes one token, originals included
// (Failure, so also refusals by pushback). Every attempt that succeeds adds TokenRatio. The
// count stays between 0 and MaxTokens. Extra attempts are allowed while more than half of
// MaxTokens are left. They take nothing themselves. Attempts that end Neutral or Unsent
// change nothing.
//
// Unlike the other budgets it does not bound the number of extra attempts: while more than
// half of the tokens are left, every call may send them.
//
// Make one with [NewThrottle].
type Throttle struct {
	max   int64 // in thousandths of a token, as all here
	ratio int64

	tokens atomic.Int64
	answers
}

// milli is one token in the precision of gRFC A6.
const milli = 1000

// NewThrottle returns a throttle with all its tokens. An error names the field:
// max_tokens or token_ratio.
func NewThrottle(c ThrottleConfig) (*Throttle, error) {
	if err := checkRange("max_tokens", c.MaxTokens, 0, 1000); err != nil {
		return nil, err
	}
	if err := checkRange("token_ratio", c.TokenRatio, 0, 1000); err != nil {
		return nil, err
	}
	t := &Throttle{max: thousandths(c.MaxTokens), ratio: thousandths(c.TokenRatio), answers: newAnswers()}
	if t.max == 0 {
		return nil, fmt.Errorf("max_tokens: must be at least 0.001, got %v", c.MaxTokens)
	}
	if t.ratio == 0 {
		return nil, fmt.Errorf("token_ratio: must be at least 0.001, got %v", c.TokenRatio)
	}
	t.tokens.Store(t.max)
	return t, nil
}

// thousandths cuts off decimals after the third, but not those that only binary
// fractions have: 0.57 × 1000 is a little less than 570.
func thousandths(v float64) int64 { return int64(math.Floor(v*milli + 1e-6)) }

// Acquire implements [Budget].
func (t *Throttle) Acquire(k Kind) bool {
	return k == Original || t.answer(t.ask(k))
}

func (t *Throttle) ask(Kind) bool { return 2*t.tokens.Load() > t.max }

// Release implements [Budget].
func (t *Throttle) Release(_ Kind, r Result) {
	switch r {
	case Success:
		t.add(t.ratio)
	case Failure:
		t.add(-milli)
	case Unsent, Neutral:
	}
}

// Balance returns how many tokens are left. This is not the number of attempts that would be
// granted: all are granted above MaxTokens/2, and none below.
func (t *Throttle) Balance() float64 { return float64(t.tokens.Load()) / milli }

// add writes nothing when the count is at its limit already: all attempts of a
// healthy server succeed, and all of one that is down fail, and in both cases
// processors only read what they share.
func (t *Throttle) add(n int64) {
	for {
		old := t.tokens.Load()
		sum := min(max(old+n, 0), t.max)
		if sum == old || t.tokens.CompareAndSwap(old, sum) {
			return
		}
	}
}
