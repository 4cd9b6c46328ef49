package nearest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/internal/nearest"
)

func TestTo(t *testing.T) {
	t.Parallel()
	for _, r := range []struct{ word, want string }{
		{"max_atempts", "max_attempts"},
		{"maxAttempts", "max_attempts"}, // another spelling
		{"MAX-ATTEMPTS", "max_attempts"},
		{"/shop.v1.Basket/Gte", "/shop.v1.Basket/Get"}, // two letters exchanged are one mistake
		{"/shop.v1.Baskets/Get", "/shop.v1.Basket/Get"},
		{"careful", ""}, // it is itself
		{"carefuls", "careful"},
		{"lnt", "lint"},
		{"of", "off"},
		{"ox", ""}, // everything is near to so short a word
		{"x", ""},
		{"", ""},
		{"something else", ""},
		{strings.Repeat("max_attempts", 99), ""},
	} {
		assert.Equal(t, r.want, nearest.To(r.word, slices.Values([]string{"careful", "max_attempts", "/shop.v1.Basket/Get", "lint", "off"})), "%.40q", r.word)
	}
}
