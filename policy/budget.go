package policy

import (
	"fmt"
	"strings"

	"github.com/rego-go/rego/budget"
)

// NamedBudget defines a budget that the policies of a [Set] can name. Exactly one kind is
// set. Interceptors have one of each per target, and keep its state from one set to the next
// while its definition stays the same.
type NamedBudget struct {
	// Name that policies use in their Budget. A set cannot define a name for which an
	// interceptor has a budget in code.
	Name string
	// Ratio allows extra attempts in proportion to successes.
	Ratio *budget.RatioConfig
	// TokenBucket allows extra attempts at a steady rate.
	TokenBucket *budget.TokenBucketConfig
	// Throttle stops extra attempts while too many attempts fail (gRFC A6's
	// retryThrottling).
	Throttle *budget.ThrottleConfig
	// Concurrency limits the extra attempts in flight.
	Concurrency *budget.ConcurrencyConfig
}

// New returns a new budget of this definition. The error says what is wrong with the
// definition.
func (b NamedBudget) New() (budget.Budget, error) {
	switch {
	case b.Ratio != nil:
		return kind(budget.NewRatio(*b.Ratio))
	case b.TokenBucket != nil:
		return kind(budget.NewTokenBucket(*b.TokenBucket))
	case b.Throttle != nil:
		return kind(budget.NewThrottle(*b.Throttle))
	case b.Concurrency != nil:
		return kind(budget.NewConcurrency(*b.Concurrency))
	}
	return nil, fmt.Errorf("one of ratio, token_bucket, throttle and concurrency must be set")
}

func kind[B budget.Budget](b B, err error) (budget.Budget, error) {
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Equal reports whether b and o define the same budget.
func (b NamedBudget) Equal(o NamedBudget) bool {
	return b.Name == o.Name && same(b.Ratio, o.Ratio) && same(b.TokenBucket, o.TokenBucket) &&
		same(b.Throttle, o.Throttle) && same(b.Concurrency, o.Concurrency)
}

func same[C comparable](a, b *C) bool { return a == b || a != nil && b != nil && *a == *b }

// clone returns a copy that shares nothing with b.
func (b NamedBudget) clone() NamedBudget {
	b.Ratio, b.TokenBucket = copied(b.Ratio), copied(b.TokenBucket)
	b.Throttle, b.Concurrency = copied(b.Throttle), copied(b.Concurrency)
	return b
}

func copied[C any](c *C) *C {
	if c == nil {
		return nil
	}
	v := *c
	return &v
}

func (b NamedBudget) validate(f *faults) {
	if b.Name == "" {
		f.add("name", "must not be empty")
	}
	f.name("name", b.Name)
	field, set := "", 0
	for _, k := range []struct {
		field string
		set   bool
	}{
		{"ratio", b.Ratio != nil}, {"token_bucket", b.TokenBucket != nil},
		{"throttle", b.Throttle != nil}, {"concurrency", b.Concurrency != nil},
	} {
		if k.set {
			field = k.field
			set++
		}
	}
	if set != 1 {
		f.add("", "exactly one of ratio, token_bucket, throttle and concurrency must be set")
		return
	}
	if _, err := b.New(); err != nil {
		name, text, _ := strings.Cut(err.Error(), ": ")
		f.in(field).add(name, "%s", text)
	}
}
