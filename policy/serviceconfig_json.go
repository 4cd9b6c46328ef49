package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"
)

// value is a value of a JSON document, which is valid as a whole.
type value struct {
	path string // methodConfig[2].timeout
	at   int    // where it stands in the document, or its key if it has one
	from int    // where raw does
	raw  string // empty if the value is absent
}

// given reports whether v is there. null is as good as absent, as in encoding/json.
func (v value) given() bool { return v.raw != "" && v.raw != "null" }

// empty reports whether v is an array without elements.
func (v value) empty() bool {
	return v.raw[0] == '[' && v.raw[skip(v.raw, 1)] == ']'
}

// space is what may stand around values.
const space = " \t\r\n"

// String returns what to show of v: what it is, or what kind of thing if it is long.
func (v value) String() string {
	switch {
	case v.raw == "":
		return "nothing"
	case v.raw[0] == '{':
		return "an object"
	case v.raw[0] == '[':
		return "an array"
	}
	return shorten(v.raw)
}

func quote(s string) string { return shorten(strconv.Quote(s)) }

// shorten keeps s from filling a message.
func shorten(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// items yields what an object or an array has, with the keys of an object.
func (v value) items() iter.Seq2[string, value] {
	return func(yield func(string, value) bool) {
		i := skip(v.raw, 1)
		for n := 0; v.raw[i] != '}' && v.raw[i] != ']'; n++ {
			item, key := value{at: v.from + i}, ""
			if v.raw[0] == '{' {
				end := after(v.raw, i)
				if json.Unmarshal([]byte(v.raw[i:end]), &key) != nil {
					return
				}
				item.path = strings.TrimPrefix(v.path+"."+shorten(key), ".")
				i = skip(v.raw, end)
			} else {
				item.path = fmt.Sprintf("%s[%d]", v.path, n)
			}
			end := after(v.raw, i)
			item.raw, item.from = v.raw[i:end], v.from+i
			if !yield(key, item) {
				return
			}
			i = skip(v.raw, end)
		}
	}
}

// skip returns where the next key, value or closing bracket begins, at i or later.
func skip(json string, i int) int {
	for strings.IndexByte(space+",:", json[i]) >= 0 {
		i++
	}
	return i
}

// after returns where the key or value that begins at i has ended.
func after(json string, i int) int {
	for depth := 0; i < len(json); i++ {
		switch json[i] {
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		case '"':
			for i++; json[i] != '"'; i++ {
				if json[i] == '\\' {
					i++
				}
			}
		default:
			if depth > 0 || i+1 < len(json) && strings.IndexByte(space+",:]}", json[i+1]) < 0 {
				continue
			}
		}
		if depth == 0 {
			return i + 1
		}
	}
	return len(json)
}

// position returns the line and column of an offset, in characters from 1.
func position(document []byte, at int) (line, column int) {
	before := document[:at]
	return bytes.Count(before, []byte{'\n'}) + 1, utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
}
