package budget

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestHistory(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	type look struct {
		now   time.Duration
		count int64
		old   int64
	}
	tests := []struct {
		name  string
		looks []look
	}{
		{"a second ago is nine eighths back", []look{
			{0, 5, 0},
			{125 * ms, 7, 0},
			{1124 * ms, 9, 0},
			{1125 * ms, 10, 5},
			{1250 * ms, 11, 7},
		}},
		{"the last look in an eighth counts", []look{
			{0, 5, 0},
			{100 * ms, 6, 0},
			{110 * ms, 6, 0},
			{1125 * ms, 6, 6},
		}},
		{"after a pause all is old but what is new", []look{
			{0, 5, 0},
			{60 * time.Second, 9, 5},
			{61 * time.Second, 12, 5},
			{61125 * ms, 12, 9},
		}},
		{"the first look after a pause takes the place of the last before it", []look{
			{0, 5, 0},
			{9 * 125 * ms, 9, 5},
			{27 * 125 * ms, 12, 9},
		}},
		{"a look that comes late changes nothing", []look{
			{2000 * ms, 20, 0},
			{3500 * ms, 30, 20},
			{2100 * ms, 21, 20},
			{4625 * ms, 40, 30},
		}},
		{"counts beyond 32 bits", []look{
			{0, 1<<32 - 9, 0},
			{125 * ms, 1<<32 - 8, 0},
			{250 * ms, 1<<32 - 7, 0},
			{375 * ms, 1<<32 - 6, 0},
			{500 * ms, 1<<32 - 5, 0},
			{625 * ms, 1<<32 - 4, 0},
			{750 * ms, 1<<32 - 3, 0},
			{875 * ms, 1<<32 - 2, 0},
			{1000 * ms, 1<<32 - 1, 0},
			{1125 * ms, 1<<32 + 1, 1<<32 - 9},
			{2125 * ms, 1<<32 + 2, 1<<32 - 1},
			{2250 * ms, 1<<32 + 3, 1<<32 + 1},
		}},
	}
	for _, tt := range tests {
		var h history
		for i, l := range tt.looks {
			assert.Equal(t, l.old, h.look(stepAt(l.now, eighth), l.count), "%s: look %d", tt.name, i+1)
		}
	}
}
