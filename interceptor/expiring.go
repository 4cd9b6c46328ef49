package interceptor

import (
	"context"
	"sync/atomic"
)

// expiring is a context that its owner can end as if its deadline had passed, without
// having a deadline: whether and when that happens is decided as the attempt runs. So
// grpc, and the interceptors between, see DeadlineExceeded.
type expiring struct {
	context.Context // can be cancelled
	parent          context.Context
	cancel          context.CancelFunc
	expired         atomic.Bool
}

func withExpiry(ctx context.Context) *expiring {
	e := &expiring{parent: ctx}
	e.Context, e.cancel = context.WithCancel(ctx)
	return e
}

// expire ends the context, unless it has ended.
func (e *expiring) expire() {
	if e.Context.Err() == nil {
		e.expired.Store(true)
		e.cancel()
	}
}

// Err implements [context.Context].
func (e *expiring) Err() error {
	err := e.Context.Err()
	if err != nil && e.expired.Load() {
		return context.DeadlineExceeded
	}
	return err
}

// Value hides what is inside from package context, which would end children with the
// error of that. What it finds instead tells the cause: that of the parent, unless e has
// expired before.
func (e *expiring) Value(key any) any {
	v := e.parent.Value(key)
	if c, ok := v.(context.Context); ok && e.expired.Load() && c.Done() == e.parent.Done() {
		return nil
	}
	return v
}

// AfterFunc is what package context calls instead.
func (e *expiring) AfterFunc(f func()) (stop func() bool) { return context.AfterFunc(e.Context, f) }
