package file

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/rego-go/rego/policy"
)

// Parsers tell what they did not expect. These functions tell people where to look, and what
// to do about it.

// byteOrderMark is U+FEFF in UTF-8, which some editors begin files with.
var byteOrderMark = []byte("\ufeff")

// textFault returns what makes data no text in a format, nil if nothing does.
func textFault(data []byte, f Format) policy.Faults {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return policy.Faults{{Line: 1, Column: 1, Text: "is UTF-16: save the file as UTF-8"}}
	}
	for at := 0; at < len(data); {
		r, size := utf8.DecodeRune(data[at:])
		switch {
		case r == utf8.RuneError && size == 1:
			return faultAt(data, at, "is not UTF-8, because of the byte 0x%02x (is it Latin-1?): save the file as UTF-8", data[at])
		case r == 0:
			return faultAt(data, at, "has a NUL byte: is it no text, or UTF-16?")
		case f == YAML && isControl(r):
			return faultAt(data, at, `has the control character %U, which YAML cannot have: leave it out, or write "\u%04x" in double quotes`, r, r)
		}
		at += size
	}
	return nil
}

// isControl reports whether YAML does not allow a rune anywhere.
func isControl(r rune) bool {
	return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r >= 0x7f && r < 0xa0 && r != 0x85 || r == 0xfffe || r == 0xffff
}

// faultAt is a fault of the byte at an offset.
func faultAt(data []byte, at int, format string, args ...any) policy.Faults {
	start := bytes.LastIndexByte(data[:at], '\n') + 1
	return policy.Faults{{
		Line:   bytes.Count(data[:at], []byte{'\n'}) + 1,
		Column: utf8.RuneCount(data[start:at]) + 1,
		Text:   fmt.Sprintf(format, args...),
	}}
}

// conflict is a line that a merge has left.
var conflict = regexp.MustCompile(`(?m)^(<<<<<<<|>>>>>>>)( .*)?$`)

// conflictFault returns the fault of a merge that was not finished, nil without one.
func conflictFault(data []byte) policy.Faults {
	if at := conflict.FindIndex(data); at != nil {
		return faultAt(data, at[0], "is the mark of a merge that has not been resolved")
	}
	return nil
}

// advice says what to do about what yaml finds. The line that yaml tells may be one of a
// neighbour's, so the place is where the pattern matches, from that line on or else anywhere.
var advice = []struct {
	says  *regexp.Regexp // what yaml does
	where *regexp.Regexp // the fault stands at its first group; nil if the line is all there is to know
	text  string         // with what the group matches for %s; empty if yaml's own is as good
	hint  string         // after yaml's own
}{
	{
		regexp.MustCompile(`^found character that cannot start any token|^found a tab character`),
		regexp.MustCompile(`^ *(\t)`),
		"a tab is no indentation in YAML: use spaces%.0s", "",
	},
	{
		regexp.MustCompile(`^found character that cannot start any token`),
		regexp.MustCompile("(?:^|[\\s\\[{,:-])([@`%])"),
		"no value can begin with %s in YAML: put it in quotes", "",
	},
	{
		regexp.MustCompile(`^did not find expected alphabetic or numeric character`),
		regexp.MustCompile(`(?:^|[\s\[{,:-])(\*)(?:[^\w-]|$)`),
		`%s begins an alias in YAML: put it in quotes`, "",
	},
	{
		regexp.MustCompile(`^did not find expected alphabetic or numeric character`),
		regexp.MustCompile(`(?:^|[\s\[{,:-])(&)(?:[^\w-]|$)`),
		"%s begins an anchor in YAML: put the value in quotes", "",
	},
	{
		regexp.MustCompile(`^unknown anchor `),
		regexp.MustCompile(`(?:^|[\s\[{,:-])(\*[\w-]+)`),
		`%s is an alias in YAML, and those are not supported: put it in quotes, or write out what it stands for`, "",
	},
	{
		regexp.MustCompile(`^mapping values are not allowed`),
		regexp.MustCompile(`:\s.*?(:)(?:\s|$)`),
		`%s cannot stand in a value: put the value in quotes, or begin a new line`, "",
	},
	{
		regexp.MustCompile(`^found invalid Unicode character escape code`),
		regexp.MustCompile(`(\\u[dD][89a-fA-F][0-9a-fA-F]{2})`),
		`%s is half of a surrogate pair, and no character: write the character itself`, "",
	},
	{
		regexp.MustCompile(`^found incompatible YAML document`),
		regexp.MustCompile(`^(%YAML .*)`),
		"%s is not supported: leave it out", "",
	},
	{regexp.MustCompile(`^did not find expected key`), nil, "", "is it indented as the lines around it?"},
	{regexp.MustCompile(`^found unexpected end of stream`), nil, "", "is a quote never closed?"},
}

// advised returns a fault of yaml's with advice.
func advised(f policy.Fault, data []byte) policy.Fault {
	if c := conflictFault(data); c != nil {
		return c[0]
	}
	for _, a := range advice {
		if !a.says.MatchString(f.Text) {
			continue
		}
		if a.where == nil {
			f.Text += ": " + a.hint
			return f
		}
		lines := strings.Split(string(data), "\n")
		for _, from := range []int{max(f.Line-1, 0), 0} {
			for i := from; i < len(lines); i++ {
				at := a.where.FindStringSubmatchIndex(strings.TrimSuffix(lines[i], "\r"))
				if at == nil {
					continue
				}
				f.Line, f.Column = i+1, utf8.RuneCountInString(lines[i][:at[2]])+1
				f.Text = fmt.Sprintf(a.text, short(lines[i][at[2]:at[3]]))
				return f
			}
		}
	}
	return f
}

// jsonAdvice is what to do about what encoding/json finds in the byte at an offset; empty if
// it is known to nobody.
func jsonAdvice(data []byte, at int) string {
	if at >= len(data) {
		return ""
	}
	switch before := bytes.TrimSpace(data[:at]); data[at] {
	case '\'':
		return ": strings have double quotes"
	case '/', '#':
		return ": JSON has no comments"
	case '}', ']':
		if bytes.HasSuffix(before, []byte(",")) {
			return ": no comma may stand before it"
		}
	case 'T', 'F':
		return ": true and false are in small letters"
	case '\n':
		return `: write \n, or close the string`
	}
	return ""
}

var pair = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}`)

// asYAML returns JSON that YAML can read, with all that there is at the same place. YAML has
// no surrogate pairs, so that others stand for the characters.
func asYAML(data []byte) []byte { return pair.ReplaceAll(data, []byte(`\ufffd\ufffd`)) }
