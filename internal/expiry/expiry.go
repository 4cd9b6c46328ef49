// Package expiry has a context that its owner can end as if its deadline had passed, without
// having a deadline: whether and when that happens is decided while the context is in use.
package expiry

import (
	"context"
	"sync/atomic"
)

// Context is a context that can expire. That of an attempt does when the attempt takes too
// long, so that grpc, and the interceptors between, see DeadlineExceeded.
type Context struct {
	context.Context // can be cancelled
	parent          context.Context
	cancel          context.CancelFunc
	expired         atomic.Bool
}

// NewContext returns a context that ends with its parent, or before. Who has made it cancels
// it, expired or not.
func NewContext(parent context.Context) *Context {
	c := &Context{parent: parent}
	c.Context, c.cancel = context.WithCancel(parent)
	return c
}

// Expire ends the context as if its deadline had passed, unless it has ended.
func (c *Context) Expire() {
	if c.Context.Err() == nil {
		c.expired.Store(true)
		c.cancel()
	}
}

// Cancel ends the context, unless it has ended.
func (c *Context) Cancel() { c.cancel() }

// Err implements [context.Context].
func (c *Context) Err() error {
	err := c.Context.Err()
	if err != nil && c.expired.Load() {
		return context.DeadlineExceeded
	}
	return err
}

// Value hides what is inside from package context, which would end children with the
// error of that. What it finds instead tells the cause: that of the parent, unless c has
// expired before.
func (c *Context) Value(key any) any {
	v := c.parent.Value(key)
	if p, ok := v.(context.Context); ok && c.expired.Load() && p.Done() == c.parent.Done() {
		return nil
	}
	return v
}

// AfterFunc is what package context calls instead.
func (c *Context) AfterFunc(f func()) (stop func() bool) { return context.AfterFunc(c.Context, f) }
