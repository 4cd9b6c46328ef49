package file_test

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/internal/testpolicy"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

func TestFormatOf(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]file.Format{
		"a.json": file.JSON, "/etc/a.yaml": file.YAML, "a.b.yml": file.YAML, "A.YAML": file.YAML,
		"a.binpb": file.Binary, "a.pb": file.Binary,
	} {
		got, err := file.FormatOf(name)
		require.NoError(t, err, name)
		assert.Equal(t, want, got, name)
	}
	for _, name := range []string{"", "yaml", "a", "a.txt", "a.yaml/b", "a.yaml~"} {
		_, err := file.FormatOf(name)
		require.ErrorContains(t, err, "is none of .json", name)
	}
	assert.Equal(t, "none json yaml binary invalid", fmt.Sprint(file.Format(0), file.JSON, file.YAML, file.Binary, file.Format(9)))
}

// incident is a set with a bit of everything, in both of the formats that people write.
var incident = policy.Set{
	Version: "incident-7", Revision: 7, HedgesOff: true,
	Rules: []policy.Rule{
		{Methods: []string{"*"}},
		{Methods: []string{"/shop.v1.Cart/Get", "/shop.v1.Cart/List"}, Policy: policy.Policy{
			Name: "cart", Timeout: 2 * time.Second, AttemptTimeout: 500 * time.Millisecond,
			Retry: policy.Retry{
				MaxAttempts: 4,
				Backoff:     policy.Backoff{Initial: policy.NoWait, Multiplier: 1.5, Jitter: policy.JitterEqual},
				Codes:       []codes.Code{codes.Unavailable, codes.Aborted},
			},
		}},
	},
	Budgets: []policy.NamedBudget{{Name: "batch", TokenBucket: &budget.TokenBucketConfig{PerSecond: 5}}},
}

const incidentYAML = `version: incident-7
revision: 7
hedges_off: true
budgets:
  - name: batch
    token_bucket:
      per_second: 5
rules:
  - methods:
      - '*'
    policy: {}
  - methods:
      - /shop.v1.Cart/Get
      - /shop.v1.Cart/List
    policy:
      name: cart
      timeout: 2s
      attempt_timeout: 0.500s
      retry:
        max_attempts: 4
        backoff:
          initial: 0s
          multiplier: 1.5
          jitter: JITTER_EQUAL
        codes:
          - UNAVAILABLE
          - ABORTED
...
`

const incidentJSON = `{
  "version": "incident-7",
  "revision": "7",
  "hedges_off": true,
  "budgets": [
    {
      "name": "batch",
      "token_bucket": {
        "per_second": 5
      }
    }
  ],
  "rules": [
    {
      "methods": [
        "*"
      ],
      "policy": {}
    },
    {
      "methods": [
        "/shop.v1.Cart/Get",
        "/shop.v1.Cart/List"
      ],
      "policy": {
        "name": "cart",
        "timeout": "2s",
        "attempt_timeout": "0.500s",
        "retry": {
          "max_attempts": 4,
          "backoff": {
            "initial": "0s",
            "multiplier": 1.5,
            "jitter": "JITTER_EQUAL"
          },
          "codes": [
            "UNAVAILABLE",
            "ABORTED"
          ]
        }
      }
    }
  ]
}
`

func TestMarshal(t *testing.T) {
	t.Parallel()
	for f, want := range map[file.Format]string{file.YAML: incidentYAML, file.JSON: incidentJSON} {
		b, err := file.Marshal(incident, f)
		require.NoError(t, err)
		assert.Equal(t, want, string(b))
		got, err := file.Parse(b, f)
		require.NoError(t, err)
		assert.Equal(t, incident, got)
	}

	_, err := file.Marshal(policy.Set{Rules: make([]policy.Rule, 1)}, file.YAML)
	require.EqualError(t, err, "rules[0].methods: must name at least one method")
	_, err = file.Marshal(incident, 0)
	require.EqualError(t, err, "unknown format 0")
	_, err = file.Parse([]byte("{}"), 9)
	require.EqualError(t, err, "unknown format 9")
}

// TestNothingIsLost: every valid set comes back from every format, and is written in
// the same way again.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	sets := []policy.Set{{}, incident}
	for range 500 {
		sets = append(sets, testpolicy.Random(r))
	}
	for _, s := range sets {
		for f := file.JSON; f <= file.Binary; f++ {
			b, err := file.Marshal(s, f)
			require.NoError(t, err, "seed %d: %+v", seed, s)
			got, err := file.Parse(b, f)
			require.NoError(t, err, "seed %d: %s", seed, b)
			require.Equal(t, s, got, "seed %d: %s", seed, b)
			again, err := file.Marshal(got, f)
			require.NoError(t, err)
			require.Equal(t, b, again, "seed %d", seed)
		}
	}
}

// TestNoFieldIsForgotten: every field of a set is written under its name, and read again.
func TestNoFieldIsForgotten(t *testing.T) {
	t.Parallel()
	for _, f := range testpolicy.Fields() {
		s := f.Alone()
		for format := file.JSON; format <= file.Binary; format++ {
			b, err := file.Marshal(s, format)
			require.NoError(t, err, "%s: policy/file/encode.go", f.Path)
			got, err := file.Parse(b, format)
			require.NoError(t, err, "%s: policy/file/decode.go: %s", f.Path, b)
			assert.Equal(t, s, got, "%s: is lost as %v: policy/wire.go, policy/file/encode.go, policy/file/decode.go", f.Path, format)
			if format != file.Binary {
				names := strings.Split(f.Path, ".")
				assert.Contains(t, string(b), names[len(names)-1], "%s: policy/file/encode.go", f.Path)
			}
		}
	}
}

// TestSpellings has what people write besides what Marshal does.
func TestSpellings(t *testing.T) {
	t.Parallel()
	named := func(p policy.Policy) policy.Set {
		return policy.Set{Rules: []policy.Rule{{Methods: []string{"*"}, Policy: p}}}
	}
	in := func(p string) string { return "rules: [{methods: ['*'], policy: {" + p + "}}]" }
	inJSON := func(p string) string { return `{"rules": [{"methods": ["*"], "policy": {` + p + `}}]}` }
	for _, r := range []struct {
		f    file.Format
		text string
		want policy.Set
	}{
		{file.YAML, "{}", policy.Set{}},
		{file.YAML, "rules: []", policy.Set{}},
		{file.YAML, "--- # policies\nversion: a\n...\n", policy.Set{Version: "a"}},
		{file.YAML, "\ufeffversion: a", policy.Set{Version: "a"}},
		{file.YAML, "version: a\r\nretries_off: true\r\n", policy.Set{Version: "a", RetriesOff: true}},
		{file.YAML, "version: a\rretriesOff: true\r", policy.Set{Version: "a", RetriesOff: true}},
		{file.YAML, `{"version": "a", "retriesOff": true}`, policy.Set{Version: "a", RetriesOff: true}}, // JSON is YAML
		{file.YAML, "version: 1.10", policy.Set{Version: "1.10"}},
		{file.YAML, "version: 2026-01-02", policy.Set{Version: "2026-01-02"}},
		{file.YAML, "version: 'null'", policy.Set{Version: "null"}},
		{file.YAML, "version: &a b", policy.Set{Version: "b"}}, // an anchor without an alias
		{file.YAML, `revision: "7"`, policy.Set{Revision: 7}},
		{file.YAML, "revision: 18446744073709551615", policy.Set{Revision: 1<<64 - 1}},
		{file.YAML, "revision: 1e3", policy.Set{Revision: 1000}},
		{file.YAML, in("timeout: 500ms"), named(policy.Policy{Timeout: 500 * time.Millisecond})},
		{file.YAML, in("timeout: 1m30s"), named(policy.Policy{Timeout: 90 * time.Second})},
		{file.YAML, in("timeout: 0.5s, attemptTimeout: '0.25s'"), named(policy.Policy{Timeout: time.Second / 2, AttemptTimeout: time.Second / 4})},
		{file.YAML, in("hedge: {delay: 0s}"), named(policy.Policy{Hedge: policy.Hedge{Delay: policy.NoWait}})},
		{file.YAML, in("retry: {codes: [UNAVAILABLE, 10], max_attempts: 4.0}"), named(policy.Policy{Retry: policy.Retry{Codes: []codes.Code{codes.Unavailable, codes.Aborted}, MaxAttempts: 4}})},
		{file.JSON, "\t{\"version\"\n:\"\\ud83d\\ude00\"}\n", policy.Set{Version: "😀"}}, // not all JSON is YAML
		{file.JSON, `{"version": null, "rules": null, "hedgesOff": true}`, policy.Set{HedgesOff: true}},
		{file.JSON, inJSON(`"timeout": "0.5s", "attempt_timeout": ".25s"`), named(policy.Policy{Timeout: time.Second / 2, AttemptTimeout: time.Second / 4})},
		{file.Binary, "\x0a\x01a", policy.Set{Version: "a"}},
	} {
		got, err := file.Parse([]byte(r.text), r.f)
		require.NoError(t, err, "%v %q", r.f, r.text)
		assert.Equal(t, r.want, got, "%v %q", r.f, r.text)
	}
}

// TestManyFaults: the first hundred are told, in the order of the file.
func TestManyFaults(t *testing.T) {
	t.Parallel()
	for _, element := range []string{"{}", "a", "{methods: [], policy: {timeout: x}}"} {
		_, err := file.Parse([]byte("rules:\n"+strings.Repeat("- "+element+"\n", 500)), file.YAML)
		var faults policy.Faults
		require.ErrorAs(t, err, &faults)
		require.Len(t, faults, 101)
		assert.Equal(t, policy.Fault{Text: "there are more faults than these"}, faults[100])
		assert.True(t, slices.IsSortedFunc(faults[:100], func(a, b policy.Fault) int { return cmp.Compare(a.Line, b.Line) }))
		assert.Equal(t, 2, faults[0].Line)
	}
}

// TestFieldsAreKnown: the decoder reads the kinds of fields that there are.
func TestFieldsAreKnown(t *testing.T) {
	t.Parallel()
	known := []protoreflect.Kind{
		protoreflect.BoolKind, protoreflect.Int32Kind, protoreflect.Uint64Kind, protoreflect.DoubleKind,
		protoreflect.StringKind, protoreflect.EnumKind, protoreflect.MessageKind,
	}
	var check func(protoreflect.MessageDescriptor)
	check = func(md protoreflect.MessageDescriptor) {
		assert.LessOrEqual(t, md.Fields().Len(), 64, md.FullName())
		for i := range md.Fields().Len() {
			fd := md.Fields().Get(i)
			assert.Contains(t, known, fd.Kind(), fd.FullName())
			assert.False(t, fd.IsMap(), fd.FullName())
			if fd.Message() == nil {
				continue
			}
			if file := fd.Message().ParentFile().Package(); file == "google.protobuf" {
				assert.EqualValues(t, "google.protobuf.Duration", fd.Message().FullName())
				assert.False(t, fd.IsList(), fd.FullName())
				continue
			}
			check(fd.Message())
		}
	}
	check(new(regov1.Set).ProtoReflect().Descriptor())
}

// TestLocate: who looks at a set that was taken can say where it stands.
func TestLocate(t *testing.T) {
	t.Parallel()
	faults := policy.Faults{
		{Path: "rules[0].policy.budget", Text: "x"}, {Path: "rules[0].policy.timeout"}, {Path: "budgets[1]"}, {Path: "rules[9]"}, {Text: "of all"},
	}
	const text = "rules:\n- methods: ['*']\n  policy:\n    budget: a\nbudgets:\n- name: a\n"
	want := policy.Faults{
		{Path: "rules[0].policy.budget", Text: "x", Line: 4, Column: 13}, {Path: "rules[0].policy.timeout", Line: 3, Column: 3},
		{Path: "budgets[1]", Line: 5, Column: 1}, {Path: "rules[9]", Line: 1, Column: 1}, {Text: "of all", Line: 1, Column: 1},
	}
	assert.Equal(t, want, file.Locate([]byte(text), file.YAML, faults))
	assert.Equal(t, faults, file.Locate([]byte(text), file.Binary, faults))
	assert.Equal(t, faults, file.Locate([]byte("{"), file.JSON, faults))
}

// TestBinaryBomb: a file of few bytes that would take hundreds of megabytes is refused before it
// is decoded.
func TestBinaryBomb(t *testing.T) {
	t.Parallel()
	_, err := file.Parse(bytes.Repeat([]byte{3<<3 | 2, 0}, 1<<20), file.Binary)
	require.ErrorContains(t, err, "has more than 100000 rules")
}

// TestCutBinary: a beginning of a binary file may be another set, but its switches are there.
func TestCutBinary(t *testing.T) {
	t.Parallel()
	off := documented
	off.RetriesOff, off.HedgesOff = true, true
	b, err := file.Marshal(off, file.Binary)
	require.NoError(t, err)
	whole, err := file.Parse(b, file.Binary)
	require.NoError(t, err)
	assert.Equal(t, off, whole)
	for n := 4; n < len(b); n++ {
		if s, err := file.Parse(b[:n], file.Binary); err == nil {
			assert.True(t, s.RetriesOff && s.HedgesOff, "%d", n)
		}
	}
}
