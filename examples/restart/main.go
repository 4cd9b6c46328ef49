// Restart measures what the restart of a server costs its clients: a real server process
// over loopback TCP is stopped and started again while clients call it.
//
// It runs the same load through a bare client, grpc's WaitForReady, the retry interceptor of
// go-grpc-middleware, and rego with its default policy, all at once and against the same
// process, and prints how many calls each lost. Calls take 10 ms and have a deadline of two
// seconds.
//
// What surprises people: an attempt that was not sent has not been executed, so rego waits
// for the connection whatever the method. What a hard stop costs is the calls in flight whose
// method is not idempotent: nobody knows whether they were done.
//
//	go run ./restart
//	go run ./restart -cases "stop, 1 s" -seconds 3
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
)

func main() {
	role := flag.String("serve", "", "serve at this address, and nothing else: how the program starts its server")
	names := flag.String("cases", allNames(), "cases to run, with semicolons between them")
	seconds := flag.Float64("seconds", 4, "how long calls go on once the server is back")
	flag.Parse()
	if *role != "" {
		if err := serve(*role); err != nil {
			fmt.Fprintln(os.Stderr, "restart: server:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(os.Stdout, *names, time.Duration(*seconds*float64(time.Second))); err != nil {
		fmt.Fprintln(os.Stderr, "restart:", err)
		os.Exit(1)
	}
}

// outage is one way in which a server goes away.
type outage struct {
	name     string
	graceful bool // it ends its calls first
	down     time.Duration
	rate     float64 // calls per second of each client
}

var outages = []outage{
	{"stop, 0.2 s", false, 200 * time.Millisecond, 200},
	{"stop, 1 s", false, time.Second, 200},
	{"graceful, 1 s", true, time.Second, 200},
	{"stop, 0.2 s, 20/s", false, 200 * time.Millisecond, 20},
	{"stop, 3 s", false, 3 * time.Second, 200},
	{"stop, 10 s", false, 10 * time.Second, 50},
}

func allNames() string {
	names := make([]string, len(outages))
	for i, o := range outages {
		names[i] = o.name
	}
	return strings.Join(names, ";")
}

// run measures the cases named, and prints a table of them.
func run(w io.Writer, names string, after time.Duration) error {
	var done []measured
	for name := range strings.SplitSeq(names, ";") {
		i := slices.IndexFunc(outages, func(o outage) bool { return o.name == name })
		if i < 0 {
			return fmt.Errorf("no case %q, there are %s", name, allNames())
		}
		m, err := measure(outages[i], after)
		if err != nil {
			return err
		}
		done = append(done, m)
	}
	return table(w, done)
}

// table has a row for each client, and a column for each outage.
func table(w io.Writer, done []measured) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	cell := func(format string, args ...any) { fmt.Fprintf(tw, "\t"+format, args...) }
	row := func(title string, value func(m measured, client int)) {
		fmt.Fprintf(tw, "%s", title)
		for _, m := range done {
			cell("%s", m.outage.name)
		}
		fmt.Fprintln(tw, "\t")
		for i, c := range clients {
			fmt.Fprint(tw, c.name)
			for _, m := range done {
				value(m, i)
			}
			fmt.Fprintln(tw, "\t")
		}
		fmt.Fprintln(tw)
	}
	row("failed calls", func(m measured, i int) { cell("%d of %d", m.counts[i].failed, m.counts[i].calls) })
	row("in flight at the stop", func(m measured, i int) { cell("%d", m.counts[i].inFlight) })
	row("most dials in a second", func(m measured, i int) { cell("%d", m.counts[i].mostDials) })
	row("a call takes to fail, later than 5.5 s", func(m measured, i int) {
		if d, ok := m.counts[i].lateFailure(); ok {
			cell("%.2f ms", float64(d)/float64(time.Millisecond))
			return
		}
		cell("-")
	})
	return tw.Flush()
}
