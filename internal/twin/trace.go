package twin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// trace is what was observed in one run: on each track, which is a goroutine of the
// application, an attempt at the server or something else that has an order of its own.
type trace struct {
	began time.Time

	mu     sync.Mutex
	tracks map[string]lines
}

// line is one observation.
type line struct {
	at   time.Duration
	what string // that was done
	saw  string
}

type lines []line

// finishedOnce leaves out all but the last time that OnFinish was called, and when that
// was.
func (ls lines) finishedOnce() lines {
	var rest lines
	for i, l := range ls {
		if l.what == "finish" {
			if slices.ContainsFunc(ls[i+1:], func(l line) bool { return l.what == "finish" }) {
				continue
			}
			l.at = 0
		}
		rest = append(rest, l)
	}
	return rest
}

// withoutRepeatedFinish leaves out that OnFinish was called again at once, with the same
// error: grpc up to v1.83 does that for a call for which no attempt could be created.
func (ls lines) withoutRepeatedFinish() lines {
	var rest lines
	for i, l := range ls {
		if l.what != "finish" || i == 0 || l != ls[i-1] {
			rest = append(rest, l)
		}
	}
	return rest
}

// withoutReplyOfFailures leaves out what is in the reply of a call that failed.
func (ls lines) withoutReplyOfFailures() lines {
	failed := slices.ContainsFunc(ls, func(l line) bool { return l.what == "invoke" && l.saw != "nil" || l.what == "panic" })
	if !failed {
		return ls
	}
	return ls.without("reply")
}

// inAnyOrder puts what happened in one instant into the order of its text: of two goroutines
// none is first then.
func (ls lines) inAnyOrder() lines {
	ls = slices.Clone(ls)
	slices.SortStableFunc(ls, func(a, b line) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.what, b.what), cmp.Compare(a.saw, b.saw))
	})
	return ls
}

// without leaves out lines by what was done.
func (ls lines) without(what ...string) lines {
	return slices.DeleteFunc(slices.Clone(ls), func(l line) bool { return slices.Contains(what, l.what) })
}

// received is what of it came from the server, in any order if two goroutines were told.
func (ls lines) received(sorted bool) (saw []string) {
	for _, l := range ls {
		switch l.what {
		case "send", "close send", "context", "peer": // of how many connections there were
		default:
			saw = append(saw, l.what+" "+l.saw)
		}
	}
	if sorted {
		slices.Sort(saw)
	}
	return saw
}

func newTrace() *trace { return &trace{began: time.Now(), tracks: make(map[string]lines)} }

func (t *trace) now() time.Duration { return time.Since(t.began) }

func (t *trace) add(track, what, saw string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tracks[track] = append(t.tracks[track], line{t.now(), what, saw})
}

func (l line) String() string { return fmt.Sprintf("%12v  %-12s %s", l.at, l.what, l.saw) }

// text is the whole of a trace.
func (t *trace) text() string {
	var b strings.Builder
	for _, name := range t.names() {
		fmt.Fprintf(&b, "%s\n", name)
		for _, l := range t.tracks[name] {
			fmt.Fprintf(&b, "  %v\n", l)
		}
	}
	return b.String()
}

func (t *trace) names() []string {
	var names []string
	for name := range t.tracks {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// showError tells of an error all that an application can ask it.
func showError(err error) string {
	if err == nil {
		return "nil"
	}
	if err == io.EOF { //nolint:errorlint // whether it is io.EOF itself is the point
		return "EOF"
	}
	st, ok := status.FromError(err)
	var b strings.Builder
	fmt.Fprintf(&b, "%q %v", err, st.Code())
	if !ok {
		b.WriteString(" no-status")
	}
	if n := len(st.Details()); n > 0 {
		fmt.Fprintf(&b, " %d details", n)
	}
	for _, is := range []error{context.Canceled, context.DeadlineExceeded, io.EOF, errOfMeddler} {
		if errors.Is(err, is) {
			fmt.Fprintf(&b, " is(%v)", is)
		}
	}
	return b.String()
}

func showMD(md metadata.MD) string {
	if md == nil {
		return "nil"
	}
	var fields []string
	for k, vs := range md {
		fields = append(fields, fmt.Sprintf("%s=%q", k, vs))
	}
	slices.Sort(fields)
	return "{" + strings.Join(fields, " ") + "}"
}
