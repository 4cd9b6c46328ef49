package rollout

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Verdict says what to do with a set that is tried out.
type Verdict int

const (
	// Stay at this step.
	Stay Verdict = iota
	// Advance to the next step, or give the set to all clients.
	Advance
	// Reject the set: no client should have it any more.
	Reject
)

// String returns the verdict in lower case.
func (v Verdict) String() string {
	switch v {
	case Stay:
		return "stay"
	case Advance:
		return "advance"
	case Reject:
		return "reject"
	default:
		return fmt.Sprintf("verdict %d", int(v))
	}
}

// Stratum holds what is compared: the calls of one method.
type Stratum struct {
	// Method that was called.
	Method string
	// Arms is what its calls did.
	Arms Arms
}

// State says how far a rollout is.
type State struct {
	// Step of the plan, from 0.
	Step int
	// Started is when the step began.
	Started time.Time
	// Now is the time of the decision.
	Now time.Time
	// Evidence of the whole rollout. Nil means none.
	Evidence *Evidence
	// InStep is what all calls did since the step began.
	InStep Arms
	// Seen is what the calls of each method did in the whole rollout. It is only used to say
	// why a set is rejected.
	Seen []Stratum
	// Refusing is how many clients of the canary have refused the set.
	Refusing int
}

// Decision is what [Plan.Decide] returns.
type Decision struct {
	// Verdict says what to do.
	Verdict Verdict
	// Step is the step to go to if the verdict is Advance. The number of the plan's steps
	// means that all clients get the set. With any other verdict it is the step of the
	// State.
	Step int
	// Reason says why, in words.
	Reason string
}

// Decide says what to do. The first of these rules that applies decides:
//
//   - a set is rejected as soon as the evidence reaches 1/alpha, at any time;
//   - it stays while a client of the canary refuses it;
//   - it stays until there are enough calls of the canary in this step, and calls of the rest
//     to compare them with: if nothing was seen, that is no reason to go on;
//   - it stays until the step has lasted for Bake;
//   - otherwise it advances.
//
// If the plan is invalid, or does not have the step, the set stays, and the reason says so.
func (p Plan) Decide(s State) Decision {
	if err := p.Validate(); err != nil {
		return Decision{Stay, s.Step, "the plan is invalid: " + err.Error()}
	}
	if s.Step < 0 || s.Step >= len(p.Steps) {
		return Decision{Stay, s.Step, fmt.Sprintf("the plan has no step %d", s.Step)}
	}
	p = p.WithDefaults()
	if s.Evidence != nil {
		failed, extra := s.Evidence.logs()
		if addLogs(failed, extra) >= -math.Log(p.Alpha) {
			return Decision{Reject, s.Step, p.harm(s, failed, extra)}
		}
	}
	if waits := p.waitsFor(s); len(waits) > 0 {
		return Decision{Stay, s.Step, strings.Join(waits, "; ")}
	}
	next := s.Step + 1
	to := "all clients"
	if next < len(p.Steps) {
		to = strconv.FormatFloat(100*p.Steps[next], 'g', 4, 64) + " % of the clients"
	}
	return Decision{Advance, next, fmt.Sprintf("no harm in %s calls: goes to %s", grouped(s.InStep.Canary.possible().Calls), to)}
}

// waitsFor returns in words what is missing for the next step.
func (p Plan) waitsFor(s State) (waits []string) {
	calls := s.InStep.Canary.possible().Calls
	switch {
	case s.Refusing == 1:
		waits = append(waits, "1 client of the canary refuses it")
	case s.Refusing > 1:
		waits = append(waits, grouped(int64(s.Refusing))+" clients of the canary refuse it")
	}
	switch {
	case calls == 0:
		waits = append(waits, "no client of the canary has reported a call")
	case calls < p.MinCalls:
		waits = append(waits, fmt.Sprintf("%s of %s calls", grouped(calls), grouped(p.MinCalls)))
	}
	if s.InStep.Rest.Calls <= 0 {
		waits = append(waits, "no client of the rest has reported a call to compare with")
	}
	if left := p.Bake - s.Now.Sub(s.Started); left > 0 {
		waits = append(waits, "bakes for another "+lasting(left))
	}
	return waits
}

// harm says in words why a set is rejected: the kind of harm that there is more evidence of, in
// the method that has most of it, or in all calls.
func (p Plan) harm(s State, failed, extra float64) string {
	kind := failedCalls
	if extra > failed {
		kind = extraAttempts
	}
	where, arms := s.worst(kind)
	text := fmt.Sprintf("%s%s: %s in the canary, %s in the rest", kind, where, kind.of(arms.Canary), kind.of(arms.Rest))
	if kind == extraAttempts {
		text += fmt.Sprintf(", %v per call are allowed", p.MaxExtra)
	}
	return fmt.Sprintf("%s; evidence 1:%s against their being alike (rejected from 1:%s)",
		text, rounded(addLogs(failed, extra)), rounded(-math.Log(p.Alpha)))
}

// worst returns the method in which a harm shows most, in words, and what its calls did. If it
// shows more in all calls together, or the method is not known, the words are empty.
func (s State) worst(kind harm) (where string, arms Arms) {
	var total Arms
	highest := math.Log(onAll) + s.Evidence.all.of(kind).log()
	for _, stratum := range s.Seen {
		total = total.Plus(stratum.Arms)
		for i := range s.Evidence.methods {
			m := &s.Evidence.methods[i]
			if log := math.Log((1-onAll)*onMethod(i)) + m.of(kind).log(); m.key == keyOf(stratum.Method) && log > highest {
				highest, where, arms = log, " of "+stratum.Method, stratum.Arms
			}
		}
	}
	if where == "" {
		arms = total
	}
	return where, arms
}

func (w *wagers) of(kind harm) *wager {
	if kind == extraAttempts {
		return &w.extra
	}
	return &w.failed
}

// harm is a kind of harm, in words.
type harm string

const (
	failedCalls   harm = "failed calls"
	extraAttempts harm = "extra attempts"
)

// of returns how many there are, in words: "61 of 1,203 (5.1 %)" or "61 of 1,203 calls (0.05 per call)".
func (h harm) of(c Counts) string {
	c = c.possible()
	calls := float64(max(1, c.Calls))
	if h == extraAttempts {
		return fmt.Sprintf("%s in %s calls (%.2g per call)", grouped(c.Extra), grouped(c.Calls), float64(c.Extra)/calls)
	}
	return fmt.Sprintf("%s of %s (%s)", grouped(c.Failed), grouped(c.Calls), percent(float64(c.Failed)/calls))
}

// percent returns a share with one decimal, more if it is small.
func percent(share float64) string {
	if share == 0 {
		return "0 %"
	}
	decimals := 1
	if share < 0.001 {
		decimals = 4
	}
	return strconv.FormatFloat(100*share, 'f', decimals, 64) + " %"
}

// rounded returns e to the power of log in words, to two digits.
func rounded(log float64) string {
	if log >= math.Log(1e9) {
		return fmt.Sprintf("10^%.0f", math.Floor(log/math.Ln10))
	}
	x := math.Exp(log)
	digit := math.Pow(10, math.Floor(math.Log10(x))-1)
	return grouped(int64(math.Round(math.Max(1, math.Round(x/digit)*digit))))
}

// lasting returns a duration to the second, or the minute if it is long.
func lasting(d time.Duration) string {
	if d > 2*time.Minute {
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return max(time.Second, d.Round(time.Second)).String()
}

// grouped returns a number with commas between thousands.
func grouped(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
