package interceptor

import (
	"log/slog"
	"maps"
	"time"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/hedge"
	"github.com/rego-go/rego/internal/waitqueue"
	"github.com/rego-go/rego/policy"
)

// hedging is what the hedged calls of one method share.
type hedging struct {
	delay   *hedge.Delay      // says when hedges are due; nil if the policy names a trigger
	trigger *guardedTrigger   // which does then
	own     *budget.ExtraLoad // what MaxExtraLoad allows, else nil
	queues  map[string]*waitqueue.Queue
}

// queueLocked returns where hedges wait that one budget has denied, by its name in policies.
func (h *hedging) queueLocked(budget string) *waitqueue.Queue {
	q, ok := h.queues[budget]
	if !ok {
		q = new(waitqueue.Queue)
		if h.queues == nil || len(h.queues) >= maxHedgings {
			h.queues = make(map[string]*waitqueue.Queue)
		}
		h.queues[budget] = q
	}
	return q
}

// maxHedgings bounds what is kept for one method, for callers that make up
// policies.
const maxHedgings = 16

// hedgingLocked returns what the calls under p share, also with those under
// another version of the policy that says the same of hedging. What is made anew
// has a budget that nothing has been paid into, so that changing a policy back
// and forth grants nothing. Plans that have what is forgotten go on with it.
func (m *method) hedgingLocked(it *Interceptor, p policy.Hedge) *hedging {
	h, ok := m.hedgings[p]
	if ok {
		return h
	}
	h = m.newHedgingLocked(it, p)
	if len(m.hedgings) >= maxHedgings {
		maps.DeleteFunc(m.hedgings, func(_ policy.Hedge, h *hedging) bool { return h != m.inForce })
	}
	if m.hedgings == nil {
		m.hedgings = make(map[policy.Hedge]*hedging)
	}
	m.hedgings[p] = h
	return h
}

func (m *method) newHedgingLocked(it *Interceptor, p policy.Hedge) *hedging {
	h := new(hedging)
	if p.MaxExtraLoad > 0 {
		h.own = m.extraLoadLocked(p.MaxExtraLoad)
	}
	if p.Trigger != "" {
		h.trigger = it.triggers[p.Trigger]
	} else {
		h.delay = m.delayLocked(p)
	}
	return h
}

// extraLoadLocked returns a budget that counts its answers together with all that have kept a
// MaxExtraLoad of the method: so they do not go back when a policy is changed, or changed back.
func (m *method) extraLoadLocked(share float64) *budget.ExtraLoad {
	one := budget.NewExtraLoad
	if m.load != nil {
		one = m.load.WithShare
	} else {
		m.bounded = time.Now()
	}
	b, err := one(share)
	if err != nil {
		panic(err) // a policy that is in force has been validated
	}
	m.load = b
	return b
}

// delayLocked returns the trigger of a policy that names none.
func (m *method) delayLocked(p policy.Hedge) *hedge.Delay {
	if p.Delay != 0 {
		return hedge.Fixed(max(p.Delay, 0)) // NoWait is negative
	}
	if m.latency == nil {
		m.latency = hedge.NewTracker()
	}
	q := p.Percentile
	if q == 0 {
		q = 1 - p.MaxExtraLoad
	}
	return m.latency.Quantile(q, hedge.Bounds{Min: p.MinDelay, Max: p.MaxDelay})
}

// hedge asks when the call is hedged, and returns why it is not, though its policy asks for
// it.
func (c *call) hedge() DenialReason {
	h, m := c.plan.hedging, c.plan.method
	switch {
	case h == nil:
		return DeniedDisabled
	case c.chained:
		return DeniedChainStopped
	case !c.idempotency.AllowsRetry():
		m.tellNotHedged(c.interceptor.log)
		return DeniedNotIdempotent
	}
	if c.bidirectional && !c.plan.named {
		return DeniedNotNamed
	}
	c.samples = true
	var ok bool
	if !c.streaming { // what a stream receives into is known only later
		if c.dirty {
			return DeniedReplyType
		}
		if c.replies, ok = m.replies.Of(c.reply).Like(c.reply); !ok {
			return DeniedReplyType
		}
	}
	says := c.answerTo(hedge.Call{Running: 1})
	c.delay = says.after
	return says.denied
}

// tellNotHedged logs once per method that its policy asks for what must not be.
func (m *method) tellNotHedged(log *slog.Logger) {
	if !m.notHedgedTold.Load() && !m.notHedgedTold.Swap(true) {
		log.Warn("rego: the policy asks for hedging, but the method is not known to be idempotent, so it is not hedged: "+
			"say so with idempotency_level in the proto file, the policy's Idempotency or WithIdempotency", "method", m.name)
	}
}
