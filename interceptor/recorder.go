package interceptor

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Recorder is told of every call when it has ended, and of nothing before. It is for metrics
// and logs, which then cost a call that succeeds almost nothing. To follow a call while it
// runs, use an [Observer]. A Recorder is called on the goroutine that ends the call, for
// many calls at once, and a slow one makes these calls slower.
//
// If a recorder panics, the interceptor stops using it and reports the panic once through
// the logger. The call goes on.
type Recorder interface {
	// Record is called with the context of the call. If an observer has put a span into it,
	// the span is there.
	Record(ctx context.Context, s Summary)
}

// Summary says what is known about a call that has ended. It is valid only during the call
// of the recorder.
type Summary struct {
	// Method is the full method name, "/pkg.Service/Method".
	Method string
	// Registered says that the method is one of the program's own, and not a name that
	// somebody may have made up: a generated stub has called it, or it is in a proto file
	// that is linked in.
	Registered bool
	Target     string
	Start      time.Time
	Elapsed    time.Duration
	Code       codes.Code
	Reason     EndReason
	// Retries and Hedges count the retries and hedges that have ended.
	Retries, Hedges int
	// Denials are the retries and hedges that were denied. They must not be kept: their
	// memory is used again.
	Denials []Denial
	// RetryDelay is the time in which the call waited for a retry, and no attempt ran.
	RetryDelay time.Duration

	call *call
	end  time.Time
}

// Timeline returns the record of the call. It may be kept. It is made when Timeline is
// called, unless the call has an observer or WithTimeline. If it is made then, it does not
// say since when a stream was committed.
func (s Summary) Timeline() *Timeline {
	if s.call.watching != nil {
		return s.call.timeline
	}
	return s.call.timelineAfterwards(s.Code, s.Reason, s.end)
}

// WithRecorder tells r of every call that has ended. It may be given more than once; nil is
// ignored. Default: no recorder.
func WithRecorder(r Recorder) Option {
	return optionFunc(func(c *config) {
		if r != nil {
			c.recorders = append(c.recorders, &guarded{recorder: r})
		}
	})
}

// ended counts a call that has ended, and tells recorders, once.
func (c *call) ended(err error, reason EndReason, now time.Time) {
	if c.isCounted {
		return
	}
	c.isCounted = true
	code := status.Code(err)
	c.countCall(code, reason)
	if len(c.past) > 0 || len(c.denials) > 0 || c.lead.timed {
		c.offerSample(code, reason, now)
	}
	for _, r := range c.interceptor.recorders {
		start := c.startedAt()
		r.record(c.ctx, Summary{
			Method: c.method, Registered: c.plan.method.registered.Load(), Target: targetName(c.conn),
			Start: start, Elapsed: now.Sub(start), Code: code, Reason: reason,
			Retries: c.retriesMade, Hedges: c.hedgesMade, Denials: c.denied(), RetryDelay: c.slept,
			call: c, end: now,
		})
	}
}

// denied returns the retries and hedges that were denied.
func (c *call) denied() []Denial {
	if c.watching != nil {
		return c.timeline.Denials
	}
	return c.denials
}

// startedAt returns when the call began, zero if it is not timed.
func (c *call) startedAt() time.Time {
	for i := range c.past {
		if a := &c.past[i]; a.Number == 1 {
			return a.Start
		}
	}
	return c.original.Start
}

// timelineAfterwards returns the timeline of a call that nobody has watched. The start of its
// original is not known if it was not timed: the timeline begins with its end then.
func (c *call) timelineAfterwards(code codes.Code, reason EndReason, end time.Time) *Timeline {
	t := new(Timeline)
	c.introduce(t)
	t.Reason, t.Code, t.End = reason, code, end
	t.Committed = c.keptFor
	t.Denials = slices.Clone(c.denials)
	t.Attempts = make([]Attempt, 0, len(c.past)+1)
	for _, a := range c.past {
		t.Attempts = append(t.Attempts, a.Attempt)
	}
	if a := c.decided; a != nil && a.isPlain() {
		c.describe(a)
		t.Attempts = append(t.Attempts, a.Attempt)
	}
	t.sort()
	if t.Start = c.startedAt(); len(t.Attempts) == 0 {
		return t
	}
	first := &t.Attempts[0]
	if first.Start.IsZero() {
		t.Untimed, first.Start = true, first.End
	}
	t.Start = first.Start
	for _, a := range t.Attempts {
		if a.End.After(t.End) {
			t.End = a.End
		}
	}
	return t
}
