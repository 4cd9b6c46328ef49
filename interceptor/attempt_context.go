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

// AttemptFromContext says which attempt the code below the interceptor serves: another
// interceptor, a stats handler, per-RPC credentials. Give it the context that this code was
// called with. The first attempt is number 1, of kind budget.Original. The same is returned
// for a call that rego does not make. If the code makes a call of its own with that context,
// the call counts as part of the attempt, until it is retried itself.
func AttemptFromContext(ctx context.Context) (number int, kind budget.Kind) {
	if a, ok := ctx.Value(attemptKey{}).(*attemptContext); ok {
		return a.number, a.kind
	}
	return 1, budget.Original
}
