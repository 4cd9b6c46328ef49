package policy

import (
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
)

// Explanation says what a policy leads to, in words for people. The words may change.
//
// It holds whatever the servers answer, with one exception: pushback and
// google.rpc.RetryInfo replace the waits or make them longer.
type Explanation struct {
	// Attempts is the most attempts of a call. Attempts that cannot begin within the timeout
	// are not counted.
	Attempts int
	// Hedging says when a hedge begins, or why none does. It is empty if the policy asks for
	// none.
	Hedging string
	// Steps say when the attempts of a call that is not hedged begin, one after the other.
	Steps []Step
	// Overloaded are the steps if the server answers RESOURCE_EXHAUSTED, because waits for
	// an overloaded server begin with a second. It is empty if these are the same as Steps,
	// or if that code is not retried.
	Overloaded []Step
	// Waits says what else the waits depend on; empty if there are none.
	Waits string
	// Longest is the longest time of a unary call whose caller gives no deadline, without
	// the time in which there is no connection. Zero means that nothing in the policy bounds
	// it.
	Longest time.Duration
	// Time says the same in words. Load says how much more load a server gets if everything
	// fails.
	Time, Load string
}

// Step is when an attempt begins.
type Step struct {
	Number int // of the attempt, from 1
	Begins string
}

// Explain says what p leads to as it is written. If something is stronger than p, such as
// the switches of a set or a limit of attempts, write it into p first. b is the budget that
// p names, nil if that is the default or in code.
func (p Policy) Explain(b *NamedBudget) Explanation {
	p = p.withDefaults()
	c := p.courses()
	e := Explanation{Attempts: p.attempts(c), Hedging: p.hedging(), Steps: c.steps()}
	if c.differ() {
		e.Overloaded = c.overloaded.steps()
	}
	if p.hedges() && p.Idempotency.AllowsRetry() { // so there are no waits but those for hedges
		e.Steps, e.Overloaded = e.Steps[:1], nil
	} else if p.retries() {
		e.Waits = p.waits(e.Attempts)
	}
	e.Longest, e.Time = p.longest(c)
	e.Load = p.load(b, e.Attempts)
	return e
}

// hedges reports whether attempts of p are hedged, if its method may be.
func (p Policy) hedges() bool {
	return p.Hedge.Asked() && !p.Hedge.Off && p.Retry.MaxAttempts > 1 && p.Idempotency != classify.NotIdempotent
}

// attempts is the most of a call. In a hedged one a failure is followed at once.
func (p Policy) attempts(c courses) int {
	if p.hedges() && (p.Classifier != ClassifierNone || !p.hedgesTooLate()) {
		return p.Retry.MaxAttempts
	}
	return max(len(c.usual), len(c.overloaded))
}

// hedgesTooLate reports whether no attempt can be slow enough for a hedge.
func (p Policy) hedgesTooLate() bool { return p.Timeout > 0 && p.firstHedge() >= p.Timeout }

// firstHedge is the earliest that a hedge begins.
func (p Policy) firstHedge() time.Duration {
	switch h := p.Hedge; {
	case h.Trigger != "":
		return 0
	case h.Delay != 0:
		return max(h.Delay, 0) // NoWait is below
	default:
		return h.MinDelay
	}
}

// hedging says when hedges begin, or why none does.
func (p Policy) hedging() string {
	switch {
	case !p.Hedge.Asked() || p.Hedge.Off:
		return ""
	case p.Retry.MaxAttempts == 1:
		return "not hedged: there is one attempt"
	case p.Idempotency == classify.NotIdempotent:
		return "not hedged: the method is not known to be idempotent"
	}
	text := p.hedgesBegin()
	if p.hedgesTooLate() {
		text = fmt.Sprintf("none begins because an attempt is slow, since the timeout of %v comes first", p.Timeout)
	}
	if p.Classifier != ClassifierNone && p.Hedge.Delay != NoWait {
		text += ", and at once when one fails that may be repeated"
	}
	if p.Idempotency == classify.IdempotencyUnknown {
		return "hedged, if the method is known to be idempotent: " + text
	}
	return "hedged: " + text
}

func (p Policy) hedgesBegin() string {
	h := p.Hedge
	switch {
	case h.Trigger != "":
		return fmt.Sprintf("the next attempt begins when the client's trigger %q says so", h.Trigger)
	case h.MaxExtraLoad > 0:
		return fmt.Sprintf("the next attempt begins when one takes longer than all but %.4g %% lately, after %v at least", 100*h.MaxExtraLoad, h.MinDelay)
	case h.Percentile > 0:
		return fmt.Sprintf("the next attempt begins when one takes longer than %.4g %% lately, after %v at least", 100*h.Percentile, h.MinDelay)
	case h.Delay == NoWait:
		return fmt.Sprintf("%d attempts begin at once", p.Retry.MaxAttempts)
	}
	return fmt.Sprintf("the next attempt begins each %v", h.Delay)
}

// waits says what waits depend on, of a call that makes so many attempts.
func (p Policy) waits(attempts int) string {
	text := "the server's pushback takes the place of these waits"
	if attempts < p.Retry.MaxAttempts {
		text = fmt.Sprintf("no more than %d can begin within the timeout, but %d if the server's pushback takes the place of the waits", attempts, p.Retry.MaxAttempts)
	}
	if p.Classifier == "" && len(p.Retry.Codes) == 0 {
		text += "; an overloaded server (RESOURCE_EXHAUSTED) is tried again only if it asks for it"
	}
	return text
}

// longest says how long a call can take, zero if there is no bound.
func (p Policy) longest(c courses) (time.Duration, string) {
	switch {
	case p.Timeout > 0:
		return p.Timeout, fmt.Sprintf("%v (timeout), or the caller's deadline if that is earlier", p.Timeout)
	case p.AttemptTimeout == 0 || p.hedges():
		return 0, "as long as the caller's deadline"
	}
	usual, overloaded := c.usual.longest(p.AttemptTimeout), c.overloaded.longest(p.AttemptTimeout)
	longest := max(usual, overloaded)
	text := roundedUp(longest).String()
	if c.differ() {
		text = fmt.Sprintf("%v, and %v if the server is overloaded", roundedUp(usual), roundedUp(overloaded))
	}
	text += " (all attempts and waits, without pushback) of a call that has no deadline, and else until its deadline"
	if p.reconnects() {
		text += fmt.Sprintf("; up to %v more while there is no connection (retry.reconnect)", p.Retry.Reconnect)
	}
	return longest, text
}

// reconnects reports whether attempts wait for a connection beyond their timeout.
func (p Policy) reconnects() bool { return p.Retry.Reconnect > 0 && p.retriesCode(codes.Unavailable) }

// load says how much more a server sees if everything fails.
func (p Policy) load(b *NamedBudget, attempts int) string {
	if attempts == 1 {
		return "that of the calls: there are no extra attempts"
	}
	var bounds []string
	switch {
	case p.Budget == "":
		bounds = append(bounds, fmt.Sprintf("what each client has saved up in a second, %.4g %% of its calls and %.4g attempts (the default budget, unless its code has another)",
			100*budget.DefaultRatio, float64(budget.DefaultMinPerSecond)))
	case b == nil:
		bounds = append(bounds, fmt.Sprintf("as the client's budget %q allows", p.Budget))
	case b.Ratio != nil:
		bounds = append(bounds, fmt.Sprintf("what each client has saved up in a second, %.4g %% of its calls and %.4g attempts (budget %q)", 100*b.Ratio.Ratio, b.Ratio.MinPerSecond, b.Name))
	case b.TokenBucket != nil:
		saved := ""
		if burst := b.TokenBucket.Burst; burst > 0 {
			saved = fmt.Sprintf(", and %.4g that it has saved up", burst)
		}
		bounds = append(bounds, fmt.Sprintf("%.4g attempts per second more of each client%s (budget %q)", b.TokenBucket.PerSecond, saved, b.Name))
	case b.Throttle != nil:
		bounds = append(bounds, fmt.Sprintf("%d times until %.4g attempts have failed, then no more (budget %q)", attempts, math.Ceil(b.Throttle.MaxTokens/2), b.Name))
	case b.Concurrency != nil:
		bounds = append(bounds, fmt.Sprintf("%.4g %% of the attempts in flight, or %d of each client (budget %q)", 100*b.Concurrency.Share, b.Concurrency.Min, b.Name))
	}
	if h := p.Hedge; p.hedges() && h.MaxExtraLoad > 0 {
		bounds = append(bounds, fmt.Sprintf("hedges %.4g %% of it", 100*h.MaxExtraLoad))
	}
	return strings.Join(bounds, "; ")
}

// Budget returns the budget of the set with this name, nil if the set defines none.
func (s Set) Budget(name string) *NamedBudget {
	for i := range s.Budgets {
		if s.Budgets[i].Name == name {
			return &s.Budgets[i]
		}
	}
	return nil
}
