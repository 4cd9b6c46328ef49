package controlplane

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// TestAllowance is a ledger: what comes now and then is read at once, what comes all the time is
// not.
func TestAllowance(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	now := time.Now()
	var a allowance
	for _, r := range []struct {
		after time.Duration // the message before
		size  int
		wait  time.Duration
	}{
		{0, 16 * mib, 0},
		{0, 16 * mib, 0},
		{0, 4 * mib, time.Second},
		{time.Second, 4 * mib, time.Second},
		{2 * time.Second, 4 * mib, 0},
		{time.Hour, 20, 0},
	} {
		now = now.Add(r.after)
		assert.Equal(t, r.wait, a.wait(r.size, now))
	}
	for range 32 << 10 {
		assert.Less(t, a.wait(1, now), time.Second)
	}
	assert.Positive(t, a.wait(1, now), "also small ones, if there are many")
}
