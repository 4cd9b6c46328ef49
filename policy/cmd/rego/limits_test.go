package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLimits: what exceeds the limits of an owner is an error, with its place.
func TestLimits(t *testing.T) {
	t.Parallel()
	limits := filepath.Join(t.TempDir(), "limits.yaml")
	require.NoError(t, os.WriteFile(limits, []byte("max_attempts: 2\nforbidden: [budgets]\n"), 0o600))
	const file = "rules:\n- methods: ['*']\n  policy:\n    retry: {max_attempts: 4}\n"
	code, out, errs := call(file, "lint", "--limits", limits, "-")
	assert.Equal(t, exitFaults, code, errs)
	assert.Equal(t, "-:4:27: rules[0].policy.retry.max_attempts: must not exceed the limit 2, got 4 (limits)\n", out)
	code, _, errs = call(file, "explain", "--limits", limits, "-", "/a.B/C")
	assert.Equal(t, exitOK, code)
	assert.Equal(t, "rego: warning: clients with these limits refuse the file: 4:27: rules[0].policy.retry.max_attempts: must not exceed the limit 2, got 4\n", errs)
	code, out, errs = call("rules:\n- methods: ['*']\n  policy: {retry: {max_attempts: 2}}\n", "lint", "--limits", limits, "-")
	assert.Equal(t, exitOK, code, errs)
	assert.Empty(t, out)

	require.NoError(t, os.WriteFile(limits, []byte("max_attempts: many\n"), 0o600))
	code, _, errs = call(file, "lint", "--limits", limits, "-")
	assert.Equal(t, exitFaults, code)
	assert.Contains(t, errs, limits+`:1:15: max_attempts: must be a whole number, got "many"`)
	code, _, _ = call(file, "lint", "--limits", "missing.yaml", "-")
	assert.Equal(t, exitUsage, code)
}
