package main

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain lets the server of a test be the test's own program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-serve" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestRestart restarts a real server process: no call fails that could be saved, where a bare
// client's do. The load is a small one: on a machine that is too busy for it calls pile up, and
// more are in flight than the budget has retries for.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, o := range outages[:3] {
		o.rate = 20
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			m, err := measure(o, 2*time.Second)
			require.NoError(t, err)
			var out bytes.Buffer
			require.NoError(t, table(&out, []measured{m}))
			bare, idempotent, unknown := m.counts[0], m.counts[len(m.counts)-2], m.counts[len(m.counts)-1]
			assert.Positive(t, bare.failed, "%s", &out)
			assert.Zero(t, idempotent.failed, "%s", &out)
			assert.LessOrEqual(t, unknown.failed, unknown.inFlight, "%s", &out)
			for _, c := range []*count{idempotent, unknown} {
				assert.LessOrEqual(t, c.mostDials, 4, "%s", &out)
			}
		})
	}
}

// TestLongRestart: of a server that is away for longer than a call may take, no call fails that
// had a second left when it was back.
func TestLongRestart(t *testing.T) {
	t.Parallel()
	o := outages[4]
	require.Greater(t, o.down, deadline)
	o.rate = 20
	m, err := measure(o, 2*time.Second)
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, table(&out, []measured{m}))
	for _, c := range m.counts[len(m.counts)-2:] {
		assert.True(t, c.lastBegan.Before(m.back.Add(time.Second-deadline)), "%v before the server was back: %s", m.back.Sub(c.lastBegan), &out)
		assert.Less(t, c.failed, m.counts[0].failed, "%s", &out)
	}
}

func TestUnknownCase(t *testing.T) {
	t.Parallel()
	assert.ErrorContains(t, run(t.Output(), "coffee", 0), `no case "coffee", there are stop, 0.2 s;`)
}
