// Package nearest finds what somebody meant who has misspelt a name.
package nearest

import (
	"iter"
	"strings"
)

// To returns that of names which word is most likely a misspelling of: another case, other
// separators, or a letter or two. Of several that are as near it is the first. It is empty if
// none is near.
func To(word string, names iter.Seq[string]) string {
	const longest = 128 // of words that people misspell; the rest takes too long
	if len(word) > longest {
		return ""
	}
	best, least := "", 1+len(word)/4
	plain := folded(word)
	for name := range names {
		if len(name) > longest || name == word {
			continue
		}
		if d := distance(plain, folded(name), least); d < least || d == least && best == "" && d < max(len(word), len(name)) {
			best, least = name, d
		}
	}
	return best
}

// folded drops what is easily taken for something else.
func folded(s string) string {
	return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(s))
}

// distance returns how many letters must be added, dropped, changed or exchanged with
// their neighbour to make b of a, or more than most if it is more.
func distance(a, b string, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return most + 1
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, before
		row[0] = i + 1
		near := row[0]
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
			near = min(near, row[j+1])
		}
		if near > most+1 { // and an exchange of neighbours makes up for one at most
			return most + 1
		}
	}
	return row[len(b)]
}
