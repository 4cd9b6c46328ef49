package main

import (
	"bytes"
	"encoding/xml"
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

// virtual is a stage in memory and in virtual time, so that nothing depends on
// the machine.
var virtual = stage{length: 10 * time.Second, wait: openloop.Sleep}

// TestTargets: without a machine in the way every target is reached.
func TestTargets(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			var c comparison
			synctest.Test(t, func(t *testing.T) {
				var err error
				c, err = virtual.compare(sc)
				require.NoError(t, err)
			})
			assert.Greater(t, len(c.with.latencies), 9_000)
			assert.Zero(t, c.without.extra)
			assert.Positive(t, c.with.extra)
			for _, target := range sc.targets {
				assert.True(t, target.met(c.with), "%s: p99 %v, p99.9 %v, extra %v, at most %v", target.text,
					c.with.quantile(0.99), c.with.quantile(0.999), c.with.extra, c.with.mostExtra)
			}
			if sc.name != "shift" {
				assert.Less(t, c.with.quantile(0.99), 3*c.without.quantile(0.99)/4, "that is what hedging is for")
			}
		})
	}
}

func TestTableAndPlot(t *testing.T) {
	for _, name := range []string{"plot.svg", "plot.png"} {
		file := filepath.Join(t.TempDir(), name)
		var out bytes.Buffer
		synctest.Test(t, func(t *testing.T) {
			short := virtual
			short.length = time.Second
			require.NoError(t, run(&out, short, "tail", file))
		})
		assert.Contains(t, out.String(), "tail      2.50 %")
		f, err := os.Open(file)
		require.NoError(t, err)
		defer f.Close()
		if filepath.Ext(name) == ".png" {
			_, err = png.Decode(f)
			require.NoError(t, err)
			continue
		}
		for d := xml.NewDecoder(f); err == nil; {
			_, err = d.Token()
		}
		assert.ErrorIs(t, err, io.EOF)
	}
}

func TestUnknownNames(t *testing.T) {
	require.EqualError(t, run(io.Discard, virtual, "none-such", ""), `no scenario "none-such", there are tail,lognormal,shift,cold,cold5`)
	assert.Error(t, drawPlot([]comparison{{}}, "plot.doc"))
}
