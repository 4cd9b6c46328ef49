package debugpage

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/webpage"
)

// waterfallWidth is the width of a call's duration, in units of the drawing.
const waterfallWidth = 1000

// waterfall is a call drawn against time: a row for each attempt, for the commit of a stream
// and for each denial.
type waterfall struct {
	Title, Elapsed string
	OK             bool
	Rows           []waterfallRow
}

type waterfallRow struct {
	Label string
	Class string // attempt, commit or denial
	Bars  []bar
	Text  string
}

// bar is a part of a row.
type bar struct{ X, Width, Class string }

func waterfallOf(t *interceptor.Timeline) *waterfall {
	w := &waterfall{
		Title: fmt.Sprintf("%s after %s: %s", codeName(t.Code), webpage.Plural(len(t.Attempts), "attempt"), t.Reason),
		OK:    t.Code == codes.OK,
	}
	if !t.Untimed || len(t.Attempts) > 1 {
		w.Elapsed = webpage.Duration(t.Elapsed())
	}
	for i := range t.Attempts {
		w.Rows = append(w.Rows, attemptOf(t, &t.Attempts[i]))
	}
	if t.Committed != interceptor.CommitNone {
		w.Rows = append(w.Rows, waterfallRow{
			Label: "committed", Class: "commit", Bars: []bar{mark(t, t.CommittedAt, "commit")},
			Text: fmt.Sprintf("at %s: %s", webpage.Duration(t.CommittedAt.Sub(t.Start)), t.Committed),
		})
	}
	for _, d := range t.Denials {
		row := waterfallRow{
			Label: "no " + d.Kind.String(), Class: "denial", Bars: []bar{mark(t, d.Time, "denial")},
			Text: fmt.Sprintf("at %s: %s", webpage.Duration(d.Time.Sub(t.Start)), d.Reason),
		}
		if d.Wait > 0 {
			row.Text += fmt.Sprintf(", would have waited %s", webpage.Duration(d.Wait))
		}
		w.Rows = append(w.Rows, row)
	}
	return w
}

// attemptOf draws the wait before an attempt, what of it was a wait for a connection, and
// the rest by its result.
func attemptOf(t *interceptor.Timeline, a *interceptor.Attempt) waterfallRow {
	row := waterfallRow{Label: fmt.Sprintf("#%d %s", a.Number, a.Kind), Class: "attempt", Text: attemptText(t, a)}
	if a.Wait > 0 {
		row.Bars = append(row.Bars, between(t, a.Start.Add(-a.Wait), a.Start, "wait", 0))
	}
	sent := a.Start
	if a.Unreachable > 0 {
		sent = a.Start.Add(a.Unreachable)
		row.Bars = append(row.Bars, between(t, a.Start, sent, "unreachable", 0))
	}
	row.Bars = append(row.Bars, between(t, sent, a.End, a.Result.String(), 4))
	return row
}

func attemptText(t *interceptor.Timeline, a *interceptor.Attempt) string {
	var text []string
	add := func(format string, args ...any) { text = append(text, fmt.Sprintf(format, args...)) }
	if start := a.Start.Sub(t.Start); a.Number > 1 {
		add("from %s", webpage.Duration(start))
	}
	if t.Untimed && a.Number == 1 {
		add("%s, not timed", a.Result) // see Timeline.Untimed
	} else {
		add("%s after %s", a.Result, webpage.Duration(a.End.Sub(a.Start)))
	}
	if a.Result == interceptor.AttemptWon || a.Result == interceptor.AttemptFailed {
		add("%s, %s", codeName(a.Code), a.Delivery)
		if r := a.Outcome.Reason.String(); r != "" {
			add("%s: %s", a.Outcome.Class, r)
		}
	}
	if a.WaitedOn != interceptor.WaitNone {
		add("waited %s (%s)", webpage.Duration(a.Wait), a.WaitedOn)
	}
	if a.Unreachable > 0 {
		add("%s without a connection", webpage.Duration(a.Unreachable))
	}
	if a.Resumed {
		add("resumed")
	}
	if !a.CancelledAt.IsZero() {
		add("cancelled after %s", webpage.Duration(a.CancelledAt.Sub(a.Start)))
	}
	switch {
	case a.NoOtherBackend:
		add("to %s again, as there was no other backend", a.Backend)
	case a.Backend != "":
		add("to %s", a.Backend)
	case a.Peer != nil:
		add("to %s", a.Peer)
	}
	return strings.Join(text, ", ")
}

// place returns where a time is, within the call.
func place(t *interceptor.Timeline, at time.Time) float64 {
	total := t.Elapsed()
	if total <= 0 {
		return 0
	}
	return min(max(float64(at.Sub(t.Start))/float64(total)*waterfallWidth, 0), waterfallWidth)
}

// between is a bar of at least so many units.
func between(t *interceptor.Timeline, from, to time.Time, class string, least float64) bar {
	x, end := place(t, from), place(t, to)
	width := max(end-x, least)
	x = min(x, waterfallWidth-width)
	return bar{units(x), units(width), class}
}

func mark(t *interceptor.Timeline, at time.Time, class string) bar {
	return between(t, at, at, class, 5)
}

func units(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }
