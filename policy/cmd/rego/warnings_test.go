package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// written writes files of descriptors, as protoc does without --include_imports, and returns
// the path.
func written(t *testing.T, files ...protoreflect.FileDescriptor) string {
	t.Helper()
	set := new(descriptorpb.FileDescriptorSet)
	for _, f := range files {
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	b, err := proto.Marshal(set)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "descriptors.binpb")
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

// TestWarnings has what is warned of in a policy for every method, and what is not.
func TestWarnings(t *testing.T) {
	t.Parallel()
	const budgets = "budgets: [{name: careful, ratio: {ratio: 0.1}}]"
	for _, r := range []struct {
		policy, set string
		want        string // nothing if empty
	}{
		{"", "", ""},
		{"timeout: 1s, wait_for_ready: true", "", ""},
		{"attempt_timeout: 1s, wait_for_ready: true", "", ""},
		{"wait_for_ready: true", "",
			"-:1:52: warning: rules[0].policy.wait_for_ready: a call without a deadline waits for ever for a server that is gone: set timeout, too (wait-without-timeout)"},
		{"budget: careful", budgets, ""},
		{"budget: carful}}, {methods: [/a.B/*], policy: {budget: careful", budgets,
			`"carful": every client must have it in its code, or refuses the set; did you mean "careful"? (unknown-budget)`},
		{"budget: mine", "", `rules[0].policy.budget: the set does not define "mine": every client must have it in its code, or refuses the set (unknown-budget)`},
		{"", budgets, `budgets[0].name: no rule names "careful" (unused-budget)`},
		{"budget: a", "budgets: [{name: a, ratio: {}}]", "grants nothing: to switch retries off, say so (empty-budget)"},
		{"budget: a", "budgets: [{name: a, concurrency: {}}]", "grants nothing"},
		{"budget: a", "budgets: [{name: a, concurrency: {share: 0.1, min: 1}}]", ""},
		{"budget: a", "budgets: [{name: a, concurrency: {share: 0.1}}]",
			"has no min: where fewer than 10 attempts are in flight none may be extra (concurrency-without-min)"},
		{"classifier: none", "", ""},
		{"classifier: None", "", `did you mean "none", to which every failure is final? (unknown-classifier)`},
		{"retry: {max_attempts: 5}", "", ""},
		{"retry: {max_attempts: 6}", "", "clients make 5 at most, unless their code says otherwise (interceptor.WithMaxAttempts), got 6 (max-attempts)"},
		{"timeout: 1s, retry: {backoff: {initial: 2s}}", "", ""}, // jitter makes it less
		{"timeout: 1s, retry: {backoff: {initial: 2s, jitter: JITTER_NONE}}", "",
			"timeout: no retry can begin within 1s: the waits are longer (retry-after-timeout)"},
		{"timeout: 1s, retry: {off: true, backoff: {initial: 2s, jitter: JITTER_NONE}}", "", ""},
		{"attempt_timeout: 1s", "", ""},
		{"attempt_timeout: 1s, retry: {max_attempts: 1}", "",
			"attempt_timeout: ends no attempt of a call that has a deadline, since none may follow: the call's timeout is the field timeout (attempt-timeout-without-retry)"},
		{"attempt_timeout: 1s, retry: {codes: [UNAVAILABLE]}", "", "(attempt-timeout-without-retry)"},
		{"attempt_timeout: 1s, retry: {codes: [DEADLINE_EXCEEDED]}", "", ""},
		{"attempt_timeout: 1s, idempotency: IDEMPOTENCY_NOT_IDEMPOTENT", "", "(attempt-timeout-without-retry)"},
		{"attempt_timeout: 1s, retry: {off: true}, hedge: {delay: 1s}", "", ""},
		{"hedge: {delay: 1s}", "", ""}, // a proto file may say that it is idempotent
		{"hedge: {delay: 1s}, retry: {max_attempts: 1}", "", "no hedge ever starts: retry.max_attempts is 1, and hedges count (hedge-never-starts)"},
		{"hedge: {delay: 1s}, idempotency: IDEMPOTENCY_NOT_IDEMPOTENT", "", "the rule says that its methods are not idempotent (hedge-never-starts)"},
		{"hedge: {delay: 1s, off: true}, idempotency: IDEMPOTENCY_NOT_IDEMPOTENT", "", ""},
		{"hedge: {max_extra_load: 0.05}", "", ""},
		{"hedge: {max_extra_load: 0.1}", "", "hedge.max_extra_load: hedges may take all that successes pay into the budget, 0.1 of an attempt each, " +
			"and leave retries only what min_per_second allows, 3 a second of each client (hedges-leave-no-retries)"},
		{"hedge: {max_extra_load: 0.1}, retry: {off: true}", "", ""},
		{"hedge: {max_extra_load: 0.1}, classifier: none", "", ""},
		{"hedge: {max_extra_load: 0.1}, retry: {max_attempts: 2}", "", "(hedges-leave-no-retries)"},
		{"hedge: {max_extra_load: 0.1, trigger: mine}", "", "(hedges-leave-no-retries)"},
		{"hedge: {percentile: 0.5}", "", ""},
		{"hedge: {max_extra_load: 0.02}, budget: b", "budgets: [{name: b, ratio: {min_per_second: 100}}]", ""},
		{"hedge: {max_extra_load: 0.05}, budget: b", "budgets: [{name: b, ratio: {ratio: 0.05, min_per_second: 7}}]", "7 a second of each client"},
		{"hedge: {max_extra_load: 0.1}, budget: b", "budgets: [{name: b, ratio: {ratio: 0.3}}]", ""},
		{"hedge: {max_extra_load: 0.05}, budget: b", "budgets: [{name: b, ratio: {ratio: 0.02}}]", "0.02 of an attempt each, and leave nothing for retries (hedges-leave-no-retries)"},
		{"hedge: {max_extra_load: 0.5}, budget: b", "budgets: [{name: b, token_bucket: {per_second: 5}}]", ""},
	} {
		text := "{rules: [{methods: ['*'], policy: {" + r.policy + "}}]"
		if r.set != "" {
			text += ", " + r.set
		}
		code, out, errs := call(text+"}", "lint", "-")
		assert.Equal(t, 0, code, "%s: %s", text, errs+out)
		if r.want == "" {
			assert.Empty(t, out, text)
			continue
		}
		assert.Equal(t, 1, strings.Count(out, "\n"), "%s: %s", text, out)
		assert.Contains(t, out, r.want, text)
	}
}

// TestWarningsOfMethods has what the descriptors add.
func TestWarningsOfMethods(t *testing.T) {
	t.Parallel()
	known := written(t, testv1.File_rego_test_v1_test_proto)
	const every = `"/T/Get", "/T/Put", "/T/Pay", "/T/Watch", "/T/Upload", "/T/Chat"`
	for _, r := range []struct{ rules, want string }{
		{`{methods: ["/T/Get", "/T/*", "*"]}`, ""},
		{`{methods: ["/T/Gte"]}`, `rules[0].methods[0]: "/T/Gte" is none of the methods in the descriptors: did you mean "/T/Get"? (unknown-method)`},
		{`{methods: ["/rego.test.v1.TestServices/*"]}`,
			`"/rego.test.v1.TestServices/*" is for none of the methods in the descriptors: did you mean "/T/*"? (unknown-method)`},
		{`{methods: ["/other.Service/*"]}`, `"/other.Service/*" is for none of the methods in the descriptors (unknown-method)`},
		{`{methods: ["/T/*"]}, {methods: [` + every + `]}`,
			`rules[0].methods[0]: "/T/*" decides for no method: each method of the service is named by itself (unreachable-selector)`},
		{`{methods: ["*"]}, {methods: ["/T/*"]}`, ""}, // of another service there may be more
		{`{methods: ["/T/Pay"], policy: {hedge: {delay: 1s}}}`,
			"no hedge ever starts: neither the rule nor a proto file says that /T/Pay may be repeated (idempotency) (hedge-never-starts)"},
		{`{methods: ["/T/*"], policy: {hedge: {delay: 1s}}}`, ""}, // Get is
		{`{methods: ["/T/*"], policy: {hedge: {delay: 1s}}}, {methods: ["/T/Get", "/T/Put"]}`, "says that /T/Chat, /T/Pay, /T/Upload and 1 more may be repeated"},
		{`{methods: ["/T/Pay"], policy: {idempotency: IDEMPOTENCY_IDEMPOTENT, hedge: {delay: 1s}}}`, ""}, // the rule knows better than nothing
		{`{methods: ["/T/Get"], policy: {idempotency: IDEMPOTENCY_IDEMPOTENT}}`, ""},
		{`{methods: ["/T/Get"], policy: {idempotency: IDEMPOTENCY_NOT_IDEMPOTENT}}`,
			"idempotency: is not-idempotent here, and no-side-effects in the proto file of /T/Get (idempotency-contradicts)"},
		{`{methods: ["/T/Put"], policy: {idempotency: IDEMPOTENCY_NO_SIDE_EFFECTS}}`,
			"idempotency: is no-side-effects here, and idempotent in the proto file of /T/Put (idempotency-contradicts)"},
	} {
		text := strings.ReplaceAll("rules: ["+r.rules+"]", "/T/", "/rego.test.v1.TestService/")
		code, out, errs := call(text, "lint", "--descriptors", known, "-")
		assert.Equal(t, 0, code, "%s: %s", text, errs+out)
		out = strings.ReplaceAll(out, "/rego.test.v1.TestService/", "/T/")
		if r.want == "" {
			assert.Empty(t, out, text)
			continue
		}
		assert.Equal(t, 1, strings.Count(out, "\n"), "%s: %s", text, out)
		assert.Contains(t, out, r.want, text)
	}
}

// TestExplainWithDescriptors: what a proto file says of a method counts.
func TestExplainWithDescriptors(t *testing.T) {
	t.Parallel()
	known := written(t, testv1.File_rego_test_v1_annotated_proto)
	test := written(t, testv1.File_rego_test_v1_test_proto)
	hedge := `rules: [{methods: ["*"], policy: {hedge: {delay: 1s}}}]`
	for _, r := range []struct {
		stdin, method string
		want          []string
		warning       string
	}{
		{hedge, "TestService/Get", []string{`no-side-effects +idempotency_level of its proto file`, `  hedged: the next attempt`}, ""},
		{hedge, "TestService/Pay", []string{`unknown +idempotency_level of its proto file`, `not hedged: the method is not known to be idempotent`}, ""},
		{"{}", "TestService/Pay", []string{`no rule covers it, and its proto file has no policy: it has the default`}, ""},
		{"{}", "AnnotatedService/Own", []string{`it has the policy of its proto file, option \(rego.v1.method\)`, `retry.max_attempts +4 +option \(rego.v1.method\)`}, ""},
		{"{}", "AnnotatedService/Inherits", []string{`option \(rego.v1.service\)`}, ""},
		{hedge, "AnnotatedService/Own", []string{`covered by rules\[0\], as "\*"`}, ""},
		{"{}", "AnnotatedService/Invalid", []string{`it has the default`},
			"rego: warning: option (rego.v1.method) of the proto file is not valid, so the default is in force: "},
		{"{}", "TestService/Gett", []string{`which is shown`}, "is none of the methods in the descriptors: did you mean /rego.test.v1.TestService/Get?"},
	} {
		code, out, errs := call(r.stdin, "explain", "--descriptors", known, "--descriptors", test, "-", "/rego.test.v1."+r.method)
		assert.Equal(t, 0, code, "%s: %s", r.method, errs)
		for _, want := range r.want {
			assert.Regexp(t, want, out, r.method)
		}
		if r.warning == "" {
			assert.Empty(t, errs, r.method)
		} else {
			assert.Contains(t, errs, r.warning, r.method)
		}
	}
	code, out, _ := call("{}", "explain", "--output", "json", "--descriptors", known, "-", "/rego.test.v1.AnnotatedService/Own")
	assert.Equal(t, 0, code)
	assert.Contains(t, out, `"option": "rego.v1.method"`)
}

// TestBadDescriptors: what is no file of descriptors is told so.
func TestBadDescriptors(t *testing.T) {
	t.Parallel()
	for _, r := range []struct{ args, want string }{
		{"lint --descriptors testdata/none.binpb -", "no such file"},
		{"lint --descriptors testdata/policies.yaml -",
			"testdata/policies.yaml: is not a file of descriptors, as buf build -o FILE.binpb and protoc -o FILE write it: "},
		{"lint --descriptors - -", "the standard input can be read once"},
		{"lint --descriptors - testdata/policies.yaml", "-: is not a file of descriptors"}, // it is empty
	} {
		code, out, errs := call("", strings.Fields(r.args)...)
		assert.Equal(t, 2, code, r.args)
		assert.Empty(t, out, r.args)
		assert.Contains(t, errs, r.want, r.args)
	}
	b, err := os.ReadFile(written(t, testv1.File_rego_test_v1_test_proto))
	require.NoError(t, err)
	code, out, errs := call(string(b), "explain", "--descriptors", "-", "testdata/policies.yaml", "/rego.test.v1.TestService/Get")
	assert.Equal(t, 0, code, errs)
	assert.Contains(t, out, "no-side-effects")
}

// TestChecksAreDocumented: docs/policies.md has a row for each check, and for no other.
func TestChecksAreDocumented(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("warnings.go")
	require.NoError(t, err)
	page, err := os.ReadFile("../../../docs/policies.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(page), "\n## The command\n")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n## ")
	var names, rows []string
	for _, m := range regexp.MustCompile(`(?m)^\tcheck\w+ += "([a-z-]+)"$`).FindAllStringSubmatch(string(source), -1) {
		names = append(names, m[1])
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(section, -1) {
		rows = append(rows, m[1])
	}
	slices.Sort(names)
	slices.Sort(rows)
	assert.NotEmpty(t, names)
	assert.Equal(t, names, rows)
}
