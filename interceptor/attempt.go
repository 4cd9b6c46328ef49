package interceptor

import (
	"context"
	cryptorand "crypto/rand"
	"reflect"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
)

// sampleEvery is how many calls pass between two whose latency is measured, when
// nobody watches: reading the clock is a fair part of what a call costs here.
const sampleEvery = 64

// try makes the attempt a and classifies its end.
func (c *call) try(ctx context.Context, a *Attempt) {
	if a.Number > 1 {
		c.forgetAttempt()
	}
	c.count++
	timed := c.watched || a.Number > 1 || c.count%sampleEvery == 0 || c.plan.usual.duration() == 0
	switch {
	case c.watched && a.Number == 1:
		a.Start = c.timeline.Start
	case timed:
		a.Start = time.Now()
	}
	actx, timeout, cancel := c.bound(ctx, a)
	if cancel != nil {
		defer cancel()
	}
	if a.Number > 1 {
		actx = withPreviousAttempts(actx, a.Number-1)
	}
	if c.watched {
		actx = c.start(actx, Event{Kind: AttemptStart, Time: a.Start, Timeline: c.timeline, Attempt: a})
		c.inside = actx
	}
	err := c.invoker(actx, c.method, c.req, c.reply, c.conn, slices.Clip(c.opts)...)
	if err == nil {
		c.attempt.Delivery = classify.DeliveryAnswered
	} else {
		c.examine(ctx, err, timeout)
	}
	c.judge(a)
	won := a.Outcome.Kind == classify.Success
	if timed || !won {
		a.End = time.Now()
	}
	if timed && won {
		c.plan.usual.add(a.End.Sub(a.Start))
	}
	if c.watched || !won {
		c.record(actx, a)
	}
	c.plain = won && err == nil && a.Number == 1 && len(c.callerOpts) == 0
}

// forgetAttempt clears what the last attempt left behind.
func (c *call) forgetAttempt() {
	if c.attempt.Err == nil {
		resetReply(c.reply) // a soft failure has written it
	}
	c.header, c.trailer, c.peer, c.reached = nil, nil, peer.Peer{}, false
	c.attempt = classify.Attempt{}
}

// bound applies the attempt timeout, which the last attempt of a call with a
// deadline does not have. Without one, timeout is zero and cancel nil.
func (c *call) bound(ctx context.Context, a *Attempt) (actx context.Context, timeout time.Time, cancel context.CancelFunc) {
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

// examine finds out what a failed attempt shows: whose clock ended it, and
// whether a server can have executed it. timeout is when the attempt's own timer
// fires, zero if it has none.
func (c *call) examine(ctx context.Context, err error, timeout time.Time) {
	a := &c.attempt
	a.Err, a.Status = err, statusOf(err)
	a.Delivery = c.delivery()
	a.Hint = classify.HintOf(c.trailer, a.Status)
	a.CallerDone = ctx.Err() != nil
	code := a.Status.Code()
	if a.CallerDone || (code != codes.DeadlineExceeded && code != codes.Canceled) {
		return
	}
	// Neither timers nor codes decide, but the clock: the server got the same
	// deadline, and its answer may be there an instant before our timer has run.
	now := time.Now()
	if deadline, bounded := ctx.Deadline(); bounded && !now.Before(deadline) {
		a.CallerDone = true
		return
	}
	a.TimedOut = !timeout.IsZero() && !now.Before(timeout)
}

// delivery reads the private outputs, which grpc fills once an attempt has a
// transport stream. If the options did not reach grpc at all, something between
// answered or dropped them and nothing is known.
func (c *call) delivery() classify.Delivery {
	switch {
	case !c.reached:
		return classify.DeliveryUnknown
	case c.peer.Addr == nil:
		return classify.DeliveryNotSent
	case len(c.trailer) > 0:
		return classify.DeliveryAnswered
	}
	return classify.DeliveryUnknown
}

// judge classifies the attempt and settles its lease.
func (c *call) judge(a *Attempt) {
	in := &c.attempt
	if in.Err == nil && !c.plan.looksAtOK {
		a.Outcome = classify.Outcome{Kind: classify.Success}
		c.lease.Release(budget.Success)
		return
	}
	in.Method, in.Reply, in.Idempotency = c.method, c.reply, c.idempotency
	in.Header, in.Trailer = c.header, c.trailer
	if a.Outcome = c.plan.classifier.Classify(in); a.Outcome.Kind == classify.Undecided {
		a.Outcome = classify.GRPC.Classify(in)
	}
	c.lease.Release(leaseResult(a.Outcome))
}

func leaseResult(o classify.Outcome) budget.Result {
	switch {
	case o.Kind == classify.Success:
		return budget.Success
	case o.Kind == classify.Retryable, o.Reason == classify.ReasonNotIdempotent,
		o.Reason == classify.ReasonPushbackStop:
		return budget.Failure
	}
	return budget.Neutral
}

// record puts an ended attempt into the timeline.
func (c *call) record(actx context.Context, a *Attempt) {
	in := &c.attempt
	a.Code, a.Delivery, a.Hint, a.Peer = in.Code(), in.Delivery, in.Hint, c.peer.Addr
	switch {
	case a.Outcome.Kind == classify.Success:
		a.Result = AttemptWon
	case in.CallerDone:
		a.Result = AttemptCancelled
	default:
		a.Result = AttemptFailed
	}
	c.timeline.Attempts = append(c.timeline.Attempts, *a)
	if c.watched {
		c.inside = nil
		c.observe(actx, Event{Kind: AttemptEnd, Time: a.End, Timeline: c.timeline, Attempt: a, Err: in.Err})
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

// resetReply empties a reply before another attempt writes it.
func resetReply(reply any) {
	if m, ok := reply.(proto.Message); ok {
		proto.Reset(m)
		return
	}
	if v := reflect.ValueOf(reply); v.Kind() == reflect.Pointer && !v.IsNil() {
		v.Elem().SetZero()
	}
}
