package webpage_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/webpage"
)

// TestReasonsAreExplained: the pages say of every reason what it means, and of none that there is
// not.
func TestReasonsAreExplained(t *testing.T) {
	t.Parallel()
	ends := make(map[string]bool)
	for r := interceptor.EndReason(0); r.String() != "invalid"; r++ {
		ends[r.String()] = true
		assert.Contains(t, webpage.EndMeans, r.String())
	}
	denials := make(map[string]bool)
	for r := interceptor.DeniedNothing + 1; r.String() != "invalid"; r++ {
		denials[r.String()] = true
		assert.Contains(t, webpage.DenialMeans, r.String())
	}
	for word := range webpage.EndMeans {
		assert.Contains(t, ends, word)
	}
	for word := range webpage.DenialMeans {
		assert.Contains(t, denials, word)
	}
}
