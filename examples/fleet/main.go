// Fleet simulates how long clients need to recover from an overload, with several
// retry budgets.
//
// A server works for one attempt after the other, also for those whose client has
// gone away. For ten seconds it has a fifth of its capacity. The clients make 2,000
// calls per second in all, of up to three attempts, and give an attempt up after three
// seconds. The first table says how many seconds after the cut 95 % of the calls succeed
// again, and go on doing so. The second one has no cut: attempts fail at random, or all
// do.
//
// What surprises people: what a budget allows per second, it allows every client.
//
// It is a simulation in virtual time, with rego's own budgets, backoff and
// classification. The same seed makes the same calls. Rego's budgets count per
// processor, which may change the last digit.
//
//	go run ./fleet
//	go run ./fleet -clients 1000 -loads 0.6 -budgets default -drops
//	go run ./fleet -loads 0.8 -plot fleet.svg
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

func main() {
	var st study
	var clients, loads, names, file string
	flags := flag.NewFlagSet("fleet", flag.ExitOnError)
	flags.StringVar(&clients, "clients", "1,100,1000", "sizes of the fleet")
	flags.StringVar(&loads, "loads", "0.6,0.8,0.9", "shares of the server's capacity that the calls need without retries")
	flags.StringVar(&names, "budgets", allNames(), "budgets of each client")
	flags.Float64Var(&st.cut, "cut", 0.2, "share of its capacity that the server has for ten seconds")
	flags.BoolVar(&st.drops, "drops", false, "the server drops attempts whose client has gone away")
	flags.DurationVar(&st.length, "length", 100*time.Second, "how long to wait for the recovery")
	flags.DurationVar(&st.ill, "ill", time.Minute, "how long attempts fail")
	flags.Uint64Var(&st.seed, "seed", 1, "of all random numbers")
	flags.StringVar(&file, "plot", "", "write a plot of the goodput to this file, .svg or .png; none if empty")
	_ = flags.Parse(os.Args[1:]) // it exits
	os.Args = os.Args[:1]
	inVirtualTime(func(t *testing.T) error {
		var err error
		if st.limits, err = choose(names); err != nil {
			return err
		}
		if st.clients, err = each(clients, strconv.Atoi); err != nil {
			return err
		}
		if st.loads, err = each(loads, func(s string) (float64, error) { return strconv.ParseFloat(s, 64) }); err != nil {
			return err
		}
		return st.report(t, os.Stdout, file)
	})
}

// inVirtualTime runs f as a test, since only tests have bubbles of virtual time. It
// does not return.
func inVirtualTime(f func(*testing.T) error) {
	all := func(string, string) (bool, error) { return true, nil }
	testing.Main(all, []testing.InternalTest{{Name: "fleet", F: func(t *testing.T) {
		if err := f(t); err != nil {
			fmt.Fprintln(os.Stderr, "fleet:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}}}, nil, nil)
}

func choose(names string) (chosen []limit, err error) {
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(limits, func(l limit) bool { return l.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no budget %q, there are %s", name, allNames())
		}
		chosen = append(chosen, limits[i])
	}
	return chosen, nil
}

func each[T any](list string, parse func(string) (T, error)) (all []T, err error) {
	for one := range strings.SplitSeq(list, ",") {
		v, err := parse(one)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// A study is what is compared.
type study struct {
	clients []int
	loads   []float64
	limits  []limit
	cut     float64
	drops   bool
	length  time.Duration // after the cut
	ill     time.Duration // how long attempts fail
	seed    uint64
}

// report prints the tables and draws the plot.
func (st study) report(t *testing.T, w io.Writer, file string) error {
	t.Helper()
	panels := st.measure(t)
	if err := st.recoveries(w, panels); err != nil {
		return err
	}
	if err := st.repairs(t, w); err != nil {
		return err
	}
	if file == "" {
		return nil
	}
	return drawPlot(panels, len(st.clients), file)
}

// A panel is a fleet under a load, with each of the budgets.
type panel struct {
	clients int
	load    float64
	lines   []line
}

type line struct {
	limit
	slots []slot
}

// measure runs all, by loads and then by fleets.
func (st study) measure(t *testing.T) (panels []panel) {
	t.Helper()
	for _, load := range st.loads {
		for _, clients := range st.clients {
			p := panel{clients: clients, load: load}
			for _, l := range st.limits {
				sc := overload(clients, load, st.length)
				sc.cut, sc.drops = st.cut, st.drops
				p.lines = append(p.lines, line{l, run(t, sc, l, st.seed)})
			}
			panels = append(panels, p)
		}
	}
	return panels
}

func (st study) recoveries(w io.Writer, panels []panel) error {
	fmt.Fprintf(w, "Seconds until 95 %% of calls succeed again, at a load of %s:\n\n", joined(st.loads, " / "))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "budget")
	for _, clients := range st.clients {
		fmt.Fprintf(tw, "\t%s", fleet(clients))
	}
	fmt.Fprintln(tw)
	for i, l := range st.limits {
		fmt.Fprint(tw, l.name)
		for j := range st.clients {
			var cells []string
			for k := range st.loads {
				cells = append(cells, seconds(recovery(panels[k*len(st.clients)+j].lines[i].slots)))
			}
			fmt.Fprintf(tw, "\t%s", strings.Join(cells, " / "))
		}
		fmt.Fprintln(tw)
	}
	fmt.Fprintln(tw)
	return tw.Flush()
}

func fleet(clients int) string {
	if clients == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", clients)
}

func seconds(d time.Duration, ok bool) string {
	if !ok {
		return "never"
	}
	return fmt.Sprintf("%.2f", d.Seconds())
}

// rates are calls per second of a client.
var rates = []float64{2, 20, 700}

func (st study) repairs(t *testing.T, w io.Writer) error {
	t.Helper()
	fmt.Fprintf(w, "Of up to four attempts, where each client makes %s calls per second:\n\n", joined(rates, " / "))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "budget\tcalls that succeed if 20 % of attempts fail\tattempts per call if all do for "+st.ill.String())
	for _, l := range st.limits {
		var succeed, attempts []string
		for _, rate := range rates {
			some, all := total(t, ill(rate, 0.2, st.ill), l, st.seed), total(t, ill(rate, 1, st.ill), l, st.seed)
			succeed = append(succeed, fmt.Sprintf("%.2f %%", 100*some.share()))
			attempts = append(attempts, fmt.Sprintf("%.3f", all.attemptsPerCall()))
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", l.name, strings.Join(succeed, " / "), strings.Join(attempts, " / "))
	}
	return tw.Flush()
}

func joined(numbers []float64, by string) string {
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = strconv.FormatFloat(n, 'g', -1, 64)
	}
	return strings.Join(texts, by)
}
