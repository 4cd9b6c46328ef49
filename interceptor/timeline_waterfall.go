package interceptor

import (
	"fmt"
	"strings"
	"time"
)

// waterfallWidth is the number of columns that the call's duration is drawn on.
const waterfallWidth = 32

// String draws the call as a waterfall: a line for the call, one per attempt with a bar
// where it ran, one for the commit of a stream, and one per denial. If nothing was recorded,
// it says what the cause may be.
func (t *Timeline) String() string {
	if t == nil {
		return "<nil>"
	}
	if t.empty() {
		return "nothing recorded: the call has not ended, or it was not made through an interceptor (Interceptor.DialOptions), or its options were refused"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s after %s in %s (%s)", t.Method, t.Code, plural(len(t.Attempts), "attempt"), round(t.Elapsed()), t.Reason)
	if t.Untimed {
		b.WriteString(", counted from the end of its first attempt")
	}
	if t.Policy != "" {
		fmt.Fprintf(&b, ", policy %q", t.Policy)
		if t.PolicyVersion != "" {
			fmt.Fprintf(&b, " version %q", t.PolicyVersion)
		}
	}
	b.WriteByte('\n')
	for i := range t.Attempts {
		a := &t.Attempts[i]
		fmt.Fprintf(&b, "  %-11s |%s| %8s +%-8s %s\n",
			a.label(), t.bar(a), round(a.Start.Sub(t.Start)), round(a.End.Sub(a.Start)), a.explain())
	}
	if t.Committed != CommitNone {
		fmt.Fprintf(&b, "  %-11s |%s| %8s  committed: %s\n", "", strings.Repeat(" ", waterfallWidth), round(t.CommittedAt.Sub(t.Start)), t.Committed)
	}
	for _, d := range t.Denials {
		fmt.Fprintf(&b, "  %-11s |%s| %8s  %s\n", "", strings.Repeat(" ", waterfallWidth), round(d.Time.Sub(t.Start)), d.explain())
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// bar draws the wait before the attempt as dots, the attempt as hashes, and as tildes what of
// it was a wait for a connection.
func (t *Timeline) bar(a *Attempt) string {
	from, to := t.column(a.Start), t.column(a.End)
	to = min(max(to, from+1), waterfallWidth)
	from = min(from, to-1)
	waits := min(t.column(a.Start.Add(-a.Wait)), from)
	sent := from
	if a.Unreachable > 0 {
		sent = min(max(t.column(a.Start.Add(a.Unreachable)), from), to)
	}
	return strings.Repeat(" ", waits) + strings.Repeat(".", from-waits) +
		strings.Repeat("~", sent-from) + strings.Repeat("#", to-sent) + strings.Repeat(" ", waterfallWidth-to)
}

func (t *Timeline) column(at time.Time) int {
	total := t.Elapsed()
	if total <= 0 {
		return 0
	}
	return min(max(int(float64(at.Sub(t.Start))/float64(total)*waterfallWidth), 0), waterfallWidth)
}

func (a *Attempt) label() string { return fmt.Sprintf("#%d %s", a.Number, a.Kind) }

func (a *Attempt) explain() string {
	parts := []string{a.Code.String(), a.Delivery.String()}
	verdict := a.Outcome.Class.String()
	if r := a.Outcome.Reason.String(); r != "" {
		verdict += ": " + r
	}
	parts = append(parts, verdict)
	switch {
	case a.NoOtherBackend:
		parts = append(parts, "to "+a.Backend+" again: no other backend")
	case a.Backend != "":
		parts = append(parts, "to "+a.Backend)
	}
	if a.WaitedOn != WaitNone {
		parts = append(parts, fmt.Sprintf("waited %s (%s)", round(a.Wait), a.WaitedOn))
	}
	if a.Unreachable > 0 {
		parts = append(parts, fmt.Sprintf("%s without a connection", round(a.Unreachable)))
	}
	if a.Resumed {
		parts = append(parts, "resumed")
	}
	if !a.CancelledAt.IsZero() {
		parts = append(parts, fmt.Sprintf("cancelled after %s", round(a.CancelledAt.Sub(a.Start))))
	}
	if a.Result == AttemptLost {
		parts = append(parts, fmt.Sprintf("%s of work lost", round(a.Wasted())))
	}
	return strings.Join(parts, ", ")
}

func (d *Denial) explain() string {
	text := fmt.Sprintf("no %s: %s", d.Kind, d.Reason)
	if d.Wait > 0 {
		text += fmt.Sprintf(" (wait %s)", round(d.Wait))
	}
	return text
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// round keeps three or so digits.
func round(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= 10*time.Millisecond:
		return d.Round(100 * time.Microsecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}
