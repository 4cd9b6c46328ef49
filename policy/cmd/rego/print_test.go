package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy/file"
)

func TestHarmless(t *testing.T) {
	t.Parallel()
	for _, r := range []struct{ text, want string }{
		{"users", "users"},
		{"ü ☃ 日本 😀 e\u0301", "ü ☃ 日本 😀 e\u0301"},
		{"a\x1b[2J\x1b]0;x\ab", `a\x1b[2J\x1b]0;x\ab`},
		{"a\nb\tc\r", `a\nb\tc\r`},
		{"\u009b31m", `\u009b31m`},                       // an escape sequence in one character
		{"a\u202eb\u2066", `a\u202eb\u2066`},             // turn the direction
		{"a\u200bb\ufeff\u00ad", `a\u200bb\ufeff\u00ad`}, // not seen
		{"a\u2028b", `a\u2028b`},
		{"\U000e0001", `\U000e0001`},
		{"f\xfcr", `f\xfcr`},
		{"\ufffd", `�`}, // printed by Go as it is
		{"\u00a0", `\u00a0`},
		{`\x1b "quoted"`, `\x1b "quoted"`},
		{"", ""},
	} {
		assert.Equal(t, r.want, harmless(r.text), "%q", r.text)
	}
}

// hostile are strings as nobody has them in names but who wants to deceive.
var hostile = []string{
	"\x1b[31mred\x1b[0m", "\x1b]0;title\a", "\u009b2J", "a\nb: c", "a\rb", "\x00", "\x7f", "\b\b\b", "\t", "\v\f",
	"\u202egnp.exe", "\u2066\u2069", "\u200b", "\ufeff", "\u2028\u2029", "\u0085", "\U000e0001\U000e007f", "\u00ad", "\u061c", "\u3164",
}

// checkPrinted holds what the command prints to what a terminal shows as it is.
func checkPrinted(t *testing.T, text, about string) {
	t.Helper()
	if !assert.True(t, utf8.ValidString(text), "%q %s", text, about) {
		return
	}
	for _, r := range text {
		require.True(t, r == '\n' || unicode.IsPrint(r), "%U in %q %s", r, text, about)
	}
}

// TestPrintsHarmless: hostile names in every place of a file where a name can be.
func TestPrintsHarmless(t *testing.T) {
	t.Parallel()
	for _, name := range hostile {
		quoted, err := json.Marshal(name)
		require.NoError(t, err)
		for _, text := range []string{
			`{"version": N, "budgets": [{"name": N, "ratio": {}}], "rules": [{"methods": ["*"], "policy": {"name": N, "budget": N, "classifier": N, "hedge": {"trigger": N}}}]}`,
			`{"rules": [{"methods": [N], "policy": {"name": N}}]}`,
			`{"rules": [{"methods": ["*"], "policy": {"name": N, "timeout": N, "retry": {"codes": [N]}, "hedge": N}}]}`,
			`{N: N}`,
			`{"rules": [{"methods": ["*"], "policy": {N: N}}]}`,
			`{"budgets": [{"name": N, "ratio": {}}, {"name": N, "ratio": {}}]}`,
			`{"methodConfig": [{"name": [{"service": N, "method": N}], "timeout": N, N: N}], N: 1}`,
			`{"methodConfig": [{"name": [{"service": "a.B", "method": N}], "timeout": "1s"}, {"name": [{"service": "a.B", "method": N}]}]}`,
		} {
			text = strings.ReplaceAll(text, "N", string(quoted))
			for _, args := range []string{
				"lint --from json -", "lint --from yaml -", "lint --from serviceconfig -", "lint --output json --from json -",
				"explain --from json - /a.B/C", "explain --from serviceconfig - /a.B/C", "explain --output json --from json - /a.B/C",
				"convert --from json -", "convert --from json --to json -", "convert --lossy --from json --to serviceconfig -",
				"convert --lossy --from serviceconfig -", "convert --lossy --from serviceconfig --to serviceconfig -",
			} {
				_, out, errs := call(text, strings.Fields(args)...)
				checkPrinted(t, out, args+" "+text)
				checkPrinted(t, errs, args+" "+text)
			}
		}
		for _, args := range [][]string{
			{name}, {"help", name}, {"lint", "--" + name}, {"lint", "--from", name, "-"}, {"lint", "--output", name, "-"}, {"lint", name}, {"lint", name + ".yaml"},
			{"explain", "-", name}, {"explain", "-", "/a.B/" + name}, {"convert", "--to", name, "-"}, {"explain", "--descriptors", name, "-", "/a.B/C"},
		} {
			_, out, errs := call("{}", args...)
			checkPrinted(t, out, fmt.Sprintf("%q", args))
			checkPrinted(t, errs, fmt.Sprintf("%q", args))
		}
	}
}

// TestConvertKeeps: what does not print is escaped in what convert writes, and still means the
// same.
func TestConvertKeeps(t *testing.T) {
	t.Parallel()
	for _, name := range hostile {
		quoted, err := json.Marshal(map[string]string{"version": name + "x"})
		require.NoError(t, err)
		want, err := file.Parse(quoted, file.JSON)
		require.NoError(t, err, "%q", name)
		for _, f := range []file.Format{file.YAML, file.JSON} {
			code, out, errs := call(string(quoted), "convert", "--from", "json", "--to", f.String(), "-")
			require.Equal(t, 0, code, "%q %s", name, errs)
			got, err := file.Parse([]byte(out), f)
			require.NoError(t, err, "%q in %s", name, out)
			assert.Equal(t, want, got, "%q in %s", name, out)
		}
	}
}

// TestRandomInput: whatever is in a file, the commands end with an exit code that they
// document, and print nothing that a terminal would obey.
func TestRandomInput(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/policies.md")
	require.NoError(t, err)
	examples := []string{block(t, page, "yaml"), block(t, page, "json")}
	config, err := os.ReadFile("testdata/service_config.json")
	require.NoError(t, err)
	examples = append(examples, string(config))
	commands := strings.Split(`lint --from yaml -|lint --from json -|lint --from binary -|lint --from serviceconfig -|lint --output json --from yaml -
explain --from yaml - /shop.v1.Basket/Get|explain --from json - /shop.v1.Search/Query|explain --from serviceconfig - /shop.v1.Basket/Get
convert --from yaml -|convert --from json --to json -|convert --from yaml --to serviceconfig --lossy -|convert --from serviceconfig --lossy -`, "|")
	commands = strings.Split(strings.Join(commands, "\n"), "\n")
	r := rand.New(rand.NewPCG(3, 4))
	for range 1500 {
		text := mutated(r, examples[r.IntN(len(examples))])
		args := commands[r.IntN(len(commands))]
		code, out, errs := call(text, strings.Fields(args)...)
		assert.LessOrEqual(t, code, 1, "%s\n%q", args, text)
		checkPrinted(t, out, args+" "+text)
		checkPrinted(t, errs, args+" "+text)
	}
}

// mutated changes some places of a text.
func mutated(r *rand.Rand, text string) string {
	b := []byte(text)
	for range 1 + r.IntN(6) {
		at := r.IntN(len(b) + 1)
		end := min(at+r.IntN(20), len(b))
		var with string
		switch r.IntN(5) {
		case 0:
			with = hostile[r.IntN(len(hostile))]
		case 1:
			with = string([]byte{byte(r.IntN(256))})
		case 2:
			with = []string{"*", "&", "'", `"`, "{", "[", "]", "}", ":", "-", "#", "!", "|", ">", "%", "@", "\\u", "\n", "\t", "~", "null", "1e999", "-1"}[r.IntN(23)]
		case 3:
			from := r.IntN(len(b) + 1)
			with = string(b[from:min(from+r.IntN(60), len(b))])
		}
		if r.IntN(2) == 0 {
			end = at // put in, and nothing dropped
		}
		b = append(append(append([]byte(nil), b[:at]...), with...), b[end:]...)
	}
	return string(b)
}

// block returns the first code block of a page in a language.
func block(t *testing.T, page []byte, language string) string {
	t.Helper()
	_, rest, ok := strings.Cut(string(page), "```"+language+"\n")
	require.True(t, ok, language)
	text, _, ok := strings.Cut(rest, "```")
	require.True(t, ok, language)
	return text
}
