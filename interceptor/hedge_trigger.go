package interceptor

import (
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/hedge"
)

// askTrigger asks when the next hedge is due, beside so many attempts of which the last began
// at a time. It is called without mu.
func (c *call) askTrigger(now, last time.Time, running int) answer {
	return c.answerTo(hedge.Call{Running: running, Elapsed: now.Sub(c.began), SinceLast: now.Sub(last)})
}

func (c *call) answerTo(asked hedge.Call) answer {
	var wait time.Duration
	var state hedge.State
	if h := c.plan.hedging; h.delay != nil {
		wait, state = h.delay.Next(asked)
	} else {
		asked.Method, asked.Target = c.method, targetName(c.conn)
		wait, state = h.trigger.next(asked)
	}
	switch state {
	case hedge.Ready:
		return answer{after: max(wait, 0)}
	case hedge.Cold:
		return answer{denied: DeniedFewSamples}
	case hedge.TooSlow:
		return answer{denied: DeniedTooSlow}
	case hedge.Declined:
	}
	return answer{denied: DeniedByTrigger}
}

// tellTrigger tells of an attempt that has ended, and began at a time, waits for a connection
// not counted. It is called without mu.
func (c *call) tellTrigger(a *attempt, start time.Time) {
	complete := a.seen.Err == nil && a.Outcome.Class != classify.Retryable
	if d := c.plan.hedging.delay; d != nil { // what its Ended does
		switch {
		case a.Number != 1:
		case complete:
			d.Record(start, a.End)
		default:
			d.RecordAtLeast(start, a.End)
		}
		return
	}
	e := hedge.EndedAttempt{
		Method: c.method, Target: targetName(c.conn), Number: a.Number, Start: start, End: a.End, Err: a.seen.Err, Complete: complete,
	}
	if a.proven {
		e.Header, e.Trailer = a.got.header, a.got.trailer
	}
	if !c.plan.hedging.trigger.ended(e) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.course.decline()
	}
}

// guardedTrigger is a trigger that can do no harm: if it panics, the call in question has no
// more hedges. That is logged once.
type guardedTrigger struct {
	trigger hedge.Trigger // nil wants no hedge
	name    string
	log     *slog.Logger

	told atomic.Bool
}

func (g *guardedTrigger) next(c hedge.Call) (wait time.Duration, s hedge.State) {
	if g.trigger == nil {
		return 0, hedge.Declined
	}
	defer g.catch(func() { s = hedge.Declined })
	return g.trigger.Next(c)
}

func (g *guardedTrigger) ended(a hedge.EndedAttempt) (ok bool) {
	if g.trigger == nil {
		return true
	}
	defer g.catch(func() {})
	g.trigger.Ended(a)
	return true
}

// catch is to be deferred around the trigger's code; after a panic it calls mend.
func (g *guardedTrigger) catch(mend func()) {
	p := recover()
	if p == nil {
		return
	}
	mend()
	if !g.told.Swap(true) {
		g.log.Error("rego: a trigger panicked, and its call has no more hedges", "trigger", g.name, "panic", p, "stack", string(debug.Stack()))
	}
}
