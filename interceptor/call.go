package interceptor

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/internal/backends"
	"github.com/rego-go/rego/internal/codec"
	"github.com/rego-go/rego/policy"
)

// call is the state of one call, unary or streaming: its policy, its attempts and
// its timeline.
type call struct {
	*door
	*locks
	method    string
	reply     any // what the caller wants filled; of a stream, its first message
	conn      *grpc.ClientConn
	maker     maker
	streaming bool
	ctx       context.Context    // of the call, with the timeout of the policy
	cancel    context.CancelFunc // of that; nil without one

	settings       settings
	observers      []*guarded
	callerOpts     []grpc.CallOption
	shared         []grpc.CallOption // for every attempt
	wantsOutput    bool              // callerOpts hold an output
	wantsFinish    bool              // callerOpts hold an OnFinish
	outputsWritten bool              // by the original
	endsInTime     bool              // what the invoker calls has ended when it returns
	endsLater      bool              // grpc has not ended the deciding attempt, and its end will be told then
	merges         bool              // the codec may add to what is in the reply already
	dirty          bool              // and there is something
	held           any               // a copy of what is in the reply, for interceptors below; nil if that is nothing

	until atomic.Pointer[time.Time] // when the service config ends the call; nil while that is not known

	plan        *plan
	idempotency classify.Idempotency
	looksAtOK   bool           // the classifier may see more in the reply than success
	hedgeDenied DenialReason   // why the call is not hedged though its policy asks for it
	samples     bool           // the call's latency is one for hedging
	measured    bool           // of a unary one: its latency is measured, though nobody asks it of this call
	backends    *backends.Call // what attempts are sent to; nil if nobody asks

	tried    firstAttempt // the original, if it was made before all this
	original attempt
	lead     *attempt     // the original, or the retry that took its place
	mine     *attempt     // that the goroutine of the lead makes now
	pending  budget.Lease // of the attempt that is waited for
	course                // the rules. Guarded by mu while attempts run side by side
	rounds

	*watching                // nil if nobody will look at the timeline
	timeline  *Timeline      // which is in there
	past      []AttemptError // attempts that have ended, but for an original that has won
	denials   []Denial       // while nobody watches

	seat        int  // of the counts
	isCounted   bool // the call has ended, and is part of them
	retriesMade int
	hedgesMade  int
	slept       time.Duration // while no attempt ran

	bidirectional bool // a stream of which both sides send
	resumed       bool // attempts continue a stream that broke
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
	sendKey        bool
	idempotencyKey string
	timelineTo     *Timeline

	// Of streams.
	replayLimit int64
	resume      func(last, request any) (next any, ok bool)
}

// configure sorts the caller's options: those for rego are applied, outputs are for the
// original, OnFinish is kept for the end of the call, the rest goes to every attempt.
// The caller's slice is only read.
func (c *call) configure(ctx context.Context, opts []grpc.CallOption) error {
	c.observers = c.interceptor.observers
	c.callerOpts = opts
	c.merges = !c.streaming && !codec.ProtoResets()
	var err error
	saysReady, isStub := false, false
	for _, o := range opts {
		switch kindOf(o) {
		case optionOutput:
			c.wantsOutput = true
			continue
		case optionOnFinish:
			c.wantsFinish = true
			continue
		case optionOwn:
			if both, ok := o.(DualOption); ok {
				o = both.CallOption
			}
			err = errors.Join(err, o.(CallOption).set(c))
			continue
		case optionStub:
			isStub = true
		case optionFailFast:
			saysReady = true
		case optionCodec:
			c.merges = !c.streaming
		case optionOther:
		}
		c.original.opts = append(c.original.opts, o)
	}
	if err != nil {
		return status.Errorf(codes.Internal, "rego: %v", err)
	}
	t := c.target(c.conn)
	switch {
	case c.tried.plan != nil:
		c.follow(c.tried.plan)
	case c.settings.policy == nil:
		c.follow(t.plan(c.method))
	default:
		pl, err := t.ownPlan(c.settings.policy, c.method)
		if err != nil {
			return status.Errorf(codes.Internal, "rego: %v", err)
		}
		c.follow(pl)
	}
	c.plan.method.decideName(isStub)
	if c.plan.open && c.plan.method.annotated != nil && c.conn != nil {
		c.takePolicyOf(c.conn.GetMethodConfig(c.method))
	}
	if c.plan.policy.WaitForReady && !saysReady {
		c.original.opts = append(c.original.opts, waitForReady)
	}
	if c.streaming {
		c.shared = c.original.opts
	} else if c.shared = c.original.opts[privateOutputs:]; c.wantsOutput {
		c.appendOutputs()
	}
	if c.idempotency = c.settings.idempotency; c.idempotency == classify.IdempotencyUnknown {
		c.idempotency = c.plan.idempotency
	}
	if c.settings.sendKey && !c.idempotency.AllowsRetry() {
		c.idempotency = classify.Idempotent
	}
	c.looksAtOK = c.plan.looksAtOK
	if !c.streaming && c.plan.maxAttempts > 1 && (c.merges || !c.endsInTime) {
		if k := c.plan.method.replies.Of(c.reply); !k.IsEmpty(c.reply) {
			if c.dirty = c.merges; !c.endsInTime {
				c.held = k.Copy(c.reply)
			}
		}
	}
	if c.settings.timelineTo != nil || len(c.observers) > 0 {
		c.watching = new(watching)
		c.timeline = &c.watching.timeline
		c.introduce(c.timeline)
		c.timeline.Attempts = c.watching.first[:0]
	}
	c.chained = c.plan.policy.Retry.StopChain && servedRetry(ctx) != ""
	if c.plan.asksHedging {
		c.hedgeDenied = c.hedge()
		c.hedged = c.hedgeDenied == DeniedNothing
	}
	return nil
}

// optionKind is what an option of the caller means to a call.
type optionKind uint8

const (
	optionOther    optionKind = iota // it goes to every attempt, as the last three do
	optionOutput                     // it is filled
	optionOnFinish                   // it is called
	optionOwn                        // it is of this package
	optionStub                       // a generated stub makes the call
	optionFailFast                   // it says whether attempts wait for a connection
	optionCodec                      // it chooses the codec
)

func kindOf(o grpc.CallOption) optionKind {
	switch o.(type) {
	case grpc.StaticMethodCallOption:
		return optionStub
	case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption:
		return optionOutput
	case grpc.OnFinishCallOption:
		return optionOnFinish
	case CallOption, DualOption:
		return optionOwn
	case grpc.FailFastCallOption:
		return optionFailFast
	case grpc.ForceCodecCallOption, grpc.ForceCodecV2CallOption, grpc.CustomCodecCallOption, grpc.ContentSubtypeCallOption:
		return optionCodec
	}
	return optionOther
}

// introduce fills in what is known of a call from its start.
func (c *call) introduce(t *Timeline) {
	t.Method, t.Target = c.method, targetName(c.conn)
	t.Policy, t.PolicyVersion = c.plan.policy.Name, c.plan.version
	t.Idempotency = c.idempotency
}

// follow makes a plan the call's.
func (c *call) follow(p *plan) {
	c.plan, c.rules = p, &p.rules
}

var waitForReady = grpc.WaitForReady(true)

// sampleEvery is how many calls pass between two whose latency is measured, when
// neither an observer nor hedging needs it: reading the clock is a fair part of
// what a call costs here.
const sampleEvery = 64

// timed reports whether the call's latency is measured.
func (c *call) timed() bool {
	return c.watching != nil || c.samples || len(c.interceptor.recorders) > 0 || c.plan.method.clocked.Load() ||
		c.measured || c.streaming && rand.N(sampleEvery) == 0
}

// begin makes the call ready for its first attempt.
func (c *call) begin(ctx context.Context) {
	c.ctx = ctx
	if d := c.plan.policy.Timeout; d > 0 {
		c.ctx, c.cancel = context.WithTimeout(ctx, d)
	}
	if c.chained {
		c.ctx = passOn(c.ctx, servedRetry(c.ctx))
	}
	if c.settings.sendKey {
		c.ctx = withIdempotencyKey(c.ctx, c.settings.idempotencyKey)
	}
	c.recordBackends()
	c.lead = &c.original
	c.lead.Attempt, c.lead.reply = Attempt{Number: c.course.started()}, c.reply
	if c.lead.timed = c.tried.plan == nil && c.timed(); c.lead.timed {
		c.lead.Start = time.Now()
	}
	if c.hedged || c.plan.policy.AttemptTimeout > 0 { // there may be another attempt before one has failed
		c.askChannel()
		c.wasReady = c.hedged && c.canSend()
	}
	if c.watching != nil {
		c.open()
	}
	if c.plan.asksHedging && !c.hedged {
		c.deny(Attempt{Kind: budget.Hedge}, c.lead.Start, c.hedgeDenied)
	}
	if c.tried.plan != nil {
		c.lead.lease = c.tried.lease
		return
	}
	c.lead.lease, _ = budget.Take(c.plan.hedges, budget.Original)
}

// endContext releases what the call's context holds.
func (c *call) endContext() {
	if c.cancel != nil {
		c.cancel()
	}
}

// decide makes attempts until the call is decided, and returns why there are no
// more and since when. After each failed attempt, or when all that ran side by
// side have failed, the rules are asked in order; the first that says no gives
// the end reason.
func (c *call) decide() (EndReason, time.Time) {
	for {
		if c.hedged {
			c.runRound()
		} else {
			c.runAlone()
		}
		if c.decided.Outcome.Class == classify.Success {
			return EndSucceeded, c.decided.End
		}
		if reason, now := c.again(); reason != EndUnfinished {
			return reason, now
		}
	}
}

// again asks for another attempt after the one that has decided, and waits until
// it is due.
func (c *call) again() (EndReason, time.Time) {
	next, reason := c.next(c.decided)
	if reason != EndUnfinished {
		return reason, c.decided.End
	}
	reason = c.wait(&next)
	now := time.Now()
	c.slept += now.Sub(c.decided.End)
	if reason != EndUnfinished {
		return reason, now
	}
	next.Number, next.Start = c.course.started(), now
	c.lead = c.successor(c.lead, next, c.pending)
	c.pending = budget.Lease{}
	return EndUnfinished, time.Time{}
}

// successor returns the attempt that takes the place of one that has ended. It is a new
// one where grpc may still be writing to what the one before it had.
func (c *call) successor(a *attempt, next Attempt, lease budget.Lease) *attempt {
	c.emptyReply(a)
	if c.streaming {
		return c.newAttempt(next, lease)
	}
	if a.Number == 1 && a.wroteOutputs() { // of all attempts only this one writes it
		c.outputsWritten = true
	}
	if !c.endsInTime || !a.done {
		n := c.newAttempt(next, lease)
		n.reply, n.ownReply = a.reply, a.ownReply
		return n
	}
	*a.outputs = outputs{inside: insideOption{conn: c.conn}}
	*a = attempt{
		attemptState: attemptState{Attempt: next}, lease: lease, timed: true, reply: a.reply, ownReply: a.ownReply, outputs: a.outputs,
		opts: a.opts[:privateOutputs+len(c.shared)], // without the caller's outputs
	}
	return a
}

// emptyReply takes away what an attempt may have written to the reply of the one after it. An
// interceptor may leave what the caller's held before.
func (c *call) emptyReply(a *attempt) {
	if a.seen.Err != nil && (!c.merges && !a.outputs.apart || !mayHaveReply(a)) { // an interceptor may choose another codec
		return
	}
	k := c.plan.method.replies.Of(a.reply)
	if c.held != nil && !a.ownReply {
		k.Move(a.reply, c.held)
		return
	}
	k.Empty(a.reply)
}

// newAttempt returns an attempt that shares nothing with the others.
func (c *call) newAttempt(next Attempt, lease budget.Lease) *attempt {
	next.Resumed = c.resumed
	n := new(struct {
		attempt
		outputs outputs
		room    [privateOutputs + 3]grpc.CallOption
	})
	a := &n.attempt
	*a = attempt{attemptState: attemptState{Attempt: next}, lease: lease, timed: true, outputs: &n.outputs}
	n.outputs.inside.conn = c.conn
	n.outputs.apart = !c.endsInTime
	if c.streaming {
		a.streamAttempt = new(streamAttempt)
		c.maker.(*stream).setStreamOptions(a, n.room[:])
		return a
	}
	a.opts = append(a.outputs.appendTo(n.room[:0]), c.shared...)
	if n.outputs.apart && c.wantsOutput {
		c.offerOutputs(a)
	}
	return a
}

// runAlone makes the lead's attempt without any beside it.
func (c *call) runAlone() {
	c.decided, c.mine = c.lead, c.lead
	a := c.try(c.lead)
	a.Result = a.result()
	if !a.continues {
		c.record(a)
	}
}

// open tells observers that the call begins.
func (c *call) open() {
	c.timeline.Start = c.lead.Start
	c.ctx = c.start(c.ctx, Event{Kind: CallStart, Time: c.timeline.Start, Timeline: c.timeline})
	c.outside = c.ctx
}
