package interceptor

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

// call is the state of one unary call. Calls are pooled, and the attempt on the
// caller's goroutine with what it writes to lives inside, so that a call whose
// first attempt succeeds allocates nothing.
type call struct {
	interceptor *Interceptor
	method      string
	req, reply  any
	conn        *grpc.ClientConn
	invoker     grpc.UnaryInvoker
	beforeExtra func(*grpc.ClientConn, string) // before each retry and hedge; nil if nothing is to be said

	said        settings
	observers   []*guarded
	callerOpts  []grpc.CallOption
	wantsOutput bool // callerOpts hold an output or OnFinish

	plan        *plan
	idempotency classify.Idempotency
	hedgeDenied DenialReason // why the call is not hedged though its policy asks for it
	samples     bool         // the call's latency is one for hedging

	lead     attempt      // on the caller's goroutine
	pending  budget.Lease // of the attempt that is waited for
	backoffs int          // waits since the last pushback
	rounds

	watched  bool            // somebody will look at the timeline
	outside  context.Context // of the call, if it is watched
	timeline *Timeline
	own      Timeline // timeline of calls that nobody watches
	event    Event    // what observers are told last

	ended    bool   // the call returned, as opposed to panicked
	plain    bool   // no options, and the first attempt succeeded
	count    uint   // calls this state has served, for sampling
	fireFunc func() // fire, made once
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

func newCall() *call {
	c := new(call)
	c.lead.setOptions()
	c.changed.L = &c.mu
	c.fireFunc = c.fire
	return c
}

// reset forgets the call, so that neither the next call nor the pool holds on to
// anything of it. A plain call leaves behind only what the next one overwrites
// and what is forgotten here, which is much cheaper than forgetting everything.
func (c *call) reset() {
	if c.plain {
		a := &c.lead
		c.req, c.reply, c.invoker, c.callerOpts = nil, nil, nil, nil
		a.reply, a.header, a.trailer, a.peer, a.reached = nil, nil, nil, peer.Peer{}, false
		a.seen.Reply, a.seen.Header, a.seen.Trailer = nil, nil, nil
		c.decided = nil
		if c.hedged {
			c.ctx, c.round, c.cancel, c.timer, c.replies = nil, nil, nil, nil, replies{}
		}
		if c.watched {
			c.observers, c.timeline, c.outside, c.event, a.Peer = nil, nil, nil, Event{}, nil
		}
		c.ended, c.plain = false, false
		return
	}
	opts, attempts := c.lead.opts, c.own.Attempts
	clear(opts[privateOutputs:])
	clear(attempts)
	clear(c.running)
	*c = call{
		lead:     attempt{opts: opts[:privateOutputs]},
		own:      Timeline{Attempts: attempts[:0]},
		rounds:   rounds{running: c.running[:0]},
		count:    c.count,
		fireFunc: c.fireFunc,
	}
	c.changed.L = &c.mu
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
			c.lead.opts = append(c.lead.opts, o)
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
	c.hedged, c.samples = false, false
	if c.plan.asksHedging {
		c.hedgeDenied = c.hedge()
		c.hedged = c.hedgeDenied == DeniedNothing
	}
	return nil
}

// sampleEvery is how many calls pass between two whose latency is measured, when
// neither an observer nor hedging needs it: reading the clock is a fair part of
// what a call costs here.
const sampleEvery = 64

// timed reports whether the call's latency is measured.
func (c *call) timed() bool {
	c.count++
	return c.watched || c.samples || c.count%sampleEvery == 0 || c.plan.method.usual.duration() == 0
}

// run makes attempts until the call is decided. After each failed attempt, or
// when all that ran side by side have failed, the rules are asked in order; the
// first that says no gives the end reason.
func (c *call) run(ctx context.Context) error {
	if d := c.plan.policy.Timeout; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	if c.said.sendKey {
		ctx = withIdempotencyKey(ctx, c.said.idempotencyKey)
	}
	c.made = 1
	c.lead.Attempt, c.lead.reply = Attempt{Number: 1}, c.reply
	if c.lead.timed = c.timed(); c.lead.timed {
		c.lead.Start = time.Now()
	}
	if c.watched {
		ctx = c.open(ctx)
	}
	c.lead.lease, _ = budget.Take(c.plan.hedges, budget.Original)
	for {
		if c.hedged {
			c.runRound(ctx)
		} else {
			c.runAlone(ctx)
		}
		if c.decided.Outcome.Kind == classify.Success {
			return c.finish(ctx, EndSucceeded, c.decided.End)
		}
		next, reason := c.next(ctx, c.decided)
		if reason != EndUnfinished {
			return c.finish(ctx, reason, c.decided.End)
		}
		if reason = c.wait(ctx, &next); reason != EndUnfinished {
			return c.finish(ctx, reason, time.Now())
		}
		c.made++
		next.Start = time.Now()
		c.lead.become(next, c.pending)
		c.pending = budget.Lease{}
	}
}

// runAlone makes the lead's attempt without any beside it.
func (c *call) runAlone(ctx context.Context) {
	c.decided = &c.lead
	c.try(ctx, &c.lead)
	c.lead.Result = resultOf(&c.lead)
	c.record(&c.lead)
}

// open tells observers that the call begins.
func (c *call) open(ctx context.Context) context.Context {
	c.timeline.Start = c.lead.Start
	ctx = c.start(ctx, Event{Kind: CallStart, Time: c.timeline.Start, Timeline: c.timeline})
	c.outside = ctx
	if c.plan.asksHedging && !c.hedged {
		c.deny(ctx, Attempt{Kind: budget.Hedge}, c.timeline.Start, c.hedgeDenied)
	}
	return ctx
}

// finish hands the deciding attempt's results to the caller.
func (c *call) finish(ctx context.Context, reason EndReason, now time.Time) error {
	d := c.decided
	c.plain = c.made == 1 && d.seen.Err == nil && reason == EndSucceeded && len(c.callerOpts) == 0
	err := d.seen.Err
	if err != nil {
		err = c.newError(ctx, reason)
	} else if d != &c.lead {
		moveReply(c.reply, d.reply)
	}
	if c.watched {
		c.timeline.Reason = reason
		c.timeline.Code = status.Code(err)
		c.timeline.sort()
		c.timeline.End = now
		for _, a := range c.timeline.Attempts {
			if a.End.After(now) { // it lost, and was waited for
				c.timeline.End = a.End
			}
		}
		c.observe(ctx, Event{Kind: CallEnd, Time: c.timeline.End, Timeline: c.timeline, Err: err})
		if c.said.timelineTo != nil {
			*c.said.timelineTo = *c.timeline
		}
	}
	return err
}

// newError explains the deciding attempt's error. A caller that left while the
// call was waiting for a retry gets its own status, as from a bare call.
func (c *call) newError(ctx context.Context, reason EndReason) error {
	err := c.decided.seen.Err
	if !c.decided.seen.CallerDone && (reason == EndCallerCancelled || reason == EndDeadline) {
		err = status.FromContextError(ctx.Err()).Err()
	}
	c.timeline.sort()
	return &Error{Reason: reason, Attempts: append([]Attempt(nil), c.timeline.Attempts...), err: err}
}

// output fills the caller's output options from the deciding attempt and calls
// OnFinish, in the order grpc does: outputs first, and only if the attempt got a
// transport.
func (c *call) output(err error) {
	if d := c.decided; d != nil && d.peer.Addr != nil {
		for _, o := range c.callerOpts {
			switch o := o.(type) {
			case grpc.HeaderCallOption:
				*o.HeaderAddr = d.header.Copy()
			case grpc.TrailerCallOption:
				*o.TrailerAddr = d.trailer.Copy()
			case grpc.PeerCallOption:
				*o.PeerAddr = d.peer
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
	if c.round != nil {
		c.abandon()
	}
	c.pending.Release(budget.Neutral)
	for _, a := range append(c.running, &c.lead) {
		if a != nil {
			c.tearDown(a)
		}
	}
	if c.outside != nil {
		c.timeline.End = time.Now()
		c.timeline.Code = codes.Unknown
		c.observe(c.outside, Event{Kind: CallEnd, Time: c.timeline.End, Timeline: c.timeline, Err: errAbandoned})
	}
}

// tearDown returns what an attempt holds that a panic has ended, if it has not
// been returned.
func (c *call) tearDown(a *attempt) {
	a.lease.Release(budget.Neutral)
	if a.inside == nil {
		return
	}
	a.End, a.Code = time.Now(), codes.Unknown
	c.observe(a.inside, Event{Kind: AttemptEnd, Time: a.End, Timeline: c.timeline, Attempt: &a.Attempt, Err: errAbandoned})
	a.inside = nil
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
