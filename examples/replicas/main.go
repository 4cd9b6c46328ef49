// Replicas measures what becomes of a client's calls when one of three replicas is bad, with
// the load-balancing policies of grpc and with those of package spread.
//
// It offers 500 calls per second, at random times that are the same in every run, over loopback
// TCP to three servers. A call has two attempts: a hedge where the bad replica is slow, a retry
// where it fails. grpc's policies send one in three of the second attempts to the replica that
// the first is stuck at, or has failed at, and least request sends more than half of them
// there, since a replica that fails at once has the fewest requests.
//
// What surprises people: the default, pick_first, has one connection. Two thirds of the clients
// never meet the bad replica, and the last third meet nothing else. Here the bad one is the
// first.
//
//	go run ./replicas
//	go run ./replicas -scenarios fails -seconds 2
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
	seconds := flag.Int("seconds", 5, "how long each run is")
	flag.Parse()
	s := stage{time.Duration(*seconds) * time.Second, openloop.Precisely, []testsrv.Option{testsrv.TCP("")}}
	if err := run(os.Stdout, s, *names); err != nil {
		fmt.Fprintln(os.Stderr, "replicas:", err)
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

// run measures the scenarios named, and prints a table and a call of each.
func run(w io.Writer, s stage, names string) error {
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(scenarios, func(sc scenario) bool { return sc.name == name })
		if i < 0 {
			return fmt.Errorf("no scenario %q, there are %s", name, allNames())
		}
		if err := s.table(w, scenarios[i]); err != nil {
			return err
		}
	}
	_, err := fmt.Fprint(w, legend)
	return err
}

const legend = `attempts: per call
same replica: of the second attempts, those that went where the first had gone
`

func (s stage) table(w io.Writer, sc scenario) error {
	fmt.Fprintf(w, "%s: %s\n\n", sc.name, sc.about)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "load balancing\tcalls\tfailed\tabove 200 ms\tp50\tp99\tattempts\tsame replica\ttargets")
	var last result
	for _, b := range balancings {
		r, err := s.measure(sc, b)
		if err != nil {
			return err
		}
		fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\t%s\t%.2f\t%s\t%s\n", b.name, len(r.latencies), percent(r.failed), percent(r.slow()),
			millis(r.quantile(0.5)), millis(r.quantile(0.99)), r.attempts, percent(r.same), sc.verdicts(b, r))
		last = r
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n\n", last.example)
	return err
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }
