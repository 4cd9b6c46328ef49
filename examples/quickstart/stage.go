package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"text/tabwriter"

	"github.com/rego-go/rego/interceptor"
)

// stage is what the scenes share: where they print, and the rows of the table.
type stage struct {
	out    io.Writer
	spans  interceptor.Observer // nil if nothing is exported
	phases []*phase
}

func (s *stage) title(text string) { s.say("\n== " + text + "\n") }

// say prints a line. Whether the last one, the table, can be printed is checked.
func (s *stage) say(args ...any) { _, _ = fmt.Fprintln(s.out, args...) }

// phase adds a row to the table.
func (s *stage) phase(name string) *phase {
	p := &phase{name: name}
	s.phases = append(s.phases, p)
	return p
}

func (s *stage) table() error {
	s.title("What it cost")
	var rows strings.Builder
	fmt.Fprintln(&rows, "phase\tcalls\tattempts\tamplification\tdenied by budget")
	for _, p := range s.phases {
		fmt.Fprintf(&rows, "%s\t%d\t%d\t%.2f\t%d\n",
			p.name, p.calls.Load(), p.attempts.Load(), p.amplification(), p.denied.Load())
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 3, ' ', 0)
	if _, err := io.WriteString(w, rows.String()); err != nil {
		return err
	}
	return w.Flush()
}

// phase counts calls as their interceptor's observer. The end of a call has it
// all: its timeline is complete.
type phase struct {
	name string

	calls, attempts, denied atomic.Int64
}

// Start implements [interceptor.Observer].
func (p *phase) Start(ctx context.Context, _ *interceptor.Event) context.Context { return ctx }

// Observe implements [interceptor.Observer].
func (p *phase) Observe(_ context.Context, e *interceptor.Event) {
	if e.Kind != interceptor.CallEnd {
		return
	}
	p.calls.Add(1)
	p.attempts.Add(int64(len(e.Timeline.Attempts)))
	if e.Timeline.Reason == interceptor.EndBudgetDenied {
		p.denied.Add(1)
	}
}

// amplification is how many attempts a call makes on average.
func (p *phase) amplification() float64 {
	return float64(p.attempts.Load()) / float64(p.calls.Load())
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
