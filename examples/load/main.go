// Load measures what retry budgets do when a server does badly.
//
// It offers 700 calls per second, at random times that are the same in every
// run, to a server with room for 1,000: 8 workers of 8 ms per attempt. From
// second 3 to second 7 of a run the server does badly, in a way that the
// scenario says. Each scenario is run without retries, with retries that
// nothing limits, and with the budgets that rego has.
//
// What surprises people: without a budget, retries make a brownout worse. The
// server spends its time on turning them away.
//
//	go run ./load
//	go run ./load -short -scenarios outage,brownout -budgets default
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

	"github.com/rego-go/rego/internal/testsrv"
)

func main() {
	wanted := flag.String("scenarios", names(scenarios), "scenarios to run")
	limits := flag.String("budgets", names(budgets), "budgets to run them with; off always runs, as the others are compared with it")
	short := flag.Bool("short", false, "shorten what comes before and after the bad phase")
	flag.Parse()
	s := full
	if *short {
		s = shortened
	}
	if err := run(os.Stdout, s, *wanted, *limits); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

const legend = `calls, attempts/call, succeed: of the calls that start in the bad phase, %v to %v of %v
goodput: successful calls per second, of those that start from %v to %v
turned away: attempts for which the line was too long
denied: calls that the budget denied a retry
other errors: calls whose error is not what the server gave
late: the longest that a call started behind its time; tens of milliseconds are a busy machine, which blurs goodput
`

func run(w io.Writer, s shape, wanted, limits string) error {
	chosen, err := choose(scenarios, wanted)
	if err != nil {
		return err
	}
	with, err := choose(budgets, off.name+","+limits)
	if err != nil {
		return err
	}
	for _, sc := range chosen {
		if err := table(w, s, sc, with); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(w, legend, s.badFrom, s.badTo, s.length, s.badFrom, s.badTo+aftermath)
	return err
}

// table runs a scenario with each of the budgets, of which off is the first.
func table(w io.Writer, s shape, sc scenario, with []limit) error {
	fmt.Fprintf(w, "%s: %s\n\n", sc.name, sc.about)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "budget\tcalls\tattempts/call\tsucceed\tgoodput/s\tagainst off\tturned away\tdenied\tother errors\tlate\ttargets")
	baseline := 0.0
	for i, l := range with {
		r, err := measure(s, sc, l, testsrv.TCP(""))
		if err != nil {
			return err
		}
		if i == 0 {
			baseline = r.goodput
		}
		r.against = r.goodput/baseline - 1
		fmt.Fprintf(tw, "%s\t%d\t%.3f\t%.2f %%\t%.1f\t%+.1f %%\t%d\t%d\t%d\t%v\t%s\n", l.name, r.calls, r.attempts, 100*r.succeeded,
			r.goodput, 100*r.against, r.turnedAway, r.denied, r.otherErrors, r.late.Round(100*time.Microsecond), verdicts(sc, l, r))
	}
	fmt.Fprintln(tw)
	return tw.Flush()
}

func verdicts(sc scenario, l limit, r result) string {
	if l.name != byDefault.name {
		return ""
	}
	var texts []string
	for _, t := range sc.targets {
		verdict := "ok"
		if !t.met(r) {
			verdict = "MISSED"
		}
		texts = append(texts, t.text+": "+verdict)
	}
	return strings.Join(texts, ", ")
}

func names[T fmt.Stringer](all []T) string {
	var names []string
	for _, one := range all {
		names = append(names, one.String())
	}
	return strings.Join(names, ",")
}

// choose returns those of all that the list names, in their own order.
func choose[T fmt.Stringer](all []T, list string) (chosen []T, err error) {
	wanted := strings.Split(list, ",")
	for _, name := range wanted {
		if !slices.ContainsFunc(all, func(one T) bool { return one.String() == name }) {
			return nil, fmt.Errorf("no %q, there are %s", name, names(all))
		}
	}
	for _, one := range all {
		if slices.Contains(wanted, one.String()) {
			chosen = append(chosen, one)
		}
	}
	return chosen, nil
}
