package expiry_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/internal/expiry"
)

// TestContext: children end as the context does, in whichever way.
func TestContext(t *testing.T) {
	type key struct{}
	for name, r := range map[string]struct {
		end  func(e *expiry.Context, cancelParent func())
		want error
	}{
		"expires":              {func(e *expiry.Context, _ func()) { e.Expire() }, context.DeadlineExceeded},
		"is cancelled":         {func(e *expiry.Context, _ func()) { e.Cancel() }, context.Canceled},
		"its parent ends":      {func(_ *expiry.Context, cancel func()) { cancel() }, context.Canceled},
		"expires too late":     {func(e *expiry.Context, cancel func()) { cancel(); e.Expire() }, context.Canceled},
		"is cancelled as well": {func(e *expiry.Context, cancel func()) { e.Expire(); e.Cancel(); cancel() }, context.DeadlineExceeded},
	} {
		synctest.Test(t, func(t *testing.T) {
			parent, cancelParent := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
			defer cancelParent()
			e := expiry.NewContext(parent)
			child, cancel := context.WithCancel(e)
			defer cancel()
			grandchild, cancel := context.WithTimeout(context.WithValue(child, key{}, child), time.Hour)
			defer cancel()
			require.NoError(t, grandchild.Err())
			_, bounded := e.Deadline()
			assert.False(t, bounded)
			r.end(e, cancelParent)
			synctest.Wait()
			for _, c := range []context.Context{e, child, grandchild} {
				assert.Equal(t, r.want, c.Err(), name)
				assert.Equal(t, r.want, context.Cause(c), name)
				<-c.Done()
			}
			assert.Equal(t, "value", child.Value(key{}))
		})
	}
}
