package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
)

// TestPlay runs the whole program, but for the export of spans, and looks at the
// rows of its table.
func TestPlay(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	s := &stage{out: &out}
	require.NoError(t, play(t.Context(), s))

	const calls = callsPerSecond * int64(outageLasts/time.Second)
	rows := []struct {
		name        string
		calls       int64
		least, most int64 // attempts
	}{
		{"restart", 2 * callsPerSecond, 2 * callsPerSecond, 2*callsPerSecond + 50}, // those in flight are made again
		{"pushback", 1, 2, 2},
		{"payment", 1, 1, 1},
		{"payment with key", 1, 2, 2},
		{"outage, no budget", calls, 3 * calls, 3 * calls},
		{"outage, budget", calls, calls + 1, calls * 13 / 10}, // some retries, but no storm
	}
	require.Len(t, s.phases, len(rows))
	for i, r := range rows {
		p := s.phases[i]
		assert.Equal(t, r.name, p.name)
		assert.Equal(t, r.calls, p.calls.Load(), "calls: %s", r.name)
		assert.GreaterOrEqual(t, p.attempts.Load(), r.least, "attempts: %s", r.name)
		assert.LessOrEqual(t, p.attempts.Load(), r.most, "attempts: %s", r.name)
		assert.Equal(t, r.name == "outage, budget", p.denied.Load() > 0, "denied: %s", r.name)
		assert.Contains(t, out.String(), "\n"+r.name+"  ", "the row of the table")
	}
	for _, end := range []string{
		"without a connection", "\n0 of 600 calls failed.", "(pushback)", "(not-idempotent)", "(attempts-exhausted)", "(budget-denied)",
	} {
		assert.Contains(t, out.String(), end, "a timeline ends so, or has waited so")
	}
}

// TestPay checks the payments on both sides of the wire.
func TestPay(t *testing.T) {
	t.Parallel()
	s := &stage{out: t.Output()}

	t.Run("without a key", func(t *testing.T) {
		p, err := s.pay(t.Context(), "payment")
		require.NoError(t, err)
		assert.Equal(t, codes.Unavailable, status.Code(p.err))
		assert.Equal(t, interceptor.EndNotIdempotent, p.timeline.Reason)
		assert.Equal(t, 1, p.arrived, "attempts at the server")
		assert.Equal(t, 1, p.charges)
	})

	t.Run("with a key", func(t *testing.T) {
		p, err := s.pay(t.Context(), "payment with key", interceptor.WithIdempotencyKey("order-2"))
		require.NoError(t, err)
		require.NoError(t, p.err)
		require.Len(t, p.timeline.Attempts, 2)
		assert.Equal(t, classify.DeliveryUnknown, p.timeline.Attempts[0].Delivery)
		assert.Equal(t, 2, p.arrived, "attempts at the server")
		assert.Equal(t, 1, p.charges)
	})

	// What makes the promise: a server that does not honor the key charges twice.
	t.Run("declared idempotent, no key", func(t *testing.T) {
		p, err := s.pay(t.Context(), "payment declared idempotent", interceptor.WithIdempotency(classify.Idempotent))
		require.NoError(t, err)
		require.NoError(t, p.err)
		assert.Equal(t, 2, p.charges, "a wrong declaration is believed")
	})
}
