package file_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

// TestAdvice: where parsers only say what they did not expect, the fault says what to do, and
// stands where that is to be done.
func TestAdvice(t *testing.T) {
	t.Parallel()
	const (
		alias     = `"*" begins an alias in YAML: put it in quotes`
		tab       = "a tab is no indentation in YAML: use spaces"
		notUTF8   = "is not UTF-8, because of the byte 0xfc (is it Latin-1?): save the file as UTF-8"
		nul       = "has a NUL byte: is it no text, or UTF-16?"
		half      = " is half of a surrogate pair, and no character: write the character itself"
		duration  = "must be a duration such as 1.5s, got "
		merge     = "is the mark of a merge that has not been resolved"
		inTimeout = "1:55: rules[0].policy.timeout: " + duration
	)
	timeout := func(text string) string {
		return "{rules: [{methods: ['*'], policy: {name: '', timeout: " + text + "}}]}"
	}
	for _, r := range []struct {
		format file.Format
		text   string
		want   string
	}{
		{file.YAML, "rules:\n- methods: [*]\n", "2:13: " + alias},
		{file.YAML, "rules:\n- methods: [/a.B/*, *]\n", "2:21: " + alias},
		{file.YAML, "rules:\n- methods:\n  - *\n  policy: {}\n", "3:5: " + alias},
		{file.YAML, "rules:\n- methods:\n  - '*'\n  - *\n", "4:5: " + alias},
		{file.YAML, "rules:\r\n- methods: *\r\n", "2:12: " + alias},
		{file.YAML, "rules:\n- methods: [*all]\n",
			`2:13: "*all" is an alias in YAML, and those are not supported: put it in quotes, or write out what it stands for`},
		{file.YAML, "version: & x\n", `1:10: "&" begins an anchor in YAML: put the value in quotes`},
		{file.YAML, "version: a\nrules:\n\t- methods: ['*']\n", "3:1: " + tab},
		{file.YAML, "rules:\n- methods: ['*']\n  policy:\n  \tname: x\n", "4:3: " + tab},
		{file.YAML, "version: a\n# f\xfcr\n", "2:4: " + notUTF8},
		{file.JSON, "{\n \"version\": \"ü f\xfcr\"}", "2:17: " + notUTF8}, // columns count characters
		{file.YAML, "\xff\xfev\x00", "1:1: is UTF-16: save the file as UTF-8"},
		{file.JSON, "\xfe\xff\x00{", "1:1: is UTF-16: save the file as UTF-8"},
		{file.YAML, "version: a\n\x00", "2:1: " + nul},
		{file.JSON, "{}\x00", "1:3: " + nul},
		{file.YAML, "hedges_off: true\nversion: a\x1bb\n",
			`2:11: has the control character U+001B, which YAML cannot have: leave it out, or write "\u001b" in double quotes`},
		{file.YAML, "version: \u009b\n", `1:10: has the control character U+009B, which YAML cannot have: leave it out, or write "\u009b" in double quotes`},
		{file.JSON, "{\n\"version\": \"\\ud800\"}", `2:13: "\\ud800"` + half},
		{file.JSON, `{"version": "\ud83d\ude00\udc00"}`, `1:26: "\\udc00"` + half},
		{file.JSON, `{"version": "\\ud800\\\ud800"}`, `1:23: "\\ud800"` + half}, // a backslash, and ud800
		{file.YAML, "hedges_off: true\nversion: \"\\ud800\"\n", `2:11: "\\ud800"` + half},
		{file.JSON, `{"version": "\ud83d\ude00", "revision": -1}`, "1:41: revision: must be a whole number, got -1"}, // a pair is none
		{file.YAML, timeout("0.1ns"), inTimeout + `"0.1ns": it is finer than a nanosecond`},
		{file.YAML, timeout("1h1.0000000005s"), inTimeout + `"1h1.0000000005s": it is finer than a nanosecond`},
		{file.YAML, timeout("0." + strings.Repeat("0", 99) + "1h"), inTimeout + `"0.` + strings.Repeat("0", 59) + `...": it is finer than a nanosecond`},
		{file.YAML, timeout("5"), inTimeout + "5: a unit is missing"},
		{file.YAML, timeout("1d"), inTimeout + `"1d"`},
		{file.YAML, "version: @x\n", `1:10: no value can begin with "@" in YAML: put it in quotes`},
		{file.YAML, "version: a: b\n", `1:11: ":" cannot stand in a value: put the value in quotes, or begin a new line`},
		{file.YAML, "version:a\n", `1:1: must have fields, got "version:a": is a space missing after a colon?`},
		{file.YAML, "version: 'a\n", "2:1: found unexpected end of stream: is a quote never closed?"},
		{file.YAML, "rules:\n- methods: ['*']\n policy: {}\n", "3:1: did not find expected key: is it indented as the lines around it?"},
		{file.YAML, "%YAML 1.2\n---\n{}\n", `1:1: "%YAML 1.2" is not supported: leave it out`},
		{file.YAML, "version: a\n<<<<<<< HEAD\nversion: b\n=======\n", "2:1: " + merge},
		{file.JSON, "{\n<<<<<<< HEAD\n}\n", "2:1: " + merge},
		{file.YAML, "Retries-Off: true\n", "1:1: Retries-Off: " + unknownInSet + ": did you mean retries_off?"},
		{file.YAML, "rules: [{methods: ['*'], policy: {idempotency: IDEMPOTENT}}]",
			"1:48: rules[0].policy.idempotency: must be one of IDEMPOTENCY_UNSPECIFIED, IDEMPOTENCY_NOT_IDEMPOTENT, IDEMPOTENCY_IDEMPOTENT, IDEMPOTENCY_NO_SIDE_EFFECTS, got \"IDEMPOTENT\""},
		{file.YAML, "rules: [{methods: ['*'], policy: {retry: {codes: [UNAVAILABEL]}}}]", "got \"UNAVAILABEL\": did you mean UNAVAILABLE?"},
		{file.JSON, `{'version': 'a'}`, `1:2: invalid character '\'' looking for beginning of object key string: strings have double quotes`},
		{file.JSON, `{"version": "a",}`, "1:17: invalid character '}' looking for beginning of object key string: no comma may stand before it"},
		{file.JSON, `{"hedges_off": True}`, "1:16: invalid character 'T' looking for beginning of value: true and false are in small letters"},
		{file.JSON, "// a\n{}", "1:1: invalid character '/' looking for beginning of value: JSON has no comments"},
	} {
		faults := faultsOf(t, r.text, r.format)
		assert.Len(t, faults, 1, "%v %q", r.format, r.text)
		if r.want[0] >= '0' && r.want[0] <= '9' {
			assert.Equal(t, r.want, faults[0], "%v %q", r.format, r.text)
		} else {
			assert.Contains(t, faults[0], r.want, "%v %q", r.format, r.text)
		}
	}
}

// TestUsualText: what editors put into files on all systems.
func TestUsualText(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		format file.Format
		text   string
	}{
		{file.YAML, "\ufeffversion: ü😀\r\nretries_off: true\r\n"},
		{file.JSON, "\ufeff{\r\n\"version\": \"ü\\ud83d\\ude00\", \"retries_off\": true}\r\n"},
		{file.YAML, "version:\tü😀\t# a tab that is no indentation\nretries_off: true"},
	} {
		s, err := file.Parse([]byte(r.text), r.format)
		require.NoError(t, err, "%q", r.text)
		assert.Equal(t, policy.Set{Version: "ü😀", RetriesOff: true}, s, "%q", r.text)
	}
	for _, text := range []string{"1.5s", "0.000000001s", "1h0.5m", "0.1h", "1.50000000000000000000000s"} {
		_, err := file.Parse([]byte("rules: [{methods: ['*'], policy: {timeout: "+text+"}}]"), file.YAML)
		assert.NoError(t, err, text)
	}
}
