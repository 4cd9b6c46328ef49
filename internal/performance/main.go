// Performance runs benchmarks and prints the table of docs/performance.md: for each path of a
// call the median over all rounds, beside a call without rego of the same rounds. It is run in
// the root of the module, by `make performance`.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// row is a path of a call, and the benchmarks that measure it.
type row struct {
	path      string
	benchmark string // package and name, without "Benchmark"
	bare      string // what it is held against, likewise; empty if it stands alone
	times     bool   // it is told as a multiple of bare, and not as what comes on top
}

// rows is in the order of the table.
var rows = []row{
	{"unary call, retries and budget armed, the first attempt succeeds", "interceptor.FirstAttemptSucceeds", "interceptor.Bare", false},
	{"the same, of 10,000 rules that change ten times a second", "interceptor.DynamicPolicy/changing=true", "interceptor.Bare", false},
	{"the same, with a policy that the call brings", "interceptor.OwnPolicy", "interceptor.Bare", false},
	{"hedging armed, not fired", "interceptor.HedgingArmed/background", "interceptor.Bare", false},
	{"the same, with a context that can be cancelled", "interceptor.HedgingArmed/cancellable", "interceptor.Bare", false},
	{"two failures, then success, without backoff", "interceptor.TwoFailuresThenSuccess", "interceptor.Bare", false},
	{"spans on, not sampled", "otelobs.Unsampled", "otelobs.NoObserver", false},
	{"spans on, sampled", "otelobs.Sampled", "otelobs.NoObserver", false},
	{"metrics with durations on", "otelobs.Metrics", "otelobs.NoObserver", false},
	{"unary call over a connection in memory, retries armed", "interceptor.ConnUnary/retries", "interceptor.ConnUnary/bare", true},
	{"the same, hedging armed", "interceptor.ConnUnary/hedging", "interceptor.ConnUnary/bare", true},
	{"server stream of one message over it, retries armed", "interceptor.ConnWatch/1/retries", "interceptor.ConnWatch/1/bare", true},
	{"the same, hedging armed", "interceptor.ConnWatch/1/hedging", "interceptor.ConnWatch/1/bare", true},
	{"server stream of a hundred messages, retries armed", "interceptor.ConnWatch/100/retries", "interceptor.ConnWatch/100/bare", true},
	{"a message sent after the stream is committed", "interceptor.StreamMessage/committed/send", "interceptor.StreamMessage/bare/send", false},
	{"a message received after that", "interceptor.StreamMessage/committed/receive", "interceptor.StreamMessage/bare/receive", false},
	{"budget: a success is counted", "budget.RatioDeposit", "", false},
	{"budget: a retry is granted, and given back by its success", "budget.RatioGrantAndRefund", "", false},
	{"budget: a retry is denied", "budget.RatioDenial", "", false},
	{"latency of an attempt recorded", "hedge.Record", "", false},
	{"lookup of a method among 10,000 rules", "policy.Lookup10000/exact", "", false},
	{"10,000 rules parsed and validated: YAML", "policy/file.Parse10000/yaml", "", false},
	{"the same: JSON", "policy/file.Parse10000/json", "", false},
	{"the same: binary", "policy/file.Parse10000/binary", "", false},
}

// rounds is how often all benchmarks run, one after the other, so that a bad minute of the
// machine does not fall on one of them alone.
const rounds = 5

// mostCPUs is the highest number of processors that all benchmarks run on.
const mostCPUs = 2

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	out, err := measure()
	if err != nil {
		return err
	}
	runs, err := read(out)
	if err != nil {
		return err
	}
	text, missing := table(runs)
	fmt.Print(text)
	if len(missing) > 0 {
		return fmt.Errorf("not measured: %s", strings.Join(missing, ", "))
	}
	return nil
}

// measure runs what rows name, and returns what `go test -bench` prints.
func measure() (io.Reader, error) {
	dir, err := os.MkdirTemp("", "performance")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // of the temporary folder
	packages, pattern := benchmarks()
	build := exec.Command("go", "test", "-c", "-o", dir) //nolint:gosec // packages of this table
	for _, p := range packages {
		build.Args = append(build.Args, "./"+p)
	}
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for range rounds {
		for _, p := range packages {
			for cpus := 1; cpus <= mostCPUs; cpus++ {
				test := exec.Command(filepath.Join(dir, path.Base(p)+".test"), "-test.run", "^$", "-test.bench", pattern, //nolint:gosec // as above
					"-test.benchmem", "-test.benchtime", "0.3s", "-test.cpu", strconv.Itoa(cpus))
				test.Dir = p
				test.Stdout, test.Stderr = io.MultiWriter(&out, os.Stderr), os.Stderr
				if err := test.Run(); err != nil {
					return nil, fmt.Errorf("%s: %w", p, err)
				}
			}
		}
	}
	return &out, nil
}

// benchmarks returns the packages and the benchmarks that rows name.
func benchmarks() (packages []string, pattern string) {
	var names []string
	for _, r := range rows {
		for _, name := range []string{r.benchmark, r.bare} {
			if p, function := split(name); name != "" {
				packages, names = append(packages, p), append(names, regexp.QuoteMeta(function))
			}
		}
	}
	slices.Sort(packages)
	slices.Sort(names)
	return slices.Compact(packages), "^Benchmark(" + strings.Join(slices.Compact(names), "|") + ")$"
}

// split returns the package of a benchmark and the name of its function.
func split(benchmark string) (pkg, function string) {
	pkg, name, _ := strings.Cut(benchmark, ".")
	function, _, _ = strings.Cut(name, "/")
	return pkg, function
}

// figures are what the runs of one benchmark with so many processors have measured.
type figures struct{ nanoseconds, allocs []float64 }

// key is a benchmark and how many processors it ran on.
type key struct {
	benchmark string
	cpus      int
}

var (
	line   = regexp.MustCompile(`^Benchmark(\S+?)(?:-(\d+))?\s+\d+\s+([0-9.]+) ns/op`)
	allocs = regexp.MustCompile(`([0-9]+) allocs/op`)
)

// read takes in what `go test -bench` prints of any number of packages.
func read(r io.Reader) (map[key]*figures, error) {
	runs := make(map[key]*figures)
	pkg := ""
	in := bufio.NewScanner(r)
	for in.Scan() {
		if name, ok := strings.CutPrefix(in.Text(), "pkg: github.com/rego-go/rego/"); ok {
			pkg = name
			continue
		}
		m := line.FindStringSubmatch(in.Text())
		if m == nil {
			continue
		}
		k := key{pkg + "." + m[1], 1}
		if m[2] != "" {
			k.cpus, _ = strconv.Atoi(m[2])
		}
		f := runs[k]
		if f == nil {
			f = new(figures)
			runs[k] = f
		}
		ns, _ := strconv.ParseFloat(m[3], 64)
		f.nanoseconds = append(f.nanoseconds, ns)
		if a := allocs.FindStringSubmatch(in.Text()); a != nil {
			n, _ := strconv.ParseFloat(a[1], 64)
			f.allocs = append(f.allocs, n)
		}
	}
	return runs, in.Err()
}

// table returns the table, and the benchmarks that it lacks, with how many processors.
func table(runs map[key]*figures) (text string, missing []string) {
	var b strings.Builder
	b.WriteString("| path | one goroutine | two goroutines | allocations |\n|---|---|---|---|\n")
	for _, r := range rows {
		for cpus := 1; cpus <= mostCPUs; cpus++ {
			if runs[key{r.benchmark, cpus}] == nil || r.bare != "" && runs[key{r.bare, cpus}] == nil {
				missing = append(missing, fmt.Sprintf("%s on %d", r.benchmark, cpus))
			}
		}
		if runs[key{r.benchmark, 1}] == nil || r.bare != "" && runs[key{r.bare, 1}] == nil {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.path, r.cost(runs, 1), r.cost(runs, 2), r.allocations(runs))
	}
	return b.String(), missing
}

// cost is what the path takes: on top of bare, as a multiple of it, or alone.
func (r row) cost(runs map[key]*figures, cpus int) string {
	of, bare := runs[key{r.benchmark, cpus}], runs[key{r.bare, cpus}]
	switch {
	case of == nil:
		return ""
	case r.bare == "":
		return duration(median(of.nanoseconds))
	case bare == nil:
		return ""
	case r.times:
		return fmt.Sprintf("× %.2f", median(of.nanoseconds)/median(bare.nanoseconds))
	}
	more := median(of.nanoseconds) - median(bare.nanoseconds)
	if more < 0 {
		return "− " + duration(-more)
	}
	return "+ " + duration(more)
}

// allocations are those on top of bare.
func (r row) allocations(runs map[key]*figures) string {
	of, bare := runs[key{r.benchmark, 1}], runs[key{r.bare, 1}]
	if len(of.allocs) == 0 {
		return ""
	}
	if bare == nil {
		return fmt.Sprintf("%.0f", median(of.allocs))
	}
	return fmt.Sprintf("+ %.0f", median(of.allocs)-median(bare.allocs))
}

func duration(ns float64) string {
	switch {
	case ns >= 1e6:
		return fmt.Sprintf("%.0f ms", ns/1e6)
	case ns >= 1e3:
		return fmt.Sprintf("%.2f µs", ns/1e3)
	case ns >= 10:
		return fmt.Sprintf("%.0f ns", ns)
	}
	return fmt.Sprintf("%.1f ns", ns)
}

func median(of []float64) float64 {
	s := slices.Sorted(slices.Values(of))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}
