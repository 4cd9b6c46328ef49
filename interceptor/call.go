package interceptor

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

// call is the state of one unary call. Calls are pooled, and the private targets
// of the attempts with their options live inside, so that a call whose first
// attempt succeeds allocates nothing.
type call struct {
	interceptor *Interceptor
	method      string
	req, reply  any
	conn        *grpc.ClientConn
	invoker     grpc.UnaryInvoker
	beforeRetry func(*grpc.ClientConn, string) // nil if nothing is to be said

	said        settings
	observers   []*guarded
	callerOpts  []grpc.CallOption
	wantsOutput bool // callerOpts hold an output or OnFinish

	plan        *plan
	idempotency classify.Idempotency

	// What attempts write to.
	opts    []grpc.CallOption // of each attempt, the private ones first
	header  metadata.MD
	trailer metadata.MD
	peer    peer.Peer
	reached bool // the options reached grpc

	current  Attempt          // the attempt under way, or that ended last
	attempt  classify.Attempt // the same as classifiers see it
	outside  context.Context  // of the call, if it is watched
	inside   context.Context  // of the current attempt while it runs watched
	event    Event            // what observers are told last
	lease    budget.Lease
	watched  bool // somebody will look at the timeline
	timeline *Timeline
	own      Timeline // timeline of calls that nobody watches
	backoffs int      // waits since the last pushback
	ended    bool     // the call returned, as opposed to panicked
	plain    bool     // no options, and the first attempt succeeded
	count    uint     // calls this state has served, for sampling
}

// settings are what the call options say.
type settings struct {
	policy         *policy.Policy
	idempotency    classify.Idempotency
	idempotencyKey string
	sendKey        bool
	timelineTo     *Timeline
}

var calls = sync.Pool{New: func() any { return newCall() }}

// privateOutputs is the number of private options at the start of call.opts.
const privateOutputs = 4

func newCall() *call {
	c := new(call)
	c.opts = append(make([]grpc.CallOption, 0, 16),
		grpc.HeaderCallOption{HeaderAddr: &c.header},
		grpc.TrailerCallOption{TrailerAddr: &c.trailer},
		grpc.PeerCallOption{PeerAddr: &c.peer},
		grpc.OnFinishCallOption{OnFinish: func(error) { c.reached = true }},
	)
	return c
}

// reset forgets the call, so that neither the next call nor the pool holds on to
// anything of it. A plain call leaves behind only what the next one overwrites
// and what is forgotten here, which is much cheaper than forgetting everything.
func (c *call) reset() {
	if c.plain {
		c.req, c.reply, c.attempt.Reply, c.invoker, c.callerOpts = nil, nil, nil, nil, nil
		c.header, c.trailer, c.peer, c.reached = nil, nil, peer.Peer{}, false
		c.attempt.Header, c.attempt.Trailer = nil, nil
		if c.watched {
			c.observers, c.timeline, c.outside, c.event, c.current.Peer = nil, nil, nil, Event{}, nil
		}
		c.ended, c.plain = false, false
		return
	}
	clear(c.opts[privateOutputs:])
	clear(c.own.Attempts)
	*c = call{
		opts:  c.opts[:privateOutputs],
		own:   Timeline{Attempts: c.own.Attempts[:0]},
		count: c.count,
	}
}

// configure sorts the caller's options: those for rego are applied, outputs and
// OnFinish are kept for the end of the call, the rest goes to every attempt. The
// caller's slice is only read.
func (c *call) configure(opts []grpc.CallOption) error {
	c.observers = c.interceptor.observers
	c.callerOpts = opts
	var err error
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption, grpc.OnFinishCallOption:
			c.wantsOutput = true
		case CallOption:
			err = errors.Join(err, o.call(c))
		case DualOption:
			err = errors.Join(err, o.call(c))
		default:
			c.opts = append(c.opts, o)
		}
	}
	if err != nil {
		return status.Errorf(codes.Internal, "rego: %v", err)
	}
	t := c.interceptor.target(c.conn)
	if c.said.policy == nil {
		c.plan = t.plan(c.method)
	} else {
		if faults := c.interceptor.unresolved("", c.said.policy); len(faults) > 0 {
			return status.Errorf(codes.Internal, "rego: policy: %v", faults)
		}
		c.plan = t.ownPlan(c.said.policy, c.method)
	}
	if c.idempotency = c.said.idempotency; c.idempotency == classify.IdempotencyUnknown {
		c.idempotency = c.plan.idempotency
	}
	if c.said.sendKey && !c.idempotency.AllowsRetry() {
		c.idempotency = classify.Idempotent
	}
	c.timeline = &c.own
	if c.watched = c.said.timelineTo != nil || len(c.observers) > 0; c.watched {
		c.timeline = newTimeline()
		c.timeline.Method, c.timeline.Target = c.method, t.name
		c.timeline.Policy, c.timeline.PolicyVersion = c.plan.policy.Name, c.plan.version
		c.timeline.Idempotency = c.idempotency
	}
	return nil
}

// run makes attempts until the call is decided. After each failed attempt the
// rules are asked in order; the first that says no gives the end reason.
func (c *call) run(ctx context.Context) error {
	if d := c.plan.policy.Timeout; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	if c.said.sendKey {
		ctx = withIdempotencyKey(ctx, c.said.idempotencyKey)
	}
	if c.watched {
		c.timeline.Start = time.Now()
		ctx = c.start(ctx, Event{Kind: CallStart, Time: c.timeline.Start, Timeline: c.timeline})
		c.outside = ctx
	}
	c.lease, _ = budget.Take(c.plan.budget, budget.Original)
	for c.current = (Attempt{Number: 1}); ; {
		c.try(ctx, &c.current)
		if c.current.Outcome.Kind == classify.Success {
			return c.finish(ctx, EndSucceeded, c.current.End)
		}
		next, reason := c.next(ctx, &c.current)
		if reason != EndUnfinished {
			return c.finish(ctx, reason, c.current.End)
		}
		if reason = c.wait(ctx, &next); reason != EndUnfinished {
			return c.finish(ctx, reason, time.Now())
		}
		c.current = next
	}
}

// finish hands the deciding attempt's results to the caller.
func (c *call) finish(ctx context.Context, reason EndReason, now time.Time) error {
	err := c.attempt.Err
	if err != nil {
		err = c.newError(ctx, reason)
	}
	if c.watched {
		c.timeline.End = now
		c.timeline.Reason = reason
		c.timeline.Code = status.Code(err)
		c.observe(ctx, Event{Kind: CallEnd, Time: c.timeline.End, Timeline: c.timeline, Err: err})
		if c.said.timelineTo != nil {
			*c.said.timelineTo = *c.timeline
		}
	}
	return err
}

// newError explains the last attempt's error. A caller that left while the call
// was waiting for a retry gets its own status, as from a bare call.
func (c *call) newError(ctx context.Context, reason EndReason) error {
	err := c.attempt.Err
	if !c.attempt.CallerDone && (reason == EndCallerCancelled || reason == EndDeadline) {
		err = status.FromContextError(ctx.Err()).Err()
	}
	return &Error{Reason: reason, Attempts: append([]Attempt(nil), c.timeline.Attempts...), err: err}
}

// output fills the caller's output options from the deciding attempt and calls
// OnFinish, in the order grpc does: outputs first, and only if the attempt got a
// transport.
func (c *call) output(err error) {
	if c.peer.Addr != nil {
		for _, o := range c.callerOpts {
			switch o := o.(type) {
			case grpc.HeaderCallOption:
				*o.HeaderAddr = c.header.Copy()
			case grpc.TrailerCallOption:
				*o.TrailerAddr = c.trailer.Copy()
			case grpc.PeerCallOption:
				*o.PeerAddr = c.peer
			}
		}
	}
	for _, o := range c.callerOpts {
		if o, ok := o.(grpc.OnFinishCallOption); ok {
			o.OnFinish(err)
		}
	}
}

// close puts the state back into the pool, unless a panic or runtime.Goexit tears
// the call down: then what it holds is returned, its observers learn that it is
// over, and the state is left to the garbage collector.
func (c *call) close() {
	if c.ended {
		c.reset()
		calls.Put(c)
		return
	}
	c.lease.Release(budget.Neutral)
	if c.outside != nil {
		c.timeline.End = time.Now()
		if c.inside != nil {
			c.current.End, c.current.Code = c.timeline.End, codes.Unknown
			c.observe(c.inside, Event{
				Kind: AttemptEnd, Time: c.timeline.End, Timeline: c.timeline, Attempt: &c.current, Err: errAbandoned,
			})
		}
		c.timeline.Code = codes.Unknown
		c.observe(c.outside, Event{Kind: CallEnd, Time: c.timeline.End, Timeline: c.timeline, Err: errAbandoned})
	}
}

var errAbandoned = errors.New("rego: the call was torn down by a panic")

func (c *call) start(ctx context.Context, e Event) context.Context {
	c.event = e
	for _, o := range c.observers {
		ctx = o.start(ctx, &c.event)
	}
	return ctx
}

func (c *call) observe(ctx context.Context, e Event) {
	c.event = e
	for _, o := range c.observers {
		o.observe(ctx, &c.event)
	}
}
