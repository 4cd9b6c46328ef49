package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/internal/testpolicy"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

func parsed(t *testing.T, text string) policy.Set {
	t.Helper()
	s, err := file.Parse([]byte(text), file.YAML)
	require.NoError(t, err, text)
	return s
}

func TestDifferences(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		why, before, after string
		want               []string
	}{
		{"the same", basket, basket, nil},
		{"its revision", "{revision: 1}", "{revision: 2}", nil},
		{"its own fields", "{version: a, hedges_off: true}", "{version: b, epoch: 2, retries_off: true}", []string{
			`version "a" -> "b"; hedges_off true -> false; epoch (none) -> 2; retries_off false -> true`,
		}},
		{
			"rules that moved, and selectors in other rules",
			`rules: [{methods: [/a.A/X, /a.A/Y], policy: {timeout: 1s}}, {methods: ["*"]}]`,
			`rules: [{methods: ["*"]}, {methods: [/a.A/Y], policy: {timeout: 1000ms}}, {methods: [/a.A/X], policy: {timeout: 1s}}]`,
			nil,
		},
		{
			"codes in another order",
			`rules: [{methods: ["*"], policy: {retry: {codes: [UNAVAILABLE, ABORTED]}}}]`,
			`rules: [{methods: ["*"], policy: {retry: {codes: [ABORTED, UNAVAILABLE]}}}]`,
			nil,
		},
		{
			"fields",
			`rules: [{methods: [/shop.v1.Basket/*], policy: {name: a, timeout: 90s, retry: {max_attempts: 3, codes: [UNAVAILABLE]}, idempotency: IDEMPOTENCY_IDEMPOTENT}}]`,
			`rules: [{methods: [/shop.v1.Basket/*], policy: {name: b, timeout: 1.5s, retry: {max_attempts: 5, codes: [ABORTED, UNAVAILABLE], backoff: {initial: 0s}}, hedge: {max_extra_load: 0.02}}}]`,
			[]string{
				`/shop.v1.Basket/*: name "a" -> "b"; idempotency IDEMPOTENCY_IDEMPOTENT -> (none); timeout 1m30s -> 1.5s; retry.max_attempts 3 -> 5; ` +
					`retry.codes [UNAVAILABLE] -> [ABORTED, UNAVAILABLE]; retry.backoff.initial (none) -> 0s; hedge.max_extra_load (none) -> 0.02`,
			},
		},
		{
			"selectors that come and go",
			`rules: [{methods: [/a.A/X, /a.A/Z], policy: {retry: {off: true}}}]`,
			`rules: [{methods: [/a.A/Y], policy: {timeout: 10m, budget: b}}, {methods: ["*"]}]`,
			[]string{
				`*: added: the default policy`, `/a.A/X: removed: retry.off true`, `/a.A/Y: added: timeout 10m, budget "b"`, `/a.A/Z: removed: retry.off true`,
			},
		},
		{
			"budgets",
			`budgets: [{name: a, ratio: {ratio: 0.1}}, {name: b, ratio: {}}, {name: c, throttle: {max_tokens: 10, token_ratio: 0.1}}, {name: e, ratio: {}}]`,
			`budgets: [{name: e, ratio: {}}, {name: a, ratio: {ratio: 0.02, min_per_second: 1}}, {name: b, concurrency: {min: 3}}, {name: d, token_bucket: {per_second: 2}}]`,
			[]string{
				`budget "a": ratio.ratio 0.1 -> 0.02; ratio.min_per_second (none) -> 1`,
				`budget "b": ratio {} -> (none); concurrency.min (none) -> 3`,
				`budget "c": removed: throttle.max_tokens 10, throttle.token_ratio 0.1`,
				`budget "d": added: token_bucket.per_second 2`,
			},
		},
	} {
		var got []string
		for _, d := range differences(parsed(t, r.before), parsed(t, r.after)) {
			got = append(got, d.String())
		}
		assert.Equal(t, r.want, got, r.why)
	}
}

// TestNoFieldIsForgotten: whatever field of a set is another one, there is a difference that names it.
func TestNoFieldIsForgotten(t *testing.T) {
	t.Parallel()
	exceptions := map[string]string{
		"revision":      "the server gives revisions",
		"rules.methods": "a difference is about a method, which it begins with",
		"budgets.name":  "a difference is about a budget, which it begins with",
	}
	for _, f := range testpolicy.Fields() {
		list := differences(f.Around(), f.Alone())
		if exceptions[f.Path] != "" {
			continue
		}
		if assert.Len(t, list, 1, "%s: policy/cmd/rego/difference.go", f.Path) {
			name := strings.TrimPrefix(strings.TrimPrefix(f.Path, "rules.policy."), "budgets.")
			assert.Contains(t, list[0].String(), name+" ", "%s: policy/cmd/rego/difference.go", f.Path)
		}
	}
}

// TestNoFieldIsForgottenByExplain: whatever field of a set is another one, rego explain says something
// else of a method.
func TestNoFieldIsForgottenByExplain(t *testing.T) {
	t.Parallel()
	exceptions := map[string]string{
		"version":                      "is of the set, and does nothing to a call",
		"epoch":                        "is of the set, and does nothing to a call",
		"revision":                     "is of the set, and does nothing to a call",
		"budgets.throttle.token_ratio": "is what successes add, and explain says what happens if all fail",
	}
	explained := func(s policy.Set) string {
		b, err := file.Marshal(s, file.YAML)
		require.NoError(t, err)
		code, out, errs := call(string(b), "explain", "-", "/a.B/C")
		require.Equal(t, exitOK, code, errs)
		return out
	}
	for _, f := range testpolicy.Fields() {
		same := explained(f.Around()) == explained(f.Alone())
		assert.Equal(t, exceptions[f.Path] != "", same, "%s: rego explain says nothing of it: policy/fields.go, policy/explain.go or policy/cmd/rego/explain.go, or say in exceptions why", f.Path)
	}
}
