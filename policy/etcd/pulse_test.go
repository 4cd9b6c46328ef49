package etcd

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPulse(t *testing.T) {
	var p pulse
	ticks := func(n int, trusted bool) {
		t.Helper()
		for range n - 1 {
			require.True(t, p.tick())
		}
		require.Equal(t, trusted, p.tick())
	}
	// A quiet storage: each check is answered.
	for range 3 {
		ticks(1, true)
		require.False(t, p.current(7) && p.at < 7)
		p.reached(7)
		require.Equal(t, pulse{at: 7}, p)
	}
	// The watch is ahead of the check.
	require.False(t, p.reached(9), "nothing was asked")
	ticks(unanswered, true)
	require.True(t, p.current(8))
	// It is behind, and gets there.
	ticks(2, true)
	require.False(t, p.current(12))
	require.False(t, p.reached(11))
	ticks(2, true)
	require.False(t, p.current(20), "the first check is still to be met")
	require.True(t, p.reached(12))
	// It is behind, and stays there.
	ticks(1, true)
	require.False(t, p.current(20))
	require.False(t, p.reached(19))
	ticks(unanswered, false)
	// The quorum does not answer, whatever the watch says.
	p = pulse{at: 7}
	ticks(2, true)
	require.False(t, p.reached(8))
	ticks(unanswered-1, false)
}
