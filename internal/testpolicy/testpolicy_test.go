package testpolicy_test

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/internal/testpolicy"
)

// TestRandomDrawsEveryField: a field that Random never sets is one that no test on any set sees.
func TestRandomDrawsEveryField(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	zero, set, drawn := map[string]int{}, map[string]int{}, map[any]bool{}
	for range 2000 {
		s := testpolicy.Random(r)
		for _, f := range testpolicy.Fields() {
			for _, v := range f.Values(s) {
				if v.Kind() == reflect.Uint8 {
					drawn[v.Interface()] = true
				}
				if v.IsZero() {
					zero[f.Path]++
				} else {
					set[f.Path]++
				}
			}
		}
	}
	neverZero := map[string]string{
		"rules.methods":                   "a rule must name a method",
		"budgets.name":                    "a budget must have a name",
		"budgets.token_bucket.per_second": "must be above zero",
		"budgets.throttle.max_tokens":     "must be above zero",
		"budgets.throttle.token_ratio":    "must be above zero",
		"budgets.ratio.ratio":             "is zero too rarely to count on",
		"budgets.concurrency.share":       "is zero too rarely to count on",
	}
	const draw = "draw it in Random of internal/testpolicy/testpolicy.go"
	for _, f := range testpolicy.Fields() {
		for _, v := range f.Enum() {
			assert.True(t, drawn[v.Interface()], "%s: is never %v: %s", f.Path, v, draw)
		}
		assert.NotZero(t, set[f.Path], "%s: is never set: %s", f.Path, draw)
		if neverZero[f.Path] == "" {
			assert.NotZero(t, zero[f.Path], "%s: is never zero: %s, or say in neverZero why not", f.Path, draw)
		}
	}
}

// TestFieldsAlone: other tests count on it that the set around a field, and that with the field,
// are valid and differ.
func TestFieldsAlone(t *testing.T) {
	t.Parallel()
	for _, f := range testpolicy.Fields() {
		around, alone := f.Around(), f.Alone()
		_, err := around.Compile()
		require.NoError(t, err, "%s: policy/policy.go, policy/budget.go, or ownValues of internal/testpolicy/fields.go", f.Path)
		_, err = alone.Compile()
		require.NoError(t, err, "%s: policy/policy.go, policy/budget.go, or ownValues of internal/testpolicy/fields.go", f.Path)
		assert.NotEqual(t, around, alone, f.Path)
	}
}
