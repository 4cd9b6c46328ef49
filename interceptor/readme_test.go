package interceptor_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestReadme holds the Go code of README.md to getUser, which the example runs.
func TestReadme(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(readme), "\n```go\n")
	require.True(t, found, "README.md has no block of Go")
	shown, _, found := strings.Cut(rest, "\n```\n")
	require.True(t, found, "the first block of Go in README.md has no end")

	assert.Equal(t, source(t, "example_test.go", "getUser"), shown)
}

// source returns a function as it is written in a file, without its comment.
func source(t *testing.T, file, function string) string {
	t.Helper()
	src, err := os.ReadFile(file)
	require.NoError(t, err)
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, src, 0)
	require.NoError(t, err)
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == function {
			return string(src[set.Position(f.Pos()).Offset:set.Position(f.End()).Offset])
		}
	}
	require.Fail(t, "no such function", "%s in %s", function, file)
	return ""
}
