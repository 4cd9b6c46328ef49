package main

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/examples/internal/openloop"
)

// virtual is a stage in memory and in virtual time, so that nothing depends on
// the machine.
var virtual = stage{length: 2 * time.Second, wait: openloop.Sleep}

// TestTargets: without a machine in the way every target is reached, and the policies of grpc
// show what they are for.
func TestTargets(t *testing.T) {
	for _, sc := range scenarios {
		for _, b := range balancings {
			t.Run(sc.name+"/"+b.name, func(t *testing.T) {
				var r result
				synctest.Test(t, func(t *testing.T) {
					var err error
					r, err = virtual.measure(sc, b)
					require.NoError(t, err)
				})
				assert.Greater(t, len(r.latencies), 900)
				if b.spreads {
					assert.LessOrEqual(t, r.same, 0.03)
					assert.Contains(t, r.example, ", to replica-1")
					for _, target := range sc.targets {
						assert.True(t, target.met(b, r), "%s: failed %v, above 200 ms %v", target.text, r.failed, r.slow())
					}
					return
				}
				if b.name == "least request" && sc.name == "slow" {
					return // it sees that a replica is slow
				}
				assert.Greater(t, r.same, 0.25)
				assert.Greater(t, r.failed+r.slow(), 0.09)
			})
		}
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		short := virtual
		short.length = time.Second
		require.NoError(t, run(&out, short, "fails"))
	})
	assert.Contains(t, out.String(), "rego_round_robin")
	assert.Contains(t, out.String(), "#2 retry")
	require.EqualError(t, run(io.Discard, virtual, "none-such"), `no scenario "none-such", there are slow,fails`)
}
