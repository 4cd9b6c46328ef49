package interceptor

import (
	"context"

	"github.com/rego-go/rego/budget"
)

// attemptContext is the context of a retry or a hedge.
type attemptContext struct {
	context.Context
	number int
	kind   budget.Kind
}

type attemptKey struct{}

func (c *attemptContext) Value(key any) any {
	if key == (attemptKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// AttemptFromContext tells what runs below the interceptor which attempt it serves, given the
// context that it was called with: another interceptor, a stats handler, per-RPC credentials.
// The first attempt is number 1, of kind [budget.Original], and so is a call that rego does
// not make. A call of its own that is made with that context counts as part of the attempt,
// until it is retried itself.
func AttemptFromContext(ctx context.Context) (number int, kind budget.Kind) {
	if a, ok := ctx.Value(attemptKey{}).(*attemptContext); ok {
		return a.number, a.kind
	}
	return 1, budget.Original
}
