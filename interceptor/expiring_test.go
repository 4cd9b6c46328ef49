package interceptor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestExpiring: children end as the context does, in whichever way.
func TestExpiring(t *testing.T) {
	type key struct{}
	for name, r := range map[string]struct {
		end  func(e *expiring, cancelParent func())
		want error
	}{
		"expires":              {func(e *expiring, _ func()) { e.expire() }, context.DeadlineExceeded},
		"is cancelled":         {func(e *expiring, _ func()) { e.cancel() }, context.Canceled},
		"its parent ends":      {func(_ *expiring, cancel func()) { cancel() }, context.Canceled},
		"expires too late":     {func(e *expiring, cancel func()) { cancel(); e.expire() }, context.Canceled},
		"is cancelled as well": {func(e *expiring, cancel func()) { e.expire(); e.cancel(); cancel() }, context.DeadlineExceeded},
	} {
		synctest.Test(t, func(t *testing.T) {
			parent, cancelParent := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
			defer cancelParent()
			e := withExpiry(parent)
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
