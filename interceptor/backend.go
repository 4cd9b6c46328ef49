package interceptor

import (
	"context"

	"github.com/rego-go/rego/internal/backends"
)

// recordBackends has the attempts of a call keep a record of what they are sent to, for the
// load-balancing policies of package spread: if there is one in the process, and if the call
// can have a second attempt. The record is no part of the state that is used again, since
// whoever has the context of an attempt may keep it.
func (c *call) recordBackends() {
	if backends.Expected() && !c.isOnlyChance() {
		c.backends = backends.NewCall(targetName(c.conn))
	}
}

// isOnlyChance reports whether the call can have one attempt only, of which nobody learns how
// long it took.
func (c *call) isOnlyChance() bool {
	return c.plan.maxAttempts == 1 || c.plan.retriesOff && !c.hedged && !c.samples
}

// amongBackends returns the context that an attempt is made with.
func (c *call) amongBackends(ctx context.Context, a *attempt) context.Context {
	if c.backends == nil {
		return ctx
	}
	return c.backends.Attempt(ctx, a.Number)
}
