// Hedging measures what hedging does for the slowest calls, and what it costs.
//
// It offers 1,000 calls per second, at random times that are the same in every
// run, over loopback TCP to a server whose latency has a heavy tail, once without
// and once with hedging. Latency counts from when a call was to start, so that a
// client which falls behind shows it. Each scenario says how the server answers,
// and what one number, MaxExtraLoad, its calls are hedged with.
//
// What surprises people: the extra load is stated, not measured afterwards, and
// where the tail is heavy two percent of it are enough.
//
//	go run ./hedging
//	go run ./hedging -scenarios lognormal -seconds 5
//	go run ./hedging -plot hedging.svg
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rego-go/rego/examples/internal/openloop"
	"github.com/rego-go/rego/internal/testsrv"
)

func main() {
	names := flag.String("scenarios", allNames(), "scenarios to run")
	seconds := flag.Int("seconds", 21, "how long each run is measured, after ten seconds of warm-up, which count in cold scenarios")
	file := flag.String("plot", "", "write a plot of all runs to this file, .svg or .png; none if empty")
	flag.Parse()
	s := stage{warmUp, time.Duration(*seconds) * time.Second, openloop.Precisely, []testsrv.Option{testsrv.TCP("")}}
	if err := run(os.Stdout, s, *names, *file); err != nil {
		fmt.Fprintln(os.Stderr, "hedging:", err)
		os.Exit(1)
	}
}

func allNames() string {
	names := make([]string, len(scenarios))
	for i, sc := range scenarios {
		names[i] = sc.name
	}
	return strings.Join(names, ",")
}

// run measures the scenarios named, prints a table and draws the plot.
func run(w io.Writer, s stage, names, file string) error {
	var done []comparison
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(scenarios, func(sc scenario) bool { return sc.name == name })
		if i < 0 {
			return fmt.Errorf("no scenario %q, there are %s", name, allNames())
		}
		c, err := s.compare(scenarios[i])
		if err != nil {
			return err
		}
		done = append(done, c)
	}
	if err := table(w, done); err != nil {
		return err
	}
	if file == "" {
		return nil
	}
	return drawPlot(done, file)
}

// A comparison is the same load on the same server without and with hedging.
type comparison struct {
	scenario
	without, with result
}

func (s stage) compare(sc scenario) (c comparison, err error) {
	c.scenario = sc
	if c.without, err = s.measure(sc, false); err != nil {
		return c, err
	}
	c.with, err = s.measure(sc, true)
	return c, err
}

func table(w io.Writer, done []comparison) error {
	for _, c := range done {
		fmt.Fprintf(w, "%s: %s\n", c.name, c.about)
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "scenario\tMaxExtraLoad\tcalls\tp50\tp95\tp99\tp99.9\textra attempts\tmost in 10 s\ttargets")
	for _, c := range done {
		for _, r := range []result{c.without, c.with} {
			load, targets := "no hedging", ""
			if r.hedged {
				load, targets = percent(c.maxExtraLoad), c.verdicts(r)
			}
			fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.name, load, len(r.latencies),
				millis(r.quantile(0.5)), millis(r.quantile(0.95)), millis(r.quantile(0.99)), millis(r.quantile(0.999)),
				percent(r.extra), percent(r.mostExtra), targets)
		}
	}
	return tw.Flush()
}

func percent(share float64) string { return fmt.Sprintf("%.2f %%", 100*share) }

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }
