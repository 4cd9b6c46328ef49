package interceptor

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/internal/backends"
	"github.com/rego-go/rego/internal/codec"
)

// Most calls succeed at once. One whose plan asks for nothing before an attempt has failed,
// and that nobody watches, makes its first attempt with no state but what grpc writes. If
// that attempt fails, the call goes on as any other, with the attempt as its original.

// firstAttempt is an attempt that was made before its call had a state.
type firstAttempt struct {
	plan  *plan // that it was made under; nil if there was none
	err   error
	lease budget.Lease
}

// simplePlan returns the plan of a call that can make its first attempt without a state, or
// nil.
func (d *door) simplePlan(method string, cc *grpc.ClientConn, opts []grpc.CallOption) *plan {
	if !d.interceptor.unwatched {
		return nil
	}
	isStub := false
	for _, o := range opts {
		switch kindOf(o) {
		case optionOutput, optionOnFinish, optionOwn, optionCodec:
			return nil
		case optionStub:
			isStub = true
		case optionFailFast, optionOther:
		}
	}
	p := d.target(cc).plan(method)
	if !p.simple || p.method.clocked.Load() || backends.Expected() {
		return nil
	}
	p.method.decideName(isStub)
	return p
}

// isSimple reports whether calls have nothing to do before an attempt has failed.
func (p *plan) isSimple() bool {
	return codec.ProtoResets() && !p.asksHedging && !p.looksAtOK && p.policy.Timeout == 0 && p.policy.AttemptTimeout == 0 &&
		!p.policy.WaitForReady && !p.policy.Retry.StopChain && !(p.open && p.method.annotated != nil)
}

// firstSucceeds reports whether the call is over with an attempt that is made before it has a
// state: then nothing of it is left there, and the state is back in the pool, unless grpc may
// still write to it. Otherwise the call goes on, with that attempt if it has been made.
func (u *unary) firstSucceeds(ctx context.Context, d *door, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts []grpc.CallOption) bool {
	p := d.simplePlan(method, cc, opts)
	if p == nil {
		return false
	}
	u.outputs.inside.conn = cc
	u.tried.plan = p
	returned := false
	defer func() {
		if !returned {
			u.abandonFirst(ctx, d, method, cc, opts)
		}
	}()
	u.tried.lease, _ = budget.Take(p.hedges, budget.Original)
	u.original.opts = append(u.original.opts, opts...)
	u.tried.err = invoker(ctx, method, req, reply, cc, slices.Clip(u.original.opts)...)
	if u.tried.err != nil {
		returned = true
		u.original.opts = u.room[:privateOutputs] // configure sorts them
		return false
	}
	u.tried.lease.Release(budget.Success)
	returned = true
	p.method.counts.Frequent(u.seat)
	if u.outputs.phase.Load() == phaseDone {
		u.forgetFirst()
		unaries.Put(u)
	}
	return true
}

// forgetFirst makes the state of a call that was over with its first attempt what it was before,
// as reset would.
func (u *unary) forgetFirst() {
	u.outputs, u.tried = outputs{}, firstAttempt{}
	clear(u.original.opts[privateOutputs:])
	u.original.opts = u.room[:privateOutputs]
}

// abandonFirst keeps the books of a call whose first attempt a panic has torn down.
func (u *unary) abandonFirst(ctx context.Context, d *door, method string, cc *grpc.ClientConn, opts []grpc.CallOption) {
	u.door, u.method, u.conn = d, method, cc
	u.original.opts = u.room[:privateOutputs]
	if u.configure(ctx, opts) == nil {
		u.begin(ctx)
		u.abort()
	}
}
