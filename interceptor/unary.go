package interceptor

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// unary is a unary call. Unary calls are pooled, and the attempt on the caller's
// goroutine with what it writes to lives inside, so that a call whose first
// attempt succeeds allocates nothing.
type unary struct {
	call
	req     any
	invoker grpc.UnaryInvoker
	own     Timeline // timeline of calls that nobody watches

	ended bool // the call returned, as opposed to panicked
	plain bool // no options, and the first attempt succeeded
}

var unaries = sync.Pool{New: func() any { return newUnary() }}

func newUnary() *unary {
	u := new(unary)
	u.maker = u
	u.original.setOptions(make([]grpc.CallOption, 0, 16))
	u.changed.L = &u.mu
	u.fireFunc = u.fire
	return u
}

// run makes the call.
func (u *unary) run(ctx context.Context) error {
	ctx, cancel := u.begin(ctx)
	if cancel != nil {
		defer cancel()
	}
	reason, now := u.decide(ctx)
	u.plain = u.made == 1 && u.decided.seen.Err == nil && reason == EndSucceeded && len(u.callerOpts) == 0
	err := u.finish(ctx, reason, now)
	if d := u.decided; err == nil && d != u.lead {
		moveReply(u.reply, d.reply)
	}
	return err
}

// make makes an attempt, with the attempt timeout.
func (u *unary) make(ctx context.Context, a *attempt) error {
	if d := u.attemptTimeout(ctx, a); d > 0 {
		a.timeout = time.Now().Add(d)
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, a.timeout)
		defer cancel()
	}
	return u.invoker(ctx, u.method, u.req, a.reply, u.conn, slices.Clip(a.opts)...)
}

// close puts the state back into the pool. That of a call which is torn down is
// left to the garbage collector.
func (u *unary) close() {
	if !u.ended {
		u.abort()
		return
	}
	u.reset()
	unaries.Put(u)
}

// reset forgets the call, so that neither the next call nor the pool holds on to
// anything of it. A plain call leaves behind only what the next one overwrites
// and what is forgotten here, which is much cheaper than forgetting everything.
func (u *unary) reset() {
	if u.plain {
		a := u.lead
		u.req, u.reply, u.invoker, u.callerOpts = nil, nil, nil, nil
		a.reply, a.header, a.trailer, a.peer, a.reached = nil, nil, nil, peer.Peer{}, false
		a.seen.Reply, a.seen.Header, a.seen.Trailer = nil, nil, nil
		a.timeout = time.Time{}
		u.decided = nil
		if u.hedged || u.watched {
			a.begun, a.ctx, a.cancel, u.ctx, u.timer, u.replies = false, nil, nil, nil, nil, replies{}
			u.observers, u.timeline, u.outside, u.event, a.Peer = nil, nil, nil, Event{}, nil
		}
		u.ended, u.plain = false, false
		return
	}
	opts, attempts := u.original.opts, u.own.Attempts
	clear(opts[privateOutputs:])
	clear(attempts)
	clear(u.running)
	*u = unary{
		call: call{
			maker:    u.maker,
			original: attempt{opts: opts[:privateOutputs]},
			rounds:   rounds{running: u.running[:0], fireFunc: u.fireFunc},
			count:    u.count,
		},
		own: Timeline{Attempts: attempts[:0]},
	}
	u.changed.L = &u.mu
}
