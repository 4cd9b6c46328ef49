package otelobs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.39.0"
)

// namesInCode returns every name in names.go.
func namesInCode(t *testing.T) (names []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "names.go", nil, 0)
	require.NoError(t, err)
	for _, d := range f.Decls {
		if d, ok := d.(*ast.GenDecl); !ok || d.Tok != token.CONST {
			continue
		}
		ast.Inspect(d, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok {
				name, err := strconv.Unquote(lit.Value)
				require.NoError(t, err)
				names = append(names, name)
			}
			return true
		})
	}
	require.NotEmpty(t, names)
	return names
}

func TestDocsListTheNames(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/telemetry.md")
	require.NoError(t, err)
	_, table, ok := strings.Cut(string(doc), "## Names\n")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n## ")
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		documented = append(documented, row[1])
	}
	assert.ElementsMatch(t, namesInCode(t), documented)
}

// TestDocsListTheInstruments: with their kinds, units and attributes.
func TestDocsListTheInstruments(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("instruments.go")
	require.NoError(t, err)
	var made []string
	for _, m := range regexp.MustCompile(`instrument\{\s*"([^"]+)", "([^"]+)"`).FindAllStringSubmatch(string(src), -1) {
		made = append(made, m[1]+" "+m[2])
	}
	require.NotEmpty(t, made)
	assert.ElementsMatch(t, made, documentedInstruments(t))
}

// documentedInstruments returns names and units of the table in docs/telemetry.md.
func documentedInstruments(t *testing.T) (list []string) {
	t.Helper()
	doc, err := os.ReadFile("../docs/telemetry.md")
	require.NoError(t, err)
	_, table, ok := strings.Cut(string(doc), "## Metrics\n")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n## ")
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| [a-z-]+(?: counter)? \\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		list = append(list, m[1]+" "+m[2])
	}
	return list
}

// Names that look like OpenTelemetry's are OpenTelemetry's.
func TestNamesOfTheConventions(t *testing.T) {
	t.Parallel()
	conventions := []attribute.Key{
		semconv.RPCSystemNameKey, semconv.RPCMethodKey, semconv.RPCResponseStatusCodeKey, semconv.ErrorTypeKey,
		semconv.ServerAddressKey, semconv.ServerPortKey, semconv.NetworkPeerAddressKey, semconv.NetworkPeerPortKey,
	}
	var ours []attribute.Key
	for _, name := range namesInCode(t) {
		if !strings.HasPrefix(name, "rego.") && !strings.HasPrefix(name, "grpc.") && name != "previous-rpc-attempts" {
			ours = append(ours, attribute.Key(name))
		}
	}
	assert.ElementsMatch(t, conventions, ours)
}
