package interceptor

import (
	"context"
	cryptorand "crypto/rand"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
)

// attempt is an attempt under way: its record, and what only it may write to.
type attempt struct {
	Attempt
	seen  classify.Attempt // as classifiers see it
	lease budget.Lease

	opts    []grpc.CallOption // the private outputs, then what the caller wants of every attempt
	reply   any
	header  metadata.MD
	trailer metadata.MD
	peer    peer.Peer
	reached bool    // the options reached grpc
	owner   *stream // nil in unary calls

	timed   bool               // its start is known
	timeout time.Time          // when its own timer ends it, or has; zero if it has none
	begun   bool               // ctx is made, and observers know
	ctx     context.Context    // that it is made with, unless it is the call's
	cancel  context.CancelFunc // ends ctx; nil if nobody needs that
	dropped bool               // cancelled by its call. Guarded by the call's mu
	inside  context.Context    // ctx, while the attempt runs watched

	*leg                      // of a stream
	stream  grpc.ClientStream // of its own; nil until it is open, and in unary calls
	goesOn  bool              // it had its first message, and others may follow
	settled bool              // grpc has written what it writes of a stream
}

// Private options stand at the start of attempt.opts.
const (
	privateOutputs       = 4 // of a unary call
	privateStreamOutputs = 2 // a stream can be asked for its header and trailer
)

// setOptions makes the attempt's options from those that every attempt has, in
// room if that is large enough.
func (a *attempt) setOptions(room []grpc.CallOption, shared ...grpc.CallOption) {
	a.opts = room[:0]
	a.opts = append(a.opts,
		grpc.PeerCallOption{PeerAddr: &a.peer},
		grpc.OnFinishCallOption{OnFinish: a.onFinish},
	)
	if a.owner == nil {
		a.opts = append(a.opts,
			grpc.HeaderCallOption{HeaderAddr: &a.header},
			grpc.TrailerCallOption{TrailerAddr: &a.trailer})
	}
	a.opts = append(a.opts, shared...)
}

// sharedOptions returns what the caller wants of every attempt.
func (a *attempt) sharedOptions() []grpc.CallOption {
	if a.owner != nil {
		return a.opts[privateStreamOutputs:]
	}
	return a.opts[privateOutputs:]
}

func (a *attempt) onFinish(err error) {
	if a.owner != nil {
		a.owner.onDone(a, err)
		return
	}
	a.reached = true
}

// become forgets the attempt that a was, and makes it the next one.
func (a *attempt) become(next Attempt, lease budget.Lease) {
	a.header, a.trailer, a.peer, a.reached = nil, nil, peer.Peer{}, false
	a.seen = classify.Attempt{}
	a.timeout, a.begun, a.ctx, a.cancel, a.dropped = time.Time{}, false, nil, nil, false
	a.Attempt, a.lease, a.timed = next, lease, true
}

// try makes the attempt a, and has its end classified. ctx is the context of the
// call. Nothing that other attempts use is written here, since they may be running.
func (c *call) try(ctx context.Context, a *attempt) {
	actx := ctx
	if a.cancel != nil || a.Number > 1 || c.watched {
		actx = c.beginAttempt(ctx, a)
	}
	err := c.maker.make(actx, a)
	if err == nil {
		a.seen.Delivery = classify.DeliveryAnswered
	} else {
		a.examine(ctx, err)
	}
	c.judge(ctx, a)
	a.lease.Release(a.leaseResult())
	if a.timed {
		a.End = time.Now()
		c.learn(a)
	} else if a.Outcome.Kind != classify.Success {
		a.End = time.Now()
	}
}

// beginAttempt makes the context of an attempt, unless that has been done, and
// tells observers of it.
func (c *call) beginAttempt(ctx context.Context, a *attempt) context.Context {
	switch {
	case a.begun:
		return a.ctx
	case a.ctx != nil: // it has a leash
	case c.streaming && (a.Number > 1 || c.plan.policy.AttemptTimeout > 0):
		a.leash(ctx)
	default:
		a.ctx = ctx
	}
	a.begun = true
	if a.Number > 1 {
		a.ctx = withPreviousAttempts(a.ctx, a.Number-1)
	}
	if c.watched {
		c.mu.Lock()
		defer c.mu.Unlock()
		a.ctx = c.start(a.ctx, Event{Kind: AttemptStart, Time: a.Start, Timeline: c.timeline, Attempt: &a.Attempt})
		a.inside = a.ctx
	}
	return a.ctx
}

// leash gives an attempt a context that it can be cancelled by.
func (a *attempt) leash(ctx context.Context) { a.ctx, a.cancel = context.WithCancel(ctx) }

// attemptTimeout returns how long the attempt may take, zero for as long as it
// wants: the last attempt of a call with a deadline has all the time that is left.
func (c *call) attemptTimeout(ctx context.Context, a *attempt) time.Duration {
	d := c.plan.policy.AttemptTimeout
	if d == 0 {
		return 0
	}
	if _, bounded := ctx.Deadline(); bounded && (a.Number >= c.plan.maxAttempts || c.kept != nil) {
		return 0
	}
	return d
}

// learn notes how long a timed attempt took.
func (c *call) learn(a *attempt) {
	if a.Outcome.Kind == classify.Success {
		c.plan.method.usual.add(a.End.Sub(a.Start))
	}
	switch {
	case !c.samples || a.Number > 1:
	case a.seen.Err == nil && a.Outcome.Kind != classify.Retryable:
		c.plan.hedging.delay.Record(a.Start, a.End)
	default:
		c.plan.hedging.delay.RecordAtLeast(a.Start, a.End)
	}
}

// examine finds out what a failed attempt shows: whose clock ended it, and
// whether a server can have executed it.
func (a *attempt) examine(ctx context.Context, err error) {
	if a.stream != nil && a.settled {
		a.header, a.trailer = a.headerNow(), a.stream.Trailer()
	}
	seen := &a.seen
	seen.Err, seen.Status = err, statusOf(err)
	seen.Delivery = a.delivery()
	seen.Hint = classify.HintOf(a.trailer, seen.Status)
	seen.CallerDone = ctx.Err() != nil
	code := seen.Status.Code()
	if seen.CallerDone || (code != codes.DeadlineExceeded && code != codes.Canceled) {
		return
	}
	// Neither timers nor codes decide, but the clock: the server got the same
	// deadline, and its answer may be there an instant before our timer has run.
	now := time.Now()
	if deadline, bounded := ctx.Deadline(); bounded && !now.Before(deadline) {
		seen.CallerDone = true
		return
	}
	seen.TimedOut = !a.timeout.IsZero() && !now.Before(a.timeout)
}

// delivery reads the private outputs, which grpc fills once an attempt has a
// transport stream. If the options did not reach grpc at all, something between
// answered or dropped them and nothing is known.
func (a *attempt) delivery() classify.Delivery {
	switch {
	case a.stream != nil && !a.settled, a.stream == nil && !a.reached:
		return classify.DeliveryUnknown
	case a.stream == nil && a.peer.Addr == nil:
		return classify.DeliveryNotSent
	case a.peer.Addr != nil && len(a.trailer) > 0:
		return classify.DeliveryAnswered
	}
	return classify.DeliveryUnknown
}

// judge gives an ended attempt its outcome.
func (c *call) judge(ctx context.Context, a *attempt) {
	switch {
	case c.hedged && c.isDropped(a) && ctx.Err() == nil:
		// Its error is our own cancellation, which classifiers are not for.
		a.Outcome = classify.Outcome{Kind: classify.Abort, Reason: classify.ReasonCallDecided}
	case a.seen.Err == nil && !c.looksAtOK:
		a.Outcome = classify.Outcome{Kind: classify.Success}
	default:
		a.seen.Method, a.seen.Reply, a.seen.Idempotency = c.method, a.reply, c.idempotency
		a.seen.Header, a.seen.Trailer = a.header, a.trailer
		a.Outcome = c.classify(&a.seen)
	}
}

func (c *call) classify(seen *classify.Attempt) classify.Outcome {
	if o := c.plan.classifier.Classify(seen); o.Kind != classify.Undecided {
		return o
	}
	return classify.GRPC.Classify(seen)
}

// leaseResult says how the attempt ended as far as budgets care.
func (a *attempt) leaseResult() budget.Result {
	switch o := a.Outcome; {
	case o.Kind == classify.Success:
		return budget.Success
	case o.Kind == classify.Retryable, o.Reason == classify.ReasonNotIdempotent,
		o.Reason == classify.ReasonPushbackStop:
		return budget.Failure
	case o.Kind == classify.Abort && a.seen.Delivery == classify.DeliveryNotSent:
		return budget.Unsent
	}
	return budget.Neutral
}

// resultOf returns what became of an attempt that no other one was faster than.
func resultOf(a *attempt) AttemptResult {
	switch {
	case a.Outcome.Kind == classify.Success:
		return AttemptWon
	case a.seen.CallerDone:
		return AttemptCancelled
	}
	return AttemptFailed
}

// record puts an ended attempt into the timeline, if somebody will look at it:
// failures are part of the error.
func (c *call) record(a *attempt) {
	if !c.watched && a.cancel == nil && a.Outcome.Kind == classify.Success {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recordLocked(a)
}

func (c *call) recordLocked(a *attempt) {
	if a.cancel != nil {
		a.cancel()
	}
	if !c.watched && a.Outcome.Kind == classify.Success {
		return
	}
	if c.timeline == nil {
		c.timeline = new(Timeline)
	}
	a.Code, a.Delivery, a.Hint, a.Peer = a.seen.Code(), a.seen.Delivery, a.seen.Hint, a.address()
	c.timeline.Attempts = append(c.timeline.Attempts, a.Attempt)
	if c.watched {
		inside := a.inside
		a.inside = nil
		c.observe(inside, Event{Kind: AttemptEnd, Time: a.End, Timeline: c.timeline, Attempt: &a.Attempt, Err: a.seen.Err})
	}
}

// previousAttemptsHeader is the request metadata that counts the attempts before
// this one (gRFC A6).
const previousAttemptsHeader = "grpc-previous-rpc-attempts"

// previousAttempts are the metadata of callers that set none of their own, made
// once; outgoing metadata is never changed in place.
var previousAttempts = func() (mds [DefaultMaxAttempts]metadata.MD) {
	for n := range mds {
		mds[n] = metadata.Pairs(previousAttemptsHeader, strconv.Itoa(n))
	}
	return mds
}()

func withPreviousAttempts(ctx context.Context, n int) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx) // a copy
	if !ok && n < len(previousAttempts) {
		return metadata.NewOutgoingContext(ctx, previousAttempts[n])
	}
	return withHeader(ctx, md, previousAttemptsHeader, strconv.Itoa(n))
}

func withIdempotencyKey(ctx context.Context, key string) context.Context {
	if key == "" {
		key = cryptorand.Text()
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	return withHeader(ctx, md, IdempotencyKeyHeader, key)
}

func withHeader(ctx context.Context, md metadata.MD, key, value string) context.Context {
	if md == nil {
		md = make(metadata.MD, 1)
	}
	md.Set(key, value)
	return metadata.NewOutgoingContext(ctx, md)
}
