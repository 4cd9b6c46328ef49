package debugpage

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxName is the longest name of a method that pages have in full.
const maxName = 1024

// spell returns the name of a method as pages and links have it: one that is too long for these, or
// no text, is cut and told apart by a hash.
func spell(name string) string {
	if len(name) <= maxName && utf8.ValidString(name) {
		return name
	}
	hash := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%s… (%x)", strings.ToValidUTF8(name[:min(len(name), maxName/2)], "\ufffd"), hash[:8])
}

// named returns the name of a method of a target that is spelt so.
func (h *Handler) named(target, spelt string) (name string, ok bool) {
	s := h.it.Counters()
	for i := range s.Targets {
		if s.Targets[i].Name != target {
			continue
		}
		for j := range s.Targets[i].Methods {
			if name := s.Targets[i].Methods[j].Method; spell(name) == spelt {
				return name, true
			}
		}
	}
	return "", false
}
