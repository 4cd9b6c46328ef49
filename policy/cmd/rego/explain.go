package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/policy"
)

// explain prints the policy of a method, where each field of it is from, and what it
// leads to.
func (c command) explain() int {
	path, method := c.args[0], c.args[1]
	set, _, err := c.read(path)
	if err != nil {
		return c.tell(path, err)
	}
	table, err := set.Compile()
	if err != nil {
		return c.tell(path, err)
	}
	e := explanation{set: set, method: method, effective: policy.Default()}
	if err := e.cover(table); err != nil {
		fmt.Fprintln(c.stderr, "rego:", err)
		return exitUsage
	}
	if p := table.Lookup(method); p != nil {
		e.effective = *p
	}
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	for _, line := range slices.Concat(e.head(), e.fields(), e.schedule(), e.worst()) {
		fmt.Fprintln(w, line)
	}
	if err := w.Flush(); err != nil {
		return c.tell(path, err)
	}
	return exitOK
}

// explanation is what there is to say of a method.
type explanation struct {
	set       policy.Set
	method    string
	rule      int           // that covers it, -1 if none does
	selector  string        // by which
	written   policy.Policy // of the rule, as it was written
	effective policy.Policy // with its defaults
}

// cover finds the rule of the method.
func (e *explanation) cover(table *policy.Table) error {
	i := strings.LastIndexByte(e.method, '/')
	if i < 2 || e.method[0] != '/' || i == len(e.method)-1 {
		return fmt.Errorf("%q is no method, which is /pkg.Service/Method", e.method)
	}
	e.rule, e.selector = table.Rule(e.method)
	if e.rule >= 0 {
		e.written = e.set.Rules[e.rule].Policy
	}
	return nil
}

func (e *explanation) head() []string {
	from := "no rule covers it: it has the policy of its proto file if that has one, and else the default, which is shown"
	if e.rule >= 0 {
		from = fmt.Sprintf("covered by rules[%d], as %q", e.rule, e.selector)
	}
	return []string{e.method, from, ""}
}

// fields is a table of the fields with their values and where these are from.
func (e *explanation) fields() []string {
	rows := []string{"field\tvalue\tfrom"}
	for _, f := range e.written.Fields() {
		from := "default"
		if f.Written {
			from = fmt.Sprintf("rules[%d]", e.rule)
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s", f.Name, f.Value, from))
	}
	if e.set.RetriesOff {
		rows = append(rows, "retries_off\ttrue\tthe set, for every call")
	}
	if e.set.HedgesOff {
		rows = append(rows, "hedges_off\ttrue\tthe set, for every call")
	}
	return append(rows, "")
}

func (e *explanation) retries() bool { return !e.effective.Retry.Off && !e.set.RetriesOff }

func (e *explanation) hedges() bool {
	return e.effective.Hedge.Asked() && !e.effective.Hedge.Off && !e.set.HedgesOff
}

// attempts is the most that a call makes.
func (e *explanation) attempts() int {
	if !e.retries() && !e.hedges() {
		return 1
	}
	return min(e.effective.Retry.MaxAttempts, interceptor.DefaultMaxAttempts)
}

// schedule says when attempts begin.
func (e *explanation) schedule() []string {
	lines := []string{"attempts"}
	if n := e.effective.Retry.MaxAttempts; n > interceptor.DefaultMaxAttempts && e.attempts() > 1 {
		lines = append(lines, fmt.Sprintf("  a client makes %d at most, and not %d, unless its code says otherwise (WithMaxAttempts)", interceptor.DefaultMaxAttempts, n))
	}
	if e.hedges() {
		lines = append(lines, "  hedged, if the method is known to be idempotent: "+e.hedgeDelay())
	}
	lines = append(lines, "  1\tat once")
	for n := 1; n < e.attempts() && e.retries(); n++ {
		least, most := jittered(e.effective.Retry.Backoff, n-1)
		wait := fmt.Sprintf("%v to %v", least, most)
		switch {
		case most == 0:
			wait = "at once"
		case least == most:
			wait = most.String()
		}
		lines = append(lines, fmt.Sprintf("  %d\t%s after number %d has failed", n+1, wait, n))
	}
	if e.retries() && e.attempts() > 1 {
		lines = append(lines, "  the server's pushback takes the place of these waits; of an overloaded server they begin with 1s")
	}
	return append(lines, "")
}

func (e *explanation) hedgeDelay() string {
	h := e.effective.Hedge
	switch {
	case h.Trigger != "":
		return fmt.Sprintf("the next attempt begins when the client's trigger %q says so", h.Trigger)
	case h.MaxExtraLoad > 0:
		return fmt.Sprintf("the next attempt begins when one takes longer than all but %.4g %% lately, after %v at least", 100*h.MaxExtraLoad, h.MinDelay)
	case h.Percentile > 0:
		return fmt.Sprintf("the next attempt begins when one takes longer than %.4g %% lately, after %v at least", 100*h.Percentile, h.MinDelay)
	case h.Delay == policy.NoWait:
		return fmt.Sprintf("%d attempts begin at once", e.attempts())
	}
	return fmt.Sprintf("the next attempt begins each %v", h.Delay)
}

// jittered returns the bounds of the wait before retry n, 0 for the first.
func jittered(b policy.Backoff, n int) (least, most time.Duration) {
	low, high := 1.0, 1.0
	switch b.Jitter {
	case policy.JitterNone:
	case policy.JitterFull:
		low = 0
	case policy.JitterEqual:
		low = 0.5
	case policy.JitterProportional:
		low, high = 0.8, 1.2
	}
	b.Jitter = policy.JitterNone
	d := float64(b.Delay(n, nil))
	return time.Duration(d * low).Round(time.Microsecond), time.Duration(d * high).Round(time.Microsecond)
}

// worst says what a call can come to.
func (e *explanation) worst() []string {
	p := e.effective
	time := "as long as the caller's deadline"
	switch {
	case p.Timeout > 0:
		time = fmt.Sprintf("%v (timeout), or the caller's deadline if that is earlier", p.Timeout)
	case p.AttemptTimeout > 0 && !e.hedges():
		sum := p.AttemptTimeout
		for n := 1; n < e.attempts(); n++ {
			_, most := jittered(p.Retry.Backoff, n-1)
			sum += most + p.AttemptTimeout
		}
		time = fmt.Sprintf("%v (all attempts and waits, without pushback) of a call that has no deadline, and else until its deadline", sum)
	}
	return []string{
		"worst case",
		fmt.Sprintf("  attempts\t%d per call", e.attempts()),
		"  time\t" + time,
		"  load\t" + e.load(),
	}
}

// load says how much more a server sees if everything fails.
func (e *explanation) load() string {
	if e.attempts() == 1 {
		return "that of the calls: there are no extra attempts"
	}
	var bounds []string
	switch b := e.budget(); {
	case e.effective.Budget == "":
		bounds = append(bounds, "what each client has saved up in a second, 10 % of its calls and 3 attempts (the default budget, unless its code has another)")
	case b == nil:
		bounds = append(bounds, fmt.Sprintf("as the client's budget %q allows", e.effective.Budget))
	case b.Ratio != nil:
		bounds = append(bounds, fmt.Sprintf("what each client has saved up in a second, %.4g %% of its calls and %.4g attempts (budget %q)", 100*b.Ratio.Ratio, b.Ratio.MinPerSecond, b.Name))
	case b.TokenBucket != nil:
		bounds = append(bounds, fmt.Sprintf("%.4g attempts per second more of each client (budget %q)", b.TokenBucket.PerSecond, b.Name))
	case b.Throttle != nil:
		bounds = append(bounds, fmt.Sprintf("%d times until %.4g attempts have failed, then no more (budget %q)", e.attempts(), math.Ceil(b.Throttle.MaxTokens/2), b.Name))
	case b.Concurrency != nil:
		bounds = append(bounds, fmt.Sprintf("%.4g %% of the attempts in flight, or %d of each client (budget %q)", 100*b.Concurrency.Share, b.Concurrency.Min, b.Name))
	}
	if h := e.effective.Hedge; e.hedges() && h.MaxExtraLoad > 0 {
		bounds = append(bounds, fmt.Sprintf("hedges %.4g %% of it", 100*h.MaxExtraLoad))
	}
	return strings.Join(bounds, "; ")
}

// budget returns the budget of the set that the policy names, nil if that is in code.
func (e *explanation) budget() *policy.Budget {
	for i := range e.set.Budgets {
		if e.set.Budgets[i].Name == e.effective.Budget {
			return &e.set.Budgets[i]
		}
	}
	return nil
}
