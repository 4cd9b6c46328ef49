package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTable: medians of all runs, beside those of a bare call.
func TestTable(t *testing.T) {
	t.Parallel()
	runs, err := read(strings.NewReader(`
pkg: github.com/rego-go/rego/interceptor
BenchmarkBare                    	1000	         2.000 ns/op	       0 B/op	       0 allocs/op
BenchmarkBare-2                  	1000	         1.000 ns/op	       0 B/op	       0 allocs/op
BenchmarkFirstAttemptSucceeds    	1000	        72.00 ns/op	       0 B/op	       0 allocs/op
BenchmarkFirstAttemptSucceeds    	1000	       900.0 ns/op	       0 B/op	       0 allocs/op
BenchmarkFirstAttemptSucceeds    	1000	        70.00 ns/op	       0 B/op	       0 allocs/op
BenchmarkFirstAttemptSucceeds-2  	1000	        41.00 ns/op	       0 B/op	       0 allocs/op
BenchmarkConnUnary/bare          	1000	     50000 ns/op	    9000 B/op	     159 allocs/op
BenchmarkConnUnary/retries       	1000	     51000 ns/op	    9900 B/op	     163 allocs/op
PASS
pkg: github.com/rego-go/rego/budget
BenchmarkRatioDenial             	1000	        20.00 ns/op
BenchmarkRatioDenial             	1000	        22.00 ns/op
pkg: github.com/rego-go/rego/otelobs
BenchmarkNoObserver              	1000	       500.0 ns/op
BenchmarkMetrics                 	1000	       480.0 ns/op
`))
	require.NoError(t, err)
	text, missing := table(runs)
	assert.Equal(t, `| path | one goroutine | two goroutines | allocations |
|---|---|---|---|
| unary call, retries and budget armed, the first attempt succeeds | + 70 ns | + 40 ns | + 0 |
| metrics with durations on | − 20 ns |  |  |
| unary call over a connection in memory, retries armed | × 1.02 |  | + 4 |
| budget: a retry is denied | 21 ns |  |  |
`, text)
	assert.Len(t, missing, 2*(len(rows)-4)+3)
	assert.Contains(t, missing, "hedge.Record on 1")
	assert.Contains(t, missing, "hedge.Record on 2")
	assert.NotContains(t, missing, "otelobs.Metrics on 1")
	assert.Contains(t, missing, "otelobs.Metrics on 2")
}

// TestRowsExist: each row is measured by a benchmark that there is, and docs/performance.md has
// the same rows in the same order.
func TestRowsExist(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/performance.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(page), "| path | one goroutine | two goroutines | allocations |\n")
	require.True(t, found)
	var have, want []string
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) > 1 {
			have = append(have, strings.TrimPrefix(cells[0], "| "))
		} else if !strings.HasPrefix(line, "|") {
			break
		}
	}
	for _, r := range rows {
		want = append(want, r.path)
	}
	assert.Equal(t, want, have, "docs/performance.md")
	for _, r := range rows {
		for _, name := range []string{r.benchmark, r.bare} {
			if name == "" {
				continue
			}
			pkg, function := split(name)
			files, err := filepath.Glob("../../" + pkg + "/*_test.go")
			require.NoError(t, err)
			assert.True(t, slices.ContainsFunc(files, func(f string) bool {
				source, err := os.ReadFile(f)
				return err == nil && bytes.Contains(source, []byte("\nfunc Benchmark"+function+"("))
			}), name)
		}
	}
}
