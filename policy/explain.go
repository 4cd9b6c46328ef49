package policy

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Explanation is what a policy leads to, in words for people, which may change.
type Explanation struct {
	// Attempts is the most that a call makes.
	Attempts int
	// Hedging says when a hedge begins; empty if there are none.
	Hedging string
	// Steps are when the attempts begin that follow one another.
	Steps []Step
	// Waits says what else the waits depend on; empty if there are none.
	Waits string
	// Time is how long a call can take, and Load how much more a server sees if everything
	// fails.
	Time, Load string
}

// Step is when an attempt begins.
type Step struct {
	Number int // of the attempt, from 1
	Begins string
}

// Explain says what p leads to as it stands. Whoever has something stronger than p, such as
// the switches of a set or a limit of attempts, writes it into p before. The budget is the
// one that p names, nil if that is the default or in code.
func (p Policy) Explain(b *Budget) Explanation {
	p = p.withDefaults()
	e := Explanation{Attempts: p.attempts(), Steps: []Step{{1, "at once"}}}
	if p.hedges() {
		e.Hedging = "hedged, if the method is known to be idempotent: " + p.hedgesBegin()
	}
	for n := 1; n < e.Attempts && !p.Retry.Off; n++ {
		least, most := p.Retry.Backoff.Bounds(n - 1)
		wait := fmt.Sprintf("%v to %v", least, most)
		switch {
		case most == 0:
			wait = "at once"
		case least == most:
			wait = most.String()
		}
		e.Steps = append(e.Steps, Step{n + 1, fmt.Sprintf("%s after number %d has failed", wait, n)})
	}
	if len(e.Steps) > 1 {
		e.Waits = "the server's pushback takes the place of these waits; of an overloaded server they begin with 1s"
	}
	e.Time, e.Load = p.longest(), p.load(b)
	return e
}

func (p Policy) hedges() bool { return p.Hedge.Asked() && !p.Hedge.Off }

func (p Policy) attempts() int {
	if p.Retry.Off && !p.hedges() {
		return 1
	}
	return p.Retry.MaxAttempts
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
		return fmt.Sprintf("%d attempts begin at once", p.attempts())
	}
	return fmt.Sprintf("the next attempt begins each %v", h.Delay)
}

// longest says how long a call can take.
func (p Policy) longest() string {
	switch {
	case p.Timeout > 0:
		return fmt.Sprintf("%v (timeout), or the caller's deadline if that is earlier", p.Timeout)
	case p.AttemptTimeout > 0 && !p.hedges():
		sum := p.AttemptTimeout
		for n := 1; n < p.attempts(); n++ {
			_, most := p.Retry.Backoff.Bounds(n - 1)
			sum += most + p.AttemptTimeout
		}
		return fmt.Sprintf("%v (all attempts and waits, without pushback) of a call that has no deadline, and else until its deadline", sum)
	}
	return "as long as the caller's deadline"
}

// load says how much more a server sees if everything fails.
func (p Policy) load(b *Budget) string {
	if p.attempts() == 1 {
		return "that of the calls: there are no extra attempts"
	}
	var bounds []string
	switch {
	case p.Budget == "":
		bounds = append(bounds, "what each client has saved up in a second, 10 % of its calls and 3 attempts (the default budget, unless its code has another)")
	case b == nil:
		bounds = append(bounds, fmt.Sprintf("as the client's budget %q allows", p.Budget))
	case b.Ratio != nil:
		bounds = append(bounds, fmt.Sprintf("what each client has saved up in a second, %.4g %% of its calls and %.4g attempts (budget %q)", 100*b.Ratio.Ratio, b.Ratio.MinPerSecond, b.Name))
	case b.TokenBucket != nil:
		bounds = append(bounds, fmt.Sprintf("%.4g attempts per second more of each client (budget %q)", b.TokenBucket.PerSecond, b.Name))
	case b.Throttle != nil:
		bounds = append(bounds, fmt.Sprintf("%d times until %.4g attempts have failed, then no more (budget %q)", p.attempts(), math.Ceil(b.Throttle.MaxTokens/2), b.Name))
	case b.Concurrency != nil:
		bounds = append(bounds, fmt.Sprintf("%.4g %% of the attempts in flight, or %d of each client (budget %q)", 100*b.Concurrency.Share, b.Concurrency.Min, b.Name))
	}
	if h := p.Hedge; p.hedges() && h.MaxExtraLoad > 0 {
		bounds = append(bounds, fmt.Sprintf("hedges %.4g %% of it", 100*h.MaxExtraLoad))
	}
	return strings.Join(bounds, "; ")
}

// Bounds returns the shortest and the longest wait before retry n, where n is 0 for the
// first, in whole microseconds.
func (b Backoff) Bounds(n int) (least, most time.Duration) {
	low, high := 1.0, 1.0
	switch b.Jitter {
	case JitterNone:
	case JitterFull:
		low = 0
	case JitterEqual:
		low = 0.5
	case JitterProportional:
		low, high = 0.8, 1.2
	}
	b.Jitter = JitterNone
	d := float64(b.Delay(n, nil))
	return time.Duration(d * low).Round(time.Microsecond), time.Duration(d * high).Round(time.Microsecond)
}

// Budget returns the budget of the set that has this name, nil if it defines none.
func (s Set) Budget(name string) *Budget {
	for i := range s.Budgets {
		if s.Budgets[i].Name == name {
			return &s.Budgets[i]
		}
	}
	return nil
}
