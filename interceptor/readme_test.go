package interceptor_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestReadme copies the first block of Go in README.md into a module of its own, as its readers do, and
// compiles it.
func TestReadme(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		return string(b)
	}
	readme := read("README.md")
	assert.LessOrEqual(t, strings.Count(readme, "\n"), 150, "lines: the rest belongs into docs")
	_, rest, found := strings.Cut(readme, "\n```go\n")
	require.True(t, found, "README.md has no block of Go")
	shown, _, found := strings.Cut(rest, "\n```\n")
	require.True(t, found, "the first block of Go in README.md has no end")

	dir := t.TempDir()
	needs := strings.Join(regexp.MustCompile(`(?ms)^(go .*?$|require .*?^\))`).FindAllString(read("go.mod"), -1), "\n")
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("shop.go", shown)
	write("go.sum", read("go.sum"))
	write("go.mod", "module example.com/shop\n"+needs+"\nrequire github.com/rego-go/rego v0.0.0\nreplace github.com/rego-go/rego => "+root+"\n")
	build := exec.CommandContext(t.Context(), "go", "build", "-mod=mod", "./...")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "GOPROXY=off") // all that it needs is there
	out, err := build.CombinedOutput()
	assert.NoError(t, err, "%s", out)
}
