package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"
)

// printer prints lines of text. Names in files may have been written by anybody, and a
// terminal obeys what it is sent: a name could hide a line, or show another one. So nothing
// that does not print is printed as it is, and this is the one place that sees to it.
type printer struct{ w io.Writer }

// line prints a line of text.
func (p printer) line(text string) {
	_, _ = io.WriteString(p.w, harmless(text)+"\n")
}

// table prints rows, the cells of which stand below each other. A row without cells is an
// empty line, and one with a single cell has no part in it.
func (p printer) table(rows [][]string) error {
	w := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = harmless(cell)
		}
		if _, err := io.WriteString(w, strings.Join(cells, "\t")+"\n"); err != nil {
			return err
		}
	}
	return w.Flush()
}

// harmless returns text with everything written as in Go's strings that is no letter, mark,
// number, punctuation, symbol or plain space: control characters, those that turn the
// direction of text, invisible ones, and bytes that are no UTF-8.
func harmless(text string) string {
	if !strings.ContainsFunc(text, hides) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		next := strings.IndexFunc(text, hides)
		if next < 0 {
			next = len(text)
		}
		b.WriteString(text[:next])
		text = text[next:]
		end := strings.IndexFunc(text, func(r rune) bool { return !hides(r) })
		if end < 0 {
			end = len(text)
		}
		quoted := strconv.Quote(text[:end])
		b.WriteString(quoted[1 : len(quoted)-1])
		text = text[end:]
	}
	return b.String()
}

// hides reports whether a rune is not seen as what it is. U+FFFD stands for bytes that are
// no UTF-8, too.
func hides(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }

// harmlessData returns a document in YAML or JSON that means the same, and in which what does
// not print is escaped. It stands in double quotes everywhere: JSON has no other strings, and
// package file quotes such strings of YAML.
func harmlessData(data []byte, inJSON bool) []byte {
	text := string(data)
	if !strings.ContainsFunc(text, escapes) {
		return data
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case !escapes(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		case inJSON:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return []byte(b.String())
}

func escapes(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
