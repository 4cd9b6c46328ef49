package file_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/internal/testpolicy"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

// documented is what the examples of docs/policies.md spell.
var documented = policy.Set{
	Version:  "2026-11-25.1",
	Epoch:    1,
	Revision: 42,
	Budgets: []policy.NamedBudget{
		{Name: "careful", Ratio: &budget.RatioConfig{Ratio: 0.05, MinPerSecond: 5}},
		{Name: "steady", TokenBucket: &budget.TokenBucketConfig{PerSecond: 20, Burst: 40}},
		{Name: "as-grpc", Throttle: &budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 0.1}},
		{Name: "few", Concurrency: &budget.ConcurrencyConfig{Share: 0.2, Min: 3}},
	},
	Rules: []policy.Rule{
		{
			Methods: []string{"/shop.v1.Basket/Get", "/shop.v1.Basket/List"},
			Policy: policy.Policy{
				Name:           "basket reads",
				Idempotency:    classify.NoSideEffects,
				Timeout:        2 * time.Second,
				AttemptTimeout: 500 * time.Millisecond,
				WaitForReady:   true,
				Retry: policy.Retry{
					MaxAttempts: 4,
					Backoff: policy.Backoff{
						Initial:    20 * time.Millisecond,
						Multiplier: 1.6,
						Max:        time.Second,
						Jitter:     policy.JitterEqual,
					},
					Reconnect: 2 * time.Second,
					StopChain: true,
				},
				Hedge:  policy.Hedge{MaxExtraLoad: 0.02, MinDelay: 5 * time.Millisecond, MaxDelay: time.Second},
				Budget: "careful",
			},
		},
		{
			Methods: []string{"/shop.v1.Search/*"},
			Policy: policy.Policy{
				Name:        "search",
				Idempotency: classify.Idempotent,
				Retry:       policy.Retry{Codes: []codes.Code{codes.Unavailable, codes.Aborted}},
				Hedge:       policy.Hedge{Percentile: 0.95},
				AsGRPC:      true,
			},
		},
		{
			Methods: []string{"/shop.v1.Suggest/*"},
			Policy:  policy.Policy{Hedge: policy.Hedge{Trigger: "queue length", MaxExtraLoad: 0.05}},
		},
		{
			Methods: []string{"*"},
			Policy:  policy.Policy{Classifier: policy.ClassifierNone, Hedge: policy.Hedge{Delay: 300 * time.Millisecond}},
		},
	},
}

// block returns the first code block of a page in a language.
func block(t *testing.T, page, language string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "```"+language+"\n")
	require.True(t, ok, language)
	text, _, ok := strings.Cut(rest, "```")
	require.True(t, ok, language)
	return text
}

// TestDocumentation: docs/policies.md spells one set in three ways, which has every field,
// and has a row for each of them.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/policies.md")
	require.NoError(t, err)
	page := string(b)
	_, err = documented.Compile()
	require.NoError(t, err)
	for language, format := range map[string]file.Format{"yaml": file.YAML, "json": file.JSON} {
		s, err := file.Parse([]byte(block(t, page, language)), format)
		require.NoError(t, err, language)
		assert.Equal(t, documented, s, language)
	}
	here, err := os.ReadFile("docs_test.go")
	require.NoError(t, err)
	_, inGo, ok := strings.Cut(string(here), "var documented = ")
	require.True(t, ok)
	assert.True(t, strings.HasPrefix(inGo, block(t, page, "go")), "the Go of the page is not that of this test")

	for _, f := range testpolicy.Fields() {
		names := strings.Split(f.Path, ".")
		assert.Contains(t, block(t, page, "yaml"), names[len(names)-1]+":", "%s: is in no example of docs/policies.md", f.Path)
		row := strings.NewReplacer("rules.policy.", "", "budgets.", "", "rules.", "rules[].").Replace(f.Path)
		inGo := strings.NewReplacer("Rules.Policy.", "", "Budgets.", "", "Rules.", "").Replace(f.Go)
		assert.Contains(t, page, "| `"+row+"` | `"+inGo+"` |", "%s (%s): has no row in docs/policies.md", f.Path, f.Go)
	}
}
