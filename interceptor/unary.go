package interceptor

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/internal/expiry"
	"github.com/rego-go/rego/internal/percpu"
)

// unary is a unary call. Unary calls are pooled, and the original lives inside, so that a
// call whose first attempt succeeds allocates nothing.
type unary struct {
	unaryCall // all that a call changes, but for what grpc does; overwritten whole at its end

	// What grpc writes and reads, in calls that go straight to grpc. In others the original
	// has its own.
	outputs       outputs
	room          []grpc.CallOption // for options; the private ones never change
	roomOfPast    []AttemptError
	roomOfDenials []Denial
	place         int // percpu's seat: what a pool holds mostly stays with one processor
	own           locks
	onTimer       func()
	unmeasured    int // calls until the next whose latency is measured without need
}

type unaryCall struct {
	call
	req     any
	invoker grpc.UnaryInvoker
}

var unaries = sync.Pool{New: func() any { return newUnary() }}

func newUnary() *unary {
	u := new(unary)
	u.room = u.outputs.appendTo(make([]grpc.CallOption, 0, 16))
	u.roomOfPast = make([]AttemptError, 0, 4)
	u.roomOfDenials = make([]Denial, 0, 2)
	u.place = percpu.Seat()
	u.unmeasured = 1 + rand.N(sampleEvery)
	u.onTimer = u.fire
	u.own.changed.L = &u.own.mu
	u.reset()
	return u
}

// reset makes the state what it was when it was new, so that neither the next call nor
// the pool holds on to anything of this one.
func (u *unary) reset() {
	if len(u.past) > 0 {
		clear(u.roomOfPast[:cap(u.roomOfPast)])
	}
	if len(u.denials) > 0 {
		clear(u.roomOfDenials[:cap(u.roomOfDenials)])
	}
	u.unaryCall = unaryCall{}
	u.outputs = outputs{}
	clear(u.room[privateOutputs:cap(u.room)])
	u.past, u.denials, u.seat = u.roomOfPast, u.roomOfDenials, u.place
	u.maker, u.fireFunc = u, u.onTimer
	u.locks = &u.own
	u.original.outputs, u.original.opts = &u.outputs, u.room[:privateOutputs]
}

// unary makes a call, and puts its state back into the pool if that is nobody else's any
// more: not that of a call that is torn down, nor of one whose end will be told later.
func (d *door) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if d.passes(method, cc, opts) {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	u := unaries.Get().(*unary)
	u.measure()
	u.endsInTime = endsInTime(invoker)
	switch {
	case !u.endsInTime:
		u.standAlone()
	case !u.measured && u.firstSucceeds(ctx, d, method, req, reply, cc, invoker, opts):
		return nil
	}
	err := u.serve(ctx, d, method, req, reply, cc, invoker, opts)
	if !u.endsLater && (!u.endsInTime || u.outputs.phase.Load() == phaseDone) {
		u.reset()
		unaries.Put(u)
	}
	return err
}

// measure decides whether the latency of a call is measured that nobody asks it of.
func (u *unary) measure() {
	if u.unmeasured--; u.unmeasured == 0 {
		u.unmeasured, u.measured = sampleEvery, true
	}
}

// standAlone gives the original outputs and options that are used for no other call.
func (u *unary) standAlone() {
	own := new(struct {
		outputs outputs
		room    [privateOutputs + 3]grpc.CallOption
	})
	own.outputs.apart = true
	u.original.outputs = &own.outputs
	u.original.opts = own.outputs.appendTo(own.room[:0])
}

// serve makes the call.
func (u *unary) serve(ctx context.Context, d *door, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts []grpc.CallOption) error {
	u.door, u.method, u.req, u.reply, u.conn, u.invoker = d, method, req, reply, cc, invoker
	u.original.outputs.inside.conn = cc
	if err := u.configure(ctx, opts); err != nil {
		if u.wantsFinish {
			u.callOnFinish(err)
		}
		return err
	}
	returned := false
	defer u.close(&returned)
	u.begin(ctx)
	reason, now := u.decide()
	err := u.finish(reason, now)
	switch {
	case err != nil:
	case u.decided.ownReply:
		u.plan.method.replies.Of(u.reply).Move(u.reply, u.decided.reply)
	case u.lead.timed:
		u.learnClock()
	}
	u.giveOutputs(reason, err)
	returned = true
	return err
}

// close ends what the call holds.
func (u *unary) close(returned *bool) {
	if !*returned {
		u.abort()
	}
	u.endContext()
}

// make makes an attempt, with the attempt timeout, unless it has been made.
func (u *unary) make(ctx context.Context, a *attempt) error {
	if err := u.tried.err; err != nil {
		u.tried.err = nil
		return err
	}
	ctx = u.amongBackends(ctx, a)
	after := u.attemptTimeout(a)
	if after == 0 {
		return u.invoker(ctx, u.method, u.req, a.reply, u.conn, u.optionsOf(a)...)
	}
	e := expiry.NewContext(ctx)
	defer e.Cancel()
	defer u.watchTimeout(a, after, e).stop()
	return u.invoker(e, u.method, u.req, a.reply, u.conn, u.optionsOf(a)...)
}

// optionsOf returns the options that an attempt is made with. An interceptor below may
// change the slice that it is given, which is its own bare.
func (u *unary) optionsOf(a *attempt) []grpc.CallOption {
	if u.endsInTime {
		return slices.Clip(a.opts)
	}
	return slices.Clone(a.opts)
}
