package interceptor

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

// call is the state of one call, unary or streaming: its policy, its attempts and
// its timeline.
type call struct {
	interceptor *Interceptor
	method      string
	reply       any // what the caller wants filled; of a stream, its first message
	conn        *grpc.ClientConn
	maker       maker
	streaming   bool
	beforeExtra func(*grpc.ClientConn, string) // before each retry and hedge; nil if nothing is to be said

	said        settings
	observers   []*guarded
	callerOpts  []grpc.CallOption
	wantsOutput bool // callerOpts hold an output or OnFinish

	plan        *plan
	idempotency classify.Idempotency
	looksAtOK   bool         // the classifier may see more in the reply than success
	hedgeDenied DenialReason // why the call is not hedged though its policy asks for it
	samples     bool         // the call's latency is one for hedging

	original attempt
	lead     *attempt     // the original, or the retry that took its place
	pending  budget.Lease // of the attempt that is waited for
	backoffs int          // waits since the last pushback
	rounds

	watched  bool            // somebody will look at the timeline
	outside  context.Context // of the call, if it is watched
	timeline *Timeline       // of an unwatched stream nil until an attempt has failed
	event    Event           // what observers are told last

	count   uint // unary calls this state has served, for sampling
	resumed bool // attempts are of a leg that continues a stream
}

// maker makes the attempts of a call.
type maker interface {
	// make makes an attempt and returns how it ended. It runs beside others of the
	// same call.
	make(ctx context.Context, a *attempt) error
}

// settings are what the call options say.
type settings struct {
	policy         *policy.Policy
	idempotency    classify.Idempotency
	idempotencyKey string
	sendKey        bool
	timelineTo     *Timeline

	// Of streams.
	replayLimit   int64
	cloneMessages bool
	resume        func(last, request any) (next any, ok bool)
}

// configure sorts the caller's options: those for rego are applied, outputs and
// OnFinish are kept for the end of the call, the rest goes to every attempt. The
// caller's slice is only read.
func (c *call) configure(opts []grpc.CallOption) error {
	c.observers = c.interceptor.observers
	c.callerOpts = opts
	var err error
	saysReady := false
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption, grpc.OnFinishCallOption:
			c.wantsOutput = true
		case CallOption:
			err = errors.Join(err, o.call(c))
		case DualOption:
			err = errors.Join(err, o.call(c))
		case grpc.FailFastCallOption:
			saysReady = true
			c.original.opts = append(c.original.opts, o)
		default:
			c.original.opts = append(c.original.opts, o)
		}
	}
	if err != nil {
		return status.Errorf(codes.Internal, "rego: %v", err)
	}
	t := c.interceptor.target(c.conn)
	if c.said.policy == nil {
		c.plan = t.plan(c.method)
	} else {
		if faults := c.interceptor.unresolved("", c.said.policy, noTable); len(faults) > 0 {
			return status.Errorf(codes.Internal, "rego: policy: %v", faults)
		}
		c.plan = t.ownPlan(c.said.policy, c.method)
	}
	if c.plan.policy.WaitForReady && !saysReady {
		c.original.opts = append(c.original.opts, waitForReady)
	}
	if c.idempotency = c.said.idempotency; c.idempotency == classify.IdempotencyUnknown {
		c.idempotency = c.plan.idempotency
	}
	if c.said.sendKey && !c.idempotency.AllowsRetry() {
		c.idempotency = classify.Idempotent
	}
	c.looksAtOK = c.plan.looksAtOK
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

var waitForReady = grpc.WaitForReady(true)

// sampleEvery is how many calls pass between two whose latency is measured, when
// neither an observer nor hedging needs it: reading the clock is a fair part of
// what a call costs here.
const sampleEvery uint = 64

// timed reports whether the call's latency is measured.
func (c *call) timed() bool {
	if c.watched || c.samples || c.plan.method.usual.duration() == 0 {
		return true
	}
	if c.streaming {
		return rand.N(sampleEvery) == 0
	}
	c.count++
	return c.count%sampleEvery == 0
}

// begin makes the call ready for its first attempt, and returns the context of
// the call. If cancel is not nil, it is to be called when the call has ended.
func (c *call) begin(ctx context.Context) (_ context.Context, cancel context.CancelFunc) {
	if d := c.plan.policy.Timeout; d > 0 {
		ctx, cancel = context.WithTimeout(ctx, d)
	}
	if c.said.sendKey {
		ctx = withIdempotencyKey(ctx, c.said.idempotencyKey)
	}
	c.made = 1
	c.lead = &c.original
	c.lead.Attempt, c.lead.reply = Attempt{Number: 1}, c.reply
	if c.lead.timed = c.timed(); c.lead.timed {
		c.lead.Start = time.Now()
	}
	if c.watched {
		ctx = c.open(ctx)
	}
	c.lead.lease, _ = budget.Take(c.plan.hedges, budget.Original)
	return ctx, cancel
}

// decide makes attempts until the call is decided, and returns why there are no
// more and since when. After each failed attempt, or when all that ran side by
// side have failed, the rules are asked in order; the first that says no gives
// the end reason.
func (c *call) decide(ctx context.Context) (EndReason, time.Time) {
	for {
		if c.hedged {
			c.runRound(ctx)
		} else {
			c.runAlone(ctx)
		}
		if c.decided.Outcome.Kind == classify.Success {
			return EndSucceeded, c.decided.End
		}
		if reason, now := c.again(ctx); reason != EndUnfinished {
			return reason, now
		}
	}
}

// again asks for another attempt after the one that has decided, and waits until
// it is due.
func (c *call) again(ctx context.Context) (EndReason, time.Time) {
	next, reason := c.next(ctx, c.decided)
	if reason != EndUnfinished {
		return reason, c.decided.End
	}
	if reason = c.wait(ctx, &next); reason != EndUnfinished {
		return reason, time.Now()
	}
	c.made++
	next.Start = time.Now()
	c.lead = c.successor(c.lead, next, c.pending)
	c.pending = budget.Lease{}
	return EndUnfinished, time.Time{}
}

// successor returns the attempt that takes the place of one that has ended. That
// of a stream is a new one, since grpc may still be writing to the one before it.
func (c *call) successor(a *attempt, next Attempt, lease budget.Lease) *attempt {
	if a.seen.Err == nil {
		resetReply(a.reply) // a soft failure has written it
	}
	if c.streaming {
		return c.newAttempt(next, lease)
	}
	a.become(next, lease)
	return a
}

// newAttempt returns an attempt that shares nothing with the others.
func (c *call) newAttempt(next Attempt, lease budget.Lease) *attempt {
	next.Resumed = c.resumed
	a := &attempt{Attempt: next, lease: lease, timed: true, owner: c.original.owner}
	if c.streaming {
		a.leg = new(leg)
	}
	a.setOptions(nil, c.original.sharedOptions()...)
	return a
}

// runAlone makes the lead's attempt without any beside it.
func (c *call) runAlone(ctx context.Context) {
	a := c.lead
	c.decided = a
	c.try(ctx, a)
	a.Result = resultOf(a)
	if !a.goesOn {
		c.record(a)
	}
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

// finish ends the call with the deciding attempt, and returns what the caller gets.
func (c *call) finish(ctx context.Context, reason EndReason, now time.Time) error {
	err := c.decided.seen.Err
	if err != nil {
		err = c.newError(ctx, reason)
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
		if err == nil && d.stream != nil {
			d.header, d.trailer = d.headerNow(), d.stream.Trailer()
		}
		for _, o := range c.callerOpts {
			switch o := o.(type) {
			case grpc.HeaderCallOption:
				*o.HeaderAddr = copyOf(d.header)
			case grpc.TrailerCallOption:
				*o.TrailerAddr = copyOf(d.trailer)
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

// copyOf copies metadata; none stays none.
func copyOf(md metadata.MD) metadata.MD {
	if md == nil {
		return nil
	}
	return md.Copy()
}

// abort returns what a call holds that a panic or runtime.Goexit tears down, and
// tells its observers that it is over.
func (c *call) abort() {
	if c.joined {
		c.abandon()
	}
	c.pending.Release(budget.Neutral)
	for _, a := range append(c.running, c.lead) {
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
	if a.cancel != nil {
		a.cancel()
	}
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
