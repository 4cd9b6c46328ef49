package interceptor

import (
	"context"
	cryptorand "crypto/rand"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
)

// attempt is an attempt under way: its record, and what only it may write to.
type attempt struct {
	attemptState
	seen  classify.EndedAttempt // as classifiers see it
	lease budget.Lease

	outputs  *outputs          // its own; those of the original may be used for other calls afterwards
	got      *written          // what it has written, once it has ended
	done     bool              // grpc has ended it, as far as is known when it returned
	proven   bool              // and what got holds is of what it has returned
	opts     []grpc.CallOption // the private ones, then what the caller wants of every attempt
	reply    any
	ownReply bool // it is not the caller's

	isCounted bool // it has ended, and is part of the counts

	timed   bool               // its start is known
	begun   bool               // ctx is made, and observers know
	ctx     context.Context    // that it is made with, unless it is the call's
	cancel  context.CancelFunc // ends ctx; nil if nobody needs that
	dropped bool               // cancelled by its call. Guarded by the call's mu, as is timedOut
	inside  context.Context    // ctx, while the attempt runs watched

	*streamAttempt                   // of a stream
	stream         grpc.ClientStream // of its own; nil until it is open, and in unary calls
	finished       bool              // its stream has returned its last message, or an error
}

// try makes the attempt a until it has been sent, or there is no use in waiting until it can
// be, and takes in how it ended. It returns the attempt, which may be another value.
func (c *call) try(a *attempt) *attempt {
	c.makeOnce(a)
	for a.Delivery == classify.DeliveryNotSent && c.reconnects(a) {
		a = c.remake(a)
		c.makeOnce(a)
	}
	a.away = a.Delivery == classify.DeliveryNotSent && !c.isReady()
	if a.keepsLease = c.course.keepsLease(&a.attemptState); !a.keepsLease {
		a.lease.Release(a.leaseResult())
	}
	if a.timed {
		a.End = time.Now()
		c.learn(a)
	} else if a.Outcome.Class != classify.Success {
		a.End = time.Now()
	}
	return a
}

// makeOnce makes the attempt a, and has its end classified. Nothing that other attempts use
// is written here, since they may be running.
func (c *call) makeOnce(a *attempt) {
	actx := c.ctx
	if a.cancel != nil || a.Number > 1 || c.watching != nil {
		actx = c.beginAttempt(a)
	}
	err := c.maker.make(actx, a)
	a.read(err)
	if err == nil {
		a.seen.Delivery = classify.DeliveryAnswered
	} else {
		c.askChannel()
		c.examine(a, err)
	}
	c.judge(a)
}

// read takes in what grpc has written of an attempt that has returned err.
func (a *attempt) read(err error) {
	a.got, a.done = a.outputs.read()
	if a.proven = a.done && a.outputs.tell(err); a.proven && a.got.shown != nil {
		*a.got.shown = *a.outputs.shown // with what interceptors below have added
	}
	if !a.done && a.finished && a.stream.Context().Err() != nil { // its options have not reached grpc
		head, _ := a.stream.Header()
		a.got = &written{header: head, trailer: a.stream.Trailer()}
		a.proven = true
	}
}

// beginAttempt makes the context of an attempt, unless that has been done, and
// tells observers of it.
func (c *call) beginAttempt(a *attempt) context.Context {
	switch {
	case a.begun:
		return a.ctx
	case a.ctx != nil: // it can be cancelled already
	case c.streaming && (a.Number > 1 || c.plan.policy.AttemptTimeout > 0), a.Number > 1 && c.until.Load() != nil:
		c.makeCancellable(a)
	default:
		a.ctx = c.ctx
	}
	a.begun = true
	if a.Number > 1 {
		a.ctx = &attemptContext{withPreviousAttempts(a.ctx, a.Number-1), a.Number, a.Kind}
	}
	if c.watching != nil {
		c.telling.Lock()
		defer c.telling.Unlock()
		a.ctx = c.start(a.ctx, Event{Kind: AttemptStart, Time: a.Start, Timeline: c.timeline, Attempt: &a.Attempt})
		a.inside = a.ctx
	}
	return a.ctx
}

// makeCancellable gives an attempt a context that it can be cancelled by, and that ends with the
// call. Of the original grpc itself sees to that.
func (c *call) makeCancellable(a *attempt) {
	if until := c.until.Load(); until != nil && a.Number != 1 {
		a.ctx, a.cancel = context.WithDeadline(c.ctx, *until)
		return
	}
	a.ctx, a.cancel = context.WithCancel(c.ctx)
}

// attemptTimeout returns when the attempt is to make place for another one, zero if
// none can follow.
func (c *call) attemptTimeout(a *attempt) time.Duration {
	if c.rules.attemptTimeout == 0 {
		return 0
	}
	_, bounded := c.deadline()
	c.mu.Lock() // a stream may be committed meanwhile
	defer c.mu.Unlock()
	return c.course.timeoutOf(a.Number, bounded)
}

// learn notes how long a timed attempt took.
func (c *call) learn(a *attempt) {
	start := a.Start.Add(a.Unreachable)
	if a.Outcome.Class == classify.Success && !c.streaming {
		c.plan.method.pace.Add(a.End, a.End.Sub(start))
	}
	if c.samples {
		if q := c.plan.queue; !q.IsEmpty() {
			c.mu.Lock()
			own := c.waiter
			c.mu.Unlock()
			q.Advance(a.End, own)
		}
		c.tellTrigger(a, start)
	}
}

// judge gives an ended attempt its outcome.
func (c *call) judge(a *attempt) {
	switch {
	case c.hedged && c.isDropped(a) && c.ctx.Err() == nil:
		// Its error is our own cancellation, which classifiers are not for.
		a.Outcome = decidedElsewhere
	case a.seen.Err == nil && !c.looksAtOK:
		a.Outcome = classify.Outcome{Class: classify.Success}
	default:
		a.seen.Method, a.seen.Reply, a.seen.Idempotency = c.method, a.reply, c.idempotency
		a.showOutputs()
		a.Outcome = c.classify(&a.seen)
		if c.hedged {
			a.survivable = c.survivable(a)
		}
	}
}

// decidedElsewhere is the outcome of an attempt that another one was faster than.
var decidedElsewhere = classify.Outcome{Class: classify.Abort, Reason: classify.ReasonCallDecided}

// survivable reports whether an attempt failed in a way that leaves a chance to
// others (gRFC A6's non-fatal codes). A server that pushes back forbids new
// attempts, not those that run.
func (c *call) survivable(a *attempt) bool {
	if !a.seen.Hint.Stops() {
		return a.Outcome.Class == classify.Retryable
	}
	seen := a.seen
	seen.Hint = classify.Hint{}
	return c.classify(&seen).Class == classify.Retryable
}

// classify asks the policy's classifier. A call ends well only if there is a reply: one
// that takes an error for success ends the call with that error.
func (c *call) classify(seen *classify.EndedAttempt) classify.Outcome {
	o := c.plan.classifier.Classify(seen)
	if o.Class == classify.Undecided {
		o = classify.GRPC.Classify(seen)
	}
	if o.Class == classify.Success && seen.Err != nil {
		o = classify.Outcome{Class: classify.NonRetryable, Reason: classify.ReasonFatalCode}
	}
	return o
}

// record counts an attempt that has ended, and puts it into the timeline if somebody will
// look at it: failures are part of the error.
func (c *call) record(a *attempt) {
	if a.cancel != nil {
		a.cancel()
	}
	if c.watching == nil && a.isPlain() {
		a.isCounted = true
		return
	}
	c.telling.Lock()
	defer c.telling.Unlock()
	c.describe(a)
	c.countAttempt(a)
	if !a.isPlain() {
		c.past = append(c.past, AttemptError{a.Attempt, a.seen.Err})
	}
	if c.watching != nil {
		c.timeline.Attempts = append(c.timeline.Attempts, a.Attempt)
		inside := a.inside
		a.inside = nil
		c.observe(inside, Event{Kind: AttemptEnd, Time: a.End, Timeline: c.timeline, Attempt: &a.Attempt, Err: a.seen.Err})
	}
}

// describe fills in what the record of an attempt says of where it went.
func (c *call) describe(a *attempt) {
	a.Delivery, a.Peer = a.seen.Delivery, a.address()
	a.Backend, a.NoOtherBackend = c.backends.Of(a.Number)
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

// servedRetry returns what the request metadata say of the attempts before a call that is
// being served, empty if it is a first one, or if none is being served.
func servedRetry(ctx context.Context) string {
	vs := metadata.ValueFromIncomingContext(ctx, previousAttemptsHeader)
	if len(vs) == 0 || vs[len(vs)-1] == "0" {
		return ""
	}
	return vs[len(vs)-1]
}

// passOn tells the next service of a chain that what it serves is a retry, too.
func passOn(ctx context.Context, previous string) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx)
	return withHeader(ctx, md, previousAttemptsHeader, previous)
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
