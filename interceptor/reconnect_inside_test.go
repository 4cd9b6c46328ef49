package interceptor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
)

// TestRemadeTooLate: an attempt that is made again as a hedge decides the call is the one that
// has lost, wherever it is kept now.
func TestRemadeTooLate(t *testing.T) {
	t.Parallel()
	for _, inPlace := range []bool{true, false} {
		c := &newUnary().call
		c.endsInTime, c.hedged = inPlace, true
		lead, hedge := c.newAttempt(Attempt{Number: 1}, budget.Lease{}), c.newAttempt(Attempt{Number: 2}, budget.Lease{})
		lead.seen.Err, lead.done = status.Error(codes.Unavailable, "refused"), inPlace
		lead.outputs.apart = false
		c.lead, c.mine, c.decided = lead, lead, hedge
		c.running = []*attempt{lead, nil}
		lead.dropped, lead.CancelledAt = true, time.Unix(1, 0)

		n := c.remake(lead)
		assert.Equal(t, inPlace, n == lead)
		assert.Same(t, hedge, c.decided)
		assert.Same(t, n, c.lead)
		assert.Same(t, n, c.mine)
		assert.Same(t, n, c.running[0])
		assert.True(t, n.dropped)
		assert.Equal(t, time.Unix(1, 0), n.CancelledAt)
	}
}
