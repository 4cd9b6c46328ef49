package interceptor_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/hedge"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
	"github.com/rego-go/rego/policy/rollout"
)

// enum is an exported type whose values have names.
type enum struct {
	name func(i int) string
	// page and row are where the docs list the names, in a line that contains row. Without
	// them nowhere has the reason why not.
	page, row string
	nowhere   string
	// hidden are values whose names are shown nowhere, with the reason.
	hidden map[string]string
	// most is how many values there can be, zero if any number.
	most int
}

// nibble is what keys of counts have for a value: keyOf in interceptor/counts.go.
const nibble = 16

func words[E interface {
	fmt.Stringer
	~uint8 | ~int
}](i int) string {
	return E(i).String()
}

var enums = map[string]enum{
	"interceptor.EndReason":     {name: words[interceptor.EndReason], page: "telemetry.md", row: "| `rego.end.reason` |"},
	"interceptor.CommitReason":  {name: words[interceptor.CommitReason], page: "telemetry.md", row: "| `rego.commit.reason` |"},
	"interceptor.WaitReason":    {name: words[interceptor.WaitReason], page: "telemetry.md", row: "| `rego.wait.reason` |", most: nibble},
	"interceptor.DenialReason":  {name: words[interceptor.DenialReason], page: "telemetry.md", row: "| `rego.denial.reason` |"},
	"interceptor.AttemptResult": {name: words[interceptor.AttemptResult], page: "telemetry.md", row: "| `rego.attempt.result` |", most: nibble},
	"interceptor.BudgetKind":    {name: words[interceptor.BudgetKind], page: "telemetry.md", row: "| `rego.budget.kind` |"},
	"interceptor.SampleKind":    {name: words[interceptor.SampleKind], page: "debugpage.md", row: "| `samples[].kinds` |"},
	"interceptor.PolicySource":  {name: words[interceptor.PolicySource], page: "debugpage.md", row: "| `policy.sources[].source` |"},
	"interceptor.EventKind":     {name: words[interceptor.EventKind], nowhere: "observers are code, and see the constants"},
	"classify.Class": {
		name: words[classify.Class], page: "telemetry.md", row: "| `rego.outcome` |",
		hidden: map[string]string{"undecided": "the next classifier decides"},
	},
	"classify.Reason":      {name: words[classify.Reason], page: "telemetry.md", row: "| `rego.outcome.reason` |"},
	"classify.Delivery":    {name: words[classify.Delivery], page: "telemetry.md", row: "| `rego.delivery` |", most: nibble},
	"classify.HintKind":    {name: words[classify.HintKind], page: "telemetry.md", row: "| `rego.hint.kind` |"},
	"classify.Idempotency": {name: words[classify.Idempotency], page: "telemetry.md", row: "| `rego.idempotency` |"},
	"budget.Kind": {
		name: words[budget.Kind], page: "telemetry.md", row: "| `rego.attempt.kind` |", most: nibble,
		hidden: map[string]string{"replacement": "timelines call it a retry"},
	},
	"budget.Result":   {name: words[budget.Result], nowhere: "budgets are code, and see the constants"},
	"hedge.State":     {name: words[hedge.State], nowhere: "denials say it with reasons of their own"},
	"policy.State":    {name: words[policy.State], page: "telemetry.md", row: "| `rego.policy.state` |"},
	"policy.Jitter":   {name: func(i int) string { return jitterInFiles(policy.Jitter(i)) }, page: "policies.md", row: "| `retry.backoff.jitter` |"},
	"file.Format":     {name: words[file.Format], nowhere: "the command has flags and file names for it", hidden: map[string]string{"none": "the zero Format is none"}},
	"rollout.Verdict": {name: words[rollout.Verdict], nowhere: "rollouts tell it in sentences"},
}

func jitterInFiles(j policy.Jitter) string {
	if name := j.String(); name != "invalid" {
		return "JITTER_" + strings.ToUpper(name)
	}
	return "invalid"
}

// TestEnums: every value of every enum has a name of its own, and one that the docs have.
func TestEnums(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	for _, dir := range []string{".", "../classify", "../budget", "../hedge", "../policy", "../policy/file", "../policy/rollout"} {
		for name, of := range enumsIn(t, dir) {
			found[name] = true
			e, ok := enums[name]
			if !assert.True(t, ok, "%s of %s: give it a row in interceptor/enums_test.go, and its words to the docs", name, of.file) {
				continue
			}
			e.check(t, name, of)
		}
	}
	for name := range enums {
		assert.True(t, found[name], "%s: is in enums, and no type", name)
	}
}

func (e enum) check(t *testing.T, name string, of declared) {
	t.Helper()
	listed := ""
	if e.nowhere == "" {
		page, err := os.ReadFile(filepath.Join("../docs", e.page))
		require.NoError(t, err)
		_, rest, ok := strings.Cut(string(page), "\n"+e.row)
		require.True(t, ok, "%s: docs/%s has no row %s", name, e.page, e.row)
		listed, _, _ = strings.Cut(rest, "\n")
	}
	taken := map[string]string{}
	for i, constant := range of.constants {
		word := e.name(of.first + i)
		assert.Empty(t, taken[word], "%s and %s: have the same name %q: %s", taken[word], constant, word, of.file)
		taken[word] = constant
		assert.Empty(t, unnamed(word, of.first+i), "%s: has no name: String in %s", constant, of.file)
		if e.nowhere == "" && word != "" && e.hidden[word] == "" {
			assert.Contains(t, listed, "`"+word+"`", "%s: is not in the row %s of docs/%s", constant, e.row, e.page)
		}
	}
	after := of.first + len(of.constants)
	assert.NotEmpty(t, unnamed(e.name(after), after), "%s: String in %s has more names than there are values", name, of.file)
	if e.most > 0 {
		assert.LessOrEqual(t, after, e.most, "%s: has more values than keys have room for: interceptor/counts.go", name)
	}
}

// unnamed returns word if it is what String has for a number that is no value.
func unnamed(word string, i int) string {
	if word == "invalid" || strings.ContainsAny(word, "0123456789") && strings.Contains(word, fmt.Sprint(i)) {
		return word
	}
	return ""
}

// declared are the constants of an enum, which count up from first.
type declared struct {
	file      string
	first     int
	constants []string
}

// enumsIn returns the enums of a package: types of which a block of constants counts up.
func enumsIn(t *testing.T, dir string) map[string]declared {
	t.Helper()
	list := map[string]declared{}
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, d := range f.Decls {
			block, ok := d.(*ast.GenDecl)
			if !ok || block.Tok != token.CONST {
				continue
			}
			name, first := countsUp(block)
			if name == nil || !name.IsExported() {
				continue
			}
			of := declared{file: filepath.Join("interceptor", path), first: first}
			for _, spec := range block.Specs {
				for _, constant := range spec.(*ast.ValueSpec).Names { //nolint:forcetypeassert // of a block of constants
					if constant.IsExported() {
						of.constants = append(of.constants, constant.Name)
					}
				}
			}
			list[f.Name.Name+"."+name.Name] = of
		}
	}
	return list
}

// countsUp returns the type of a block of constants that begins with iota or iota + 1, and with
// which of the two.
func countsUp(block *ast.GenDecl) (of *ast.Ident, first int) {
	spec := block.Specs[0].(*ast.ValueSpec) //nolint:forcetypeassert // of a block of constants
	of, ok := spec.Type.(*ast.Ident)
	if !ok || len(spec.Values) != 1 {
		return nil, 0
	}
	switch v := spec.Values[0].(type) {
	case *ast.Ident:
		return of, 0
	case *ast.BinaryExpr:
		if _, ok := v.X.(*ast.Ident); ok {
			return of, 1
		}
	}
	return nil, 0
}
