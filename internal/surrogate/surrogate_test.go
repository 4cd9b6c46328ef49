package surrogate_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/internal/surrogate"
)

func TestLone(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		json string
		want int
	}{
		{`{}`, -1},
		{`"\n\\\u00e9\""`, -1},
		{`"\ud83d\ude00"`, -1},       // a pair
		{`"\ud83d\ude00\ud83d"`, 13}, // and half of one
		{`"\ude00\ud83d"`, 1},        // the wrong way round
		{`"\ud83dx"`, 1},
		{`"\ud83d\\ude00"`, 1}, // a backslash, and ude00
		{`"\\ud83d"`, -1},
		{`"\\\ud83d"`, 3},
		{`"\uD83D\uDE00\uDC00"`, 13},
		{`["\\", "\u0041", "\ud800"]`, 18},
	} {
		assert.Equal(t, r.want, surrogate.Lone([]byte(r.json)), r.json)
	}
}
