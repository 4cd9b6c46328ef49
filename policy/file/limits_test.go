package file_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// documentedLimits are those of docs/policies.md.
var documentedLimits = policy.Limits{
	MaxAttempts: 4, MaxExtraLoad: 0.05, MaxExtraPerSecond: 10,
	MaxTimeout: time.Minute, MinTimeout: 100 * time.Millisecond, MinAttemptTimeout: 50 * time.Millisecond,
	MinBackoff: 10 * time.Millisecond, MaxReconnect: 10 * time.Second,
	Forbidden: []string{"classifier"}, Overridable: []string{"retry.off", "hedge.off"},
	Methods: []policy.MethodLimits{{
		Methods: []string{"/shop.v1.Payments/*"},
		Limits:  policy.Limits{MaxAttempts: 2, Forbidden: []string{"idempotency", "retry.codes", "budget"}},
	}},
}

// TestLimits: limits are read from the formats that sets are, and docs/policies.md has all of
// them.
func TestLimits(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/policies.md")
	require.NoError(t, err)
	_, page, ok := strings.Cut(string(b), "### Limits that no source can lift")
	require.True(t, ok)
	yaml := block(t, page, "yaml")
	inJSON, err := protojson.Marshal(documentedLimits.Proto())
	require.NoError(t, err)
	binary, err := proto.Marshal(documentedLimits.Proto())
	require.NoError(t, err)
	for f, text := range map[file.Format]string{file.YAML: yaml, file.JSON: string(inJSON), file.Binary: string(binary)} {
		l, err := file.ParseLimits([]byte(text), f)
		require.NoError(t, err, f)
		assert.Equal(t, documentedLimits, l, f)
	}
	path := filepath.Join(t.TempDir(), "limits.yaml")
	require.NoError(t, os.WriteFile(path, []byte(yaml), 0o600))
	l, err := file.ReadLimits(path)
	require.NoError(t, err)
	assert.Equal(t, documentedLimits, l)

	fields := new(regov1.Limits).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		name := string(fields.Get(i).Name())
		assert.Contains(t, yaml, name+":", "%s: is in no example of limits in docs/policies.md", name)
		assert.True(t, strings.Contains(page, "| `"+name+"` |") || strings.Contains(page, "| `"+name+"[]."), "%s: has no row under limits in docs/policies.md", name)
	}
}

// TestLimitsFaults: each with its place.
func TestLimitsFaults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                        "is empty: write {} if it is to say nothing",
		"max_attempt: 4":          "1:1: max_attempt: unknown field",
		"max_extra_load: 2":       "1:17: max_extra_load: must be at least 0 and below 1, got 2",
		"min_backoff: 10":         "1:14: min_backoff: must be a duration such as 1.5s",
		"forbidden: [retrys]":     `1:13: forbidden[0]: is no field that can be forbidden here: "retrys"`,
		"methods: [{limits: {}}]": "1:11: methods[0].methods: must name at least one method",
		"methods:\n- methods: ['*']\n  limits:\n    forbidden: [budgets]": `4:17: methods[0].limits.forbidden[0]: is no field that can be forbidden here: "budgets"`,
	} {
		_, err := file.ParseLimits([]byte(text), file.YAML)
		require.ErrorContains(t, err, want, text)
	}
	_, err := file.ReadLimits(filepath.Join(t.TempDir(), "missing.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = file.ReadLimits("limits")
	require.ErrorContains(t, err, "is none of .json")
	_, err = file.ParseLimits(nil, 9)
	require.EqualError(t, err, "unknown format 9")
}
