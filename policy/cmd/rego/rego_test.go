package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

var update = flag.Bool("update", false, "write what the command prints to testdata")

// call runs the command and returns what it printed.
func call(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(args, strings.NewReader(stdin), &out, &err)
	return code, out.String(), err.String()
}

// golden compares a text with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), got, name)
}

func TestLint(t *testing.T) {
	t.Parallel()
	code, out, errs := call("", "lint", "testdata/policies.yaml")
	assert.Equal(t, 0, code, "a warning is no fault")
	assert.Empty(t, errs)
	golden(t, "lint.txt", out)
	code, strict, _ := call("", "lint", "--strict", "testdata/policies.yaml")
	assert.Equal(t, 1, code)
	assert.Equal(t, out, strict)
	code, out, errs = call("{}", "lint", "--strict", "-")
	assert.Equal(t, 0, code)
	assert.Empty(t, out+errs)

	code, out, errs = call("", "lint", "testdata/mistakes.yaml", "testdata/mistakes.yaml")
	assert.Equal(t, 1, code)
	assert.Empty(t, errs)
	half := len(out) / 2
	assert.Equal(t, out[:half], out[half:])
	golden(t, "mistakes.txt", out[:half])

	code, out, _ = call("", "lint", "--from", "serviceconfig", "testdata/service_config.json")
	assert.Equal(t, 0, code)
	golden(t, "warnings.txt", out)
	code, _, _ = call("", "lint", "--strict", "--from", "serviceconfig", "testdata/service_config.json")
	assert.Equal(t, 1, code)
	code, out, _ = call(`{"methodConfig": [{"name": [{}], "retryPolicy": {}}]}`, "lint", "--from", "serviceconfig", "-")
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "methodConfig[0].retryPolicy.maxAttempts")
}

// TestLintJSON: the fields that are promised.
func TestLintJSON(t *testing.T) {
	t.Parallel()
	code, out, errs := call("", "lint", "--output", "json", "testdata/policies.yaml", "testdata/mistakes.yaml")
	assert.Equal(t, 1, code)
	assert.Empty(t, errs)
	golden(t, "lint.json", out)
	code, out, _ = call("{}", "lint", "--output=json", "-")
	assert.Equal(t, 0, code)
	assert.JSONEq(t, `{"findings": [], "errors": 0, "warnings": 0}`, out)
	code, out, _ = call("", "explain", "--output", "json", "testdata/mistakes.yaml", "/a.B/C")
	assert.Equal(t, 1, code)
	assert.Contains(t, out, `"field": "rules[0].policy.timeout"`)
	code, out, _ = call("", "explain", "--output", "json", "testdata/policies.yaml", "/shop.v1.Basket/Checkout")
	assert.Equal(t, 0, code)
	golden(t, "checkout.json", out)
}

func TestExplain(t *testing.T) {
	t.Parallel()
	for name, method := range map[string]string{
		"basket.txt":   "/shop.v1.Basket/Get",
		"checkout.txt": "/shop.v1.Basket/Checkout",
		"search.txt":   "/shop.v1.Search/Query",
		"suggest.txt":  "/shop.v1.Search/Suggest",
		"index.txt":    "/shop.v1.Search/Index",
		"other.txt":    "/shop.v1.Other/Get",
	} {
		code, out, errs := call("", "explain", "testdata/policies.yaml", method)
		assert.Equal(t, 0, code, name)
		assert.Empty(t, errs, name)
		golden(t, name, out)
	}
	code, out, _ := call("{retries_off: true, hedges_off: true}", "explain", "--from", "yaml", "-", "/a.B/C")
	assert.Equal(t, 0, code)
	golden(t, "off.txt", out)
	code, _, errs := call("", "explain", "testdata/policies.yaml", "a.B/C")
	assert.Equal(t, 2, code)
	assert.Contains(t, errs, "is no method")
	code, _, _ = call("", "explain", "testdata/mistakes.yaml", "/a.B/C")
	assert.Equal(t, 1, code)
}

// TestExplainWorstCase: what an overloaded server leads to, and what a timeout leaves no time for.
func TestExplainWorstCase(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		policy string
		want   []string
	}{
		{"{attempt_timeout: 100ms, retry: {codes: [RESOURCE_EXHAUSTED]}}", []string{"3  0s to 2s after number 2 has failed", "3.3s (all attempts and waits"}},
		{"{attempt_timeout: 100ms, retry: {codes: [ABORTED, RESOURCE_EXHAUSTED]}}", []string{"3  0s to 100ms after", "if the server is overloaded", "3  0s to 2s after", "450ms, and 3.3s if the server is overloaded"}},
		{"{timeout: 1s, retry: {max_attempts: 5, backoff: {initial: 2s, jitter: JITTER_NONE}}}", []string{"attempts  1 per call", "no more than 1 can begin within the timeout"}},
		{"{timeout: 1s, retry: {max_attempts: 5, codes: [RESOURCE_EXHAUSTED], backoff: {jitter: JITTER_NONE}}}", []string{"attempts  1 per call"}},
	} {
		code, out, errs := call("rules: [{methods: ['*'], policy: "+r.policy+"}]", "explain", "-", "/a.B/C")
		assert.Equal(t, 0, code, "%s: %s", r.policy, errs)
		for _, want := range r.want {
			assert.Contains(t, out, want, r.policy)
		}
	}
}

// TestConvert: a file means the same in every format.
func TestConvert(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/policies.yaml")
	require.NoError(t, err)
	want, err := file.Parse(data, file.YAML)
	require.NoError(t, err)
	for _, f := range []file.Format{file.YAML, file.JSON, file.Binary} {
		code, out, errs := call("", "convert", "--to", f.String(), "testdata/policies.yaml")
		assert.Equal(t, 0, code, f)
		assert.Empty(t, errs, f)
		got, err := file.Parse([]byte(out), f)
		require.NoError(t, err, f)
		assert.Equal(t, want, got, f)
		code, again, _ := call(out, "convert", "--from", f.String(), "-")
		assert.Equal(t, 0, code, f)
		got, err = file.Parse([]byte(again), file.YAML)
		require.NoError(t, err, f)
		assert.Equal(t, want, got, f)
	}

	code, out, errs := call("", "convert", "--lossy", "--from", "serviceconfig", "testdata/service_config.json")
	assert.Equal(t, 0, code)
	golden(t, "imported.yaml", out)
	assert.Contains(t, errs, "not taken over: ")
	code, out, errs = call(out, "convert", "--from", "yaml", "--to", "serviceconfig", "-")
	assert.Equal(t, 0, code)
	assert.Empty(t, errs)
	golden(t, "exported.json", out)
}

// TestConvertLoses: what would be lost is told, and nothing is written unless that is wanted.
func TestConvertLoses(t *testing.T) {
	t.Parallel()
	const config = `{"loadBalancingPolicy": "x", "methodConfig": [{"name": [{}], "timeout": "1s"}]}`
	for _, r := range []struct{ stdin, args, want string }{
		{"", "--to serviceconfig testdata/policies.yaml", "retry.codes: lists none"},
		{"", "--to serviceconfig testdata/policies.yaml", "hedge: a service config has retries or hedging"},
		{"rules: [{methods: ['*'], policy: {attempt_timeout: 1s}}]", "--to serviceconfig -", "attempt_timeout: a service config has none"},
		{config, "--from serviceconfig -", "-:1:2: not taken over: loadBalancingPolicy: is gRPC's own"},
		{config, "--from serviceconfig --to serviceconfig -", "not taken over: loadBalancingPolicy"},
	} {
		args := append([]string{"convert"}, strings.Fields(r.args)...)
		code, out, errs := call(r.stdin, args...)
		assert.Equal(t, 1, code, r.args)
		assert.Empty(t, out, r.args)
		assert.Contains(t, errs, r.want, r.args)
		assert.Contains(t, errs, "rego: nothing is written", r.args)

		code, out, errs = call(r.stdin, append(args, "--lossy")...)
		assert.Equal(t, 0, code, r.args)
		assert.NotEmpty(t, out, r.args)
		assert.Contains(t, errs, r.want, r.args)
		assert.NotContains(t, errs, "nothing is written", r.args)
	}
	code, out, errs := call("rules: [{methods: ['*'], policy: {retry: {max_attempts: 1}, timeout: 1s}}]", "convert", "--to", "serviceconfig", "-")
	assert.Equal(t, 0, code, errs)
	assert.Empty(t, errs)
	assert.Contains(t, out, `"timeout": "1s"`)
}

// TestTooLarge: more than a file may have is not read to its end.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	code, out, _ := call(strings.Repeat(" ", policy.MaxSize+1), "lint", "--from", "yaml", "-")
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "must be at most 16777216 bytes")
}
