// Package surrogate finds what JSON allows in a string though it is no text: half of a
// surrogate pair, which escapes can spell.
package surrogate

import (
	"bytes"
	"encoding/hex"
)

// Lone returns where half of a surrogate pair stands without the other half, in data that is
// JSON, and -1 if there is none. Parsers read it as U+FFFD, and so as another string.
func Lone(data []byte) int {
	for at := 0; ; at++ {
		next := bytes.IndexByte(data[at:], '\\')
		if next < 0 {
			return -1
		}
		at += next
		first, ok := escaped(data[at:])
		if !ok {
			at++ // what is escaped may be a backslash
			continue
		}
		second, _ := escaped(data[at+6:])
		switch isFirst, isSecond := first>>10 == 0xd800>>10, second>>10 == 0xdc00>>10; {
		case first>>10 == 0xdc00>>10, isFirst && !isSecond:
			return at
		case isFirst:
			at += 6
		}
		at += 5
	}
}

// escaped returns the number of an escape such as \u00e9 that data begins with.
func escaped(data []byte) (n uint32, ok bool) {
	var b [2]byte
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return 0, false
	}
	if _, err := hex.Decode(b[:], data[2:6]); err != nil {
		return 0, false
	}
	return uint32(b[0])<<8 | uint32(b[1]), true
}
