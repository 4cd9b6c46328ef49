// Package backends is the record of what a call has used of the backends of its channel.
// Package interceptor puts it into the context of each attempt, and the load-balancing
// policies of package spread note there what they pick, and look for what is not in it.
//
// A backend is known by its identity, which is that of its endpoint, and not by an address
// or a connection: see spread. An attempt has one, the last that was picked for it. When
// grpc picks again, what it picked before has not got the request: the connection was gone,
// or the server has refused to process it.
package backends

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// expected says that a policy of package spread is configured in this process.
var expected atomic.Bool

// Expect has calls keep records from now on: there is a policy that reads them.
func Expect() { expected.Store(true) }

// Expected reports whether there is a policy that reads records. Without one a call needs
// none.
func Expected() bool { return expected.Load() }

// Call is the record of a call.
type Call struct {
	target string
	first  Attempt // most calls make no other
	begun  atomic.Bool

	mu   sync.Mutex
	used []use
	room [3]use
}

// use is what an attempt was sent to.
type use struct {
	attempt int
	backend string
	noOther bool // another attempt had used it, and there was no other
}

// NewCall returns the record of a call to a target, as grpc's ClientConn.Target has it.
func NewCall(target string) *Call {
	c := &Call{target: target}
	c.used = c.room[:0]
	return c
}

// Attempt returns the context of an attempt of the call, by its number from 1. Whoever has
// the context may keep it, so an attempt that is made again has another one.
func (c *Call) Attempt(ctx context.Context, number int) context.Context {
	a := &c.first
	if number != 1 || c.begun.Swap(true) {
		a = new(Attempt)
	}
	a.Context, a.call, a.number = ctx, c, number
	return a
}

// Of returns what an attempt was sent to, and whether another attempt had used that, as no
// other was found. It is empty if nobody has noted it, as on a nil record.
func (c *Call) Of(number int) (backend string, noOther bool) {
	if c == nil {
		return "", false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.used {
		if u := &c.used[i]; u.attempt == number {
			return u.backend, u.noOther
		}
	}
	return "", false
}

// Renew forgets all but what one attempt has used: a stream that has got on with it, and
// has broken then, is as good as a new call.
func (c *Call) Renew(attempt int) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used = slices.DeleteFunc(c.used, func(u use) bool { return u.attempt != attempt })
}

// Attempt is the context of an attempt, in which pickers find the record.
type Attempt struct {
	context.Context
	call   *Call
	number int
}

type key struct{}

// Value implements [context.Context].
func (a *Attempt) Value(k any) any {
	if k == (key{}) {
		return a
	}
	return a.Context.Value(k)
}

// From returns the attempt that a pick is for, nil if its call keeps no record, or not of
// the backends of this target: an interceptor, or credentials, may make calls to others
// with the context of an attempt.
func From(ctx context.Context, target string) *Attempt {
	if a, ok := ctx.Value(key{}).(*Attempt); ok && a.call.target == target {
		return a
	}
	return nil
}

// Take notes that the attempt is sent to a backend, if no other attempt of the call has used
// that. What the attempt itself has noted does not count: a policy below has just picked it,
// or grpc picks again.
func (a *Attempt) Take(backend string) bool {
	a.call.mu.Lock()
	defer a.call.mu.Unlock()
	if a.isUsed(a.call.used, backend) {
		return false
	}
	a.noteLocked(backend, false)
	return true
}

// TakeAgain notes that the attempt is sent to a backend, whatever has been sent there.
func (a *Attempt) TakeAgain(backend string) {
	a.call.mu.Lock()
	defer a.call.mu.Unlock()
	a.noteLocked(backend, a.isUsed(a.call.used, backend))
}

func (a *Attempt) noteLocked(backend string, noOther bool) {
	for i := range a.call.used {
		if u := &a.call.used[i]; u.attempt == a.number {
			u.backend, u.noOther = backend, noOther
			return
		}
	}
	a.call.used = append(a.call.used, use{a.number, backend, noOther})
}

// Forget takes back what was noted for the attempt.
func (a *Attempt) Forget() {
	a.call.mu.Lock()
	defer a.call.mu.Unlock()
	a.call.used = slices.DeleteFunc(a.call.used, func(u use) bool { return u.attempt == a.number })
}

// Used returns how many of some backends the other attempts of the call have used.
func (a *Attempt) Used(among map[string]bool) (n int) {
	a.call.mu.Lock()
	defer a.call.mu.Unlock()
	for i, u := range a.call.used {
		if u.attempt != a.number && among[u.backend] && !a.isUsed(a.call.used[:i], u.backend) {
			n++
		}
	}
	return n
}

// isUsed reports whether a backend is among what other attempts have used.
func (a *Attempt) isUsed(used []use, backend string) bool {
	for i := range used {
		if u := &used[i]; u.backend == backend && u.attempt != a.number {
			return true
		}
	}
	return false
}
