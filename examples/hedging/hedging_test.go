package main

import (
	"bytes"
	"encoding/xml"
	"flag"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/examples/internal/openloop"
)

var seconds = flag.Int("seconds", 3, "how long each run is measured; ten at least where the first calls count")

// virtual is a stage in memory and in virtual time, so that nothing depends on
// the machine.
func virtual(warmUp, length time.Duration) stage {
	return stage{warmUp: warmUp, length: length, wait: openloop.Sleep}
}

// TestTargets: without a machine in the way every target is reached.
func TestTargets(t *testing.T) {
	t.Parallel()
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			length := time.Duration(*seconds) * time.Second
			if sc.cold { // the targets allow for slow calls at first, among those of twenty seconds
				length = max(length, 10*time.Second)
			}
			var without, with result
			synctest.Test(t, func(t *testing.T) {
				var err error
				without, err = virtual(0, 3*time.Second).measure(sc, false) // which has nothing to warm up
				require.NoError(t, err)
				with, err = virtual(warmUp, length).measure(sc, true)
				require.NoError(t, err)
			})
			assert.Greater(t, len(with.latencies), callsPerSecond*9/10*int(length.Seconds()))
			assert.Zero(t, without.extra)
			assert.Positive(t, with.extra)
			for _, target := range sc.targets {
				assert.True(t, target.met(with), "%s: p99 %v, p99.9 %v, extra %v, at most %v", target.text,
					with.quantile(0.99), with.quantile(0.999), with.extra, with.mostExtra)
			}
			if sc.name != "shift" {
				assert.Less(t, with.quantile(0.99), 3*without.quantile(0.99)/4, "that is what hedging is for")
			}
		})
	}
}

func TestTableAndPlot(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "plot.svg")
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		require.NoError(t, run(&out, virtual(time.Second, time.Second), "tail", file))
	})
	assert.Contains(t, out.String(), "tail      2.50 %")
	svg, err := os.Open(file)
	require.NoError(t, err)
	defer svg.Close()
	for d := xml.NewDecoder(svg); err == nil; {
		_, err = d.Token()
	}
	require.ErrorIs(t, err, io.EOF)

	file = filepath.Join(t.TempDir(), "plot.png")
	some := result{latencies: []time.Duration{4 * ms, 5 * ms, 200 * ms}}
	require.NoError(t, drawPlot([]comparison{{scenarios[0], some, some}}, file))
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	_, err = png.Decode(f)
	require.NoError(t, err)
}

func TestUnknownNames(t *testing.T) {
	t.Parallel()
	require.EqualError(t, run(io.Discard, virtual(0, 0), "none-such", ""), `no scenario "none-such", there are tail,lognormal,shift,cold,cold5`)
	assert.Error(t, drawPlot([]comparison{{}}, "plot.doc"))
}
