package interceptor

import (
	"context"
	cryptorand "crypto/rand"
	"slices"
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
	reached bool // the options reached grpc

	timed  bool            // its start is known
	inside context.Context // of the attempt, while it runs watched
}

// privateOutputs is the number of private options at the start of attempt.opts.
const privateOutputs = 4

// setOptions makes the attempt's options from those that every attempt has.
func (a *attempt) setOptions(shared ...grpc.CallOption) {
	a.opts = append(make([]grpc.CallOption, 0, max(privateOutputs+len(shared), 16)),
		grpc.HeaderCallOption{HeaderAddr: &a.header},
		grpc.TrailerCallOption{TrailerAddr: &a.trailer},
		grpc.PeerCallOption{PeerAddr: &a.peer},
		grpc.OnFinishCallOption{OnFinish: func(error) { a.reached = true }},
	)
	a.opts = append(a.opts, shared...)
}

// become forgets the attempt that a was, and makes it the next one.
func (a *attempt) become(next Attempt, lease budget.Lease) {
	if a.seen.Err == nil {
		resetReply(a.reply) // a soft failure has written it
	}
	a.header, a.trailer, a.peer, a.reached = nil, nil, peer.Peer{}, false
	a.seen = classify.Attempt{}
	a.Attempt, a.lease, a.timed = next, lease, true
}

// try makes the attempt a, and has its end classified. ctx is the context of the
// call. Nothing that other attempts use is written here, since they may be running.
func (c *call) try(ctx context.Context, a *attempt) {
	actx, timeout, cancel := c.bound(ctx, a)
	if cancel != nil {
		defer cancel()
	}
	if a.Number > 1 {
		actx = withPreviousAttempts(actx, a.Number-1)
	}
	if c.watched {
		actx = c.begin(actx, a)
	}
	err := c.invoker(actx, c.method, c.req, a.reply, c.conn, slices.Clip(a.opts)...)
	if err == nil {
		a.seen.Delivery = classify.DeliveryAnswered
	} else {
		a.examine(ctx, err, timeout)
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

// bound returns the context of an attempt, with the attempt timeout, which the
// last attempt of a call with a deadline does not have. Without one, timeout is
// zero and cancel nil.
func (c *call) bound(ctx context.Context, a *attempt) (actx context.Context, timeout time.Time, cancel context.CancelFunc) {
	if c.hedged {
		ctx = c.round
	}
	d := c.plan.policy.AttemptTimeout
	if d == 0 {
		return ctx, time.Time{}, nil
	}
	if _, bounded := ctx.Deadline(); bounded && a.Number >= c.plan.maxAttempts {
		return ctx, time.Time{}, nil
	}
	timeout = time.Now().Add(d)
	actx, cancel = context.WithDeadline(ctx, timeout)
	return actx, timeout, cancel
}

// begin tells observers of an attempt and returns what they make of its context.
func (c *call) begin(actx context.Context, a *attempt) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	a.inside = c.start(actx, Event{Kind: AttemptStart, Time: a.Start, Timeline: c.timeline, Attempt: &a.Attempt})
	return a.inside
}

// examine finds out what a failed attempt shows: whose clock ended it, and
// whether a server can have executed it. timeout is when the attempt's own timer
// fires, zero if it has none.
func (a *attempt) examine(ctx context.Context, err error, timeout time.Time) {
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
	seen.TimedOut = !timeout.IsZero() && !now.Before(timeout)
}

// delivery reads the private outputs, which grpc fills once an attempt has a
// transport stream. If the options did not reach grpc at all, something between
// answered or dropped them and nothing is known.
func (a *attempt) delivery() classify.Delivery {
	switch {
	case !a.reached:
		return classify.DeliveryUnknown
	case a.peer.Addr == nil:
		return classify.DeliveryNotSent
	case len(a.trailer) > 0:
		return classify.DeliveryAnswered
	}
	return classify.DeliveryUnknown
}

// judge gives an ended attempt its outcome.
func (c *call) judge(ctx context.Context, a *attempt) {
	switch {
	case c.hedged && c.round.Err() != nil && ctx.Err() == nil:
		// Its error is our own cancellation, which classifiers are not for.
		a.Outcome = classify.Outcome{Kind: classify.Abort, Reason: classify.ReasonCallDecided}
	case a.seen.Err == nil && !c.plan.looksAtOK:
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
// failures are part of the error. While attempts run side by side mu is held.
func (c *call) record(a *attempt) {
	if !c.watched && a.Outcome.Kind == classify.Success {
		return
	}
	a.Code, a.Delivery, a.Hint, a.Peer = a.seen.Code(), a.seen.Delivery, a.seen.Hint, a.peer.Addr
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
