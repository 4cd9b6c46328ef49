package file_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/internal/testpolicy"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

// faultsOf returns what is wrong with a document, a line each.
func faultsOf(t *testing.T, text string, f file.Format) []string {
	t.Helper()
	_, err := file.Parse([]byte(text), f)
	require.Error(t, err, "%.200q", text)
	var faults policy.Faults
	require.ErrorAs(t, err, &faults)
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = f.Error()
	}
	return lines
}

const (
	unknownInSet = "unknown field, must be one of version, epoch, revision, retries_off, hedges_off, budgets, rules"
	noValue      = "has no value: give it one, or leave it out"
	selector     = "must be /pkg.Service/Method, /pkg.Service/* or *, got "
)

func TestFaults(t *testing.T) {
	t.Parallel()
	const rule = "rules:\n- methods: ['*']\n  policy:\n    name: users\n    "
	in := `rules[0]: policy "users": `
	for _, r := range []struct {
		format file.Format
		text   string
		want   []string
	}{
		{file.YAML, "", []string{"is empty: write {} if it is to say nothing"}},
		{file.YAML, "# nothing\n", []string{"is empty: write {} if it is to say nothing"}},
		{file.JSON, " \n", []string{"is empty: write {} if it is to say nothing"}},
		{file.Binary, "", []string{"is empty: write {} if it is to say nothing"}},
		{file.YAML, "version: [", []string{"2:1: did not find expected node content"}},
		{file.YAML, "version: a\n\tb: c\n", []string{"2:1: a tab is no indentation in YAML: use spaces"}},
		{file.YAML, "version: a\n---\nversion: b\n", []string{"2:1: must be the only document"}},
		{file.YAML, "[]", []string{"1:1: must have fields, got a list"}},
		{file.YAML, "null", []string{"1:1: " + noValue}},
		{file.YAML, "version:\n", []string{"1:9: version: " + noValue}}, // a file cut short looks like that
		{file.YAML, "release: a\nrevision: x\n", []string{"1:1: release: " + unknownInSet, "2:11: revision: must be a whole number, got \"x\""}},
		{file.YAML, "version: a\nversion: b\n", []string{"2:10: version: is given twice"}},
		{file.YAML, "retriesOff: true\nretries_off: true\n", []string{"2:14: retries_off: is given twice"}}, // two spellings of one
		{file.YAML, "version: &a x\nrules: *a\n", []string{"2:8: rules: aliases are not supported: write out what \"*a\" stands for"}},
		{file.YAML, "version: !!binary aGk=\n", []string{"1:10: version: tags are not supported, got \"!!binary\""}},
		{file.YAML, "hedges_off: yes\n", []string{"1:13: hedges_off: must be true or false, got \"yes\""}},
		{file.YAML, "revision: 0x10\n", []string{"1:11: revision: must be a whole number, got 0x10"}},
		{file.YAML, "revision: -1\n", []string{"1:11: revision: must be a whole number, got -1"}},
		{file.YAML, "revision: 18446744073709551616\n", []string{"1:11: revision: must be a whole number, got 18446744073709551616"}},
		{file.YAML, "rules: {}\n", []string{"1:8: rules: must be a list, got fields"}},
		{file.YAML, "rules: [7]\n", []string{"1:9: rules[0]: must have fields, got 7"}},
		{file.YAML, "rules:\n- methods: [a, /a.B/C, /a.B/C]\n",
			[]string{"2:13: rules[0].methods[0]: " + selector + `"a"`, `2:24: rules[0].methods[2]: "/a.B/C" is already named by rules[0]`}},
		{file.YAML, rule + "timeout: 1x\n", []string{"5:14: " + in + `timeout: must be a duration such as 1.5s, got "1x"`}},
		{file.YAML, rule + "timeout: -1s\n", []string{"5:14: " + in + "timeout: must be between 0 and 24h0m0s, got -1s"}},
		{file.YAML, rule + "timeout: 90000s\n", []string{"5:14: " + in + "timeout: must be between 0 and 24h0m0s, got 25h0m0s"}},
		{file.YAML, rule + "retry: {backoff: {multiplier: .inf}}\n", []string{"5:35: " + in + "retry.backoff.multiplier: must be a number, got .inf"}},
		{file.YAML, rule + "retry: {backoff: {multiplier: .nan}}\n", []string{"5:35: " + in + "retry.backoff.multiplier: must be a number, got .nan"}},
		{file.YAML, rule + "retry: {backoff: {multiplier: 1e999}}\n", []string{"5:35: " + in + "retry.backoff.multiplier: must be a number, got \"1e999\""}},
		{file.YAML, rule + "retry: {max_attempts: 4.5}\n", []string{"5:27: " + in + "retry.max_attempts: must be a whole number, got 4.5"}},
		{file.YAML, rule + "retry: {codes: [NOPE, UNAVAILABLE]}\n",
			[]string{"5:21: " + in + `retry.codes[0]: must be one of OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED, got "NOPE"`}},
		{file.YAML, "budgets: [{name: a}]\n", []string{"1:11: budgets[0]: exactly one of ratio, token_bucket, throttle and concurrency must be set"}},
		{file.YAML, "budgets: [{name: a, ratio: {}, throttle: {}}]\n", []string{"1:42: budgets[0].throttle: must not be set beside ratio"}},

		{file.JSON, `{"version": "a"`, []string{"1:16: unexpected end of JSON input"}},
		{file.JSON, "{\n\"version\": }", []string{"2:12: invalid character '}' looking for beginning of value"}},
		{file.JSON, "version: a", []string{"1:1: invalid character 'v' looking for beginning of value"}}, // YAML is none
		{file.JSON, `{"release": "a", "revision": []}`, []string{"1:2: release: " + unknownInSet, "1:30: revision: must be a whole number, got a list"}},
		{file.JSON, `{"version": 7}`, []string{"1:13: version: must be a string, got 7"}},
		{file.JSON, `{"rules": [{"methods": ["*"], "policy": {"timeout": "500ms"}}]}`,
			[]string{"1:53: rules[0].policy.timeout: must be a duration such as 1.5s, got \"500ms\": JSON has no unit but s"}},
		{file.JSON, `{"rules": [{"methods": ["*"], "policy": {"timeout": "-1s"}}]}`,
			[]string{"1:53: rules[0].policy.timeout: must be between 0 and 24h0m0s, got -1s"}},

		{file.Binary, "\x98\x06\x01", []string{"field 99 of Set is not known to this version"}},
	} {
		assert.Equal(t, r.want, faultsOf(t, r.text, r.format), "%v %q", r.format, r.text)
	}
	assert.Contains(t, faultsOf(t, "\xff", file.Binary)[0], "is not a binary rego.v1.Set")
}

// TestBounds: what is made to take long or much is refused quickly.
func TestBounds(t *testing.T) {
	t.Parallel()
	many := "rules:\n" + strings.Repeat("- methods: [x]\n", 300)
	faults := faultsOf(t, many, file.YAML)
	assert.Len(t, faults, 101)
	assert.Equal(t, "there are more faults than these", faults[100])
	laughs := "a: &a [x]\n"
	for c := 'b'; c < 'z'; c++ { // a billion laughs
		laughs += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+",", 9) + "]\n"
	}
	for text, want := range map[string]string{
		strings.Repeat(" ", policy.MaxSize+1):          "must be at most 16777216 bytes",
		strings.Repeat("[", 20_000):                    "exceeded max depth of 10000",
		strings.Repeat("- ", 20_000):                   "exceeded max depth of 10000",
		strings.Repeat("- a\n", 2<<20):                 "is too large",
		laughs:                                         "unknown field",
		"rules:\n" + strings.Repeat("- {}\n", 100_001): "must be at most 100000 with as many methods, got 100001",
		"version: " + strings.Repeat("x", 257):         "must have at most 256 bytes, got 257",
	} {
		assert.Contains(t, strings.Join(faultsOf(t, text, file.YAML), "\n"), want, "%.40q", text)
	}
}

// FuzzParse: whatever is in a file, it is refused with faults or taken, and what is taken
// means the same in every format.
func FuzzParse(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		for format := file.JSON; format <= file.Binary; format++ {
			b, err := file.Marshal(testpolicy.Random(r), format)
			require.NoError(f, err)
			f.Add(b, uint8(format))
		}
	}
	for _, s := range []string{"\r", "version: a\r\rb: c", "{}", "a: *a", "? [a]\n: b", "!!map {}", "%YAML 1.1\n---\n{}", "rules: [{methods: ['*'], policy: {}}]", `{"version": "\ud800"}`} {
		f.Add([]byte(s), uint8(file.YAML))
		f.Add([]byte(s), uint8(file.JSON))
	}
	f.Fuzz(func(t *testing.T, b []byte, n uint8) {
		format := file.Format(n%3 + 1)
		s, err := file.Parse(b, format)
		if err != nil {
			var faults policy.Faults
			require.ErrorAs(t, err, &faults)
			require.NotEmpty(t, faults)
			return
		}
		for to := file.JSON; to <= file.Binary; to++ {
			out, err := file.Marshal(s, to)
			require.NoError(t, err)
			again, err := file.Parse(out, to)
			require.NoError(t, err, "%s", out)
			require.Equal(t, s, again, "%s", out)
		}
	})
}
