package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials/insecure"
)

// commandsOf returns the commands of a section of a page, in the order in which they stand there.
func commandsOf(t *testing.T, page, section string) (lines []string) {
	t.Helper()
	_, text, ok := strings.Cut(page, "\n## "+section+"\n")
	require.True(t, ok, section)
	text, _, _ = strings.Cut(text, "\n## ")
	for _, block := range blocks(text, "sh") {
		for line := range strings.SplitSeq(block, "\n") {
			command, _, _ := strings.Cut(line, " #")
			lines = append(lines, strings.TrimSpace(command))
		}
	}
	return lines
}

// words splits a command as a shell does that knows double quotes.
func words(line string) (list []string) {
	for _, m := range regexp.MustCompile(`"([^"]*)"|(\S+)`).FindAllStringSubmatch(line, -1) {
		list = append(list, m[1]+m[2])
	}
	return list
}

// TestWalkthrough: the commands of docs/operations.md with which operators change policies do what
// they are said to do, one after the other, against rego serve.
func TestWalkthrough(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/operations.md")
	require.NoError(t, err)
	lines := append(commandsOf(t, string(page), "Changing policies"), commandsOf(t, string(page), "The fleet at a glance")...)
	require.Greater(t, len(lines), 15)
	dir := t.TempDir()
	s := serving(t)
	wait(s.client("shop", insecure.NewCredentials()), has("built in"))
	put(t, filepath.Join(dir, "first.yaml"), basket)
	for _, line := range lines {
		list := words(line)
		switch {
		case list[0] == "$EDITOR":
			path := filepath.Join(dir, list[1])
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			put(t, path, strings.NewReplacer(`"1"`, "mine", "max_attempts: 3", "max_attempts: 2").Replace(string(b)))
			continue
		case line == "rego rollout --watch", line == "rego top": // which go on
			_, _, err := newRootCommand(&streams{}).Find(list[1:])
			require.NoError(t, err, line)
			continue
		}
		require.Equal(t, "rego", list[0], line)
		args, to := list[1:], ""
		for i, word := range args {
			if strings.HasSuffix(word, ".yaml") {
				args[i] = filepath.Join(dir, word)
			}
			if word == ">" {
				args, to = args[:i], filepath.Join(dir, args[i+1])
				break
			}
		}
		if args[0] != "lint" {
			args = append(args, "--server", s.addr)
		}
		code, out, errs := call("", args...)
		require.Equal(t, exitOK, code, "%s: %s%s", line, out, errs)
		if to != "" {
			put(t, to, out)
		}
	}
	_, out, _ := call("", "log", "--server", s.addr)
	assert.Contains(t, out, "not what we wanted")
	assert.Contains(t, out, "Search is slow: fewer attempts")
}

// TestFlagsInDocs: whatever flag docs/operations.md names in its sections on operators, and whatever
// command docs/policies.md has in its table, is one.
func TestFlagsInDocs(t *testing.T) {
	t.Parallel()
	flags, commands := make(map[string]bool), make(map[string]bool)
	root := newRootCommand(&streams{})
	for _, c := range root.Commands() {
		commands[c.Name()] = true
		c.Flags().VisitAll(func(f *pflag.Flag) { flags[f.Name] = true })
	}
	page, err := os.ReadFile("../../../docs/operations.md")
	require.NoError(t, err)
	for _, section := range []string{"Changing policies", "The fleet at a glance"} {
		_, text, _ := strings.Cut(string(page), "\n## "+section+"\n")
		text, _, _ = strings.Cut(text, "\n## ")
		found := regexp.MustCompile("--([a-z][a-z-]*)").FindAllStringSubmatch(text, -1)
		require.NotEmpty(t, found)
		for _, m := range found {
			assert.True(t, flags[m[1]], m[0])
		}
	}
	page, err = os.ReadFile("../../../docs/policies.md")
	require.NoError(t, err)
	found := regexp.MustCompile("(?m)^\\| `rego ([a-z]+)").FindAllStringSubmatch(string(page), -1)
	require.NotEmpty(t, found)
	for _, m := range found {
		assert.True(t, commands[m[1]], m[0])
	}
}
