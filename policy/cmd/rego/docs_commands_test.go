package main

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/internal/docs"
)

// root is the folder of the repository.
const root = "../../.."

// notRego are flags in the pages that are not of this command, and whose they are.
var notRego = map[string]string{
	"bump-revision": "etcdutl",
}

// TestDocCommands: each command for rego in the pages, and in the help texts of rego, names a command
// and flags that there are, with values that are taken.
func TestDocCommands(t *testing.T) {
	t.Parallel()
	all, err := docs.Pages(root)
	require.NoError(t, err)
	scripts, parts := 0, 0
	for page, text := range all {
		for _, c := range docs.Commands(text, "rego", "./rego") {
			if c.Words[0] != "rego" && c.Words[0] != "./rego" {
				continue
			}
			if c.Inline {
				parts++
			} else {
				scripts++
			}
			commandTaken(t, page, c)
		}
	}
	assert.Greater(t, scripts, 20, "scripts are not found any more")
	assert.Greater(t, parts, 40, "commands in the text are not found any more")

	inHelp := 0
	for _, cmd := range newRootCommand(&streams{}).Commands() {
		for _, m := range regexp.MustCompile(`(?m)^  (rego .*?)(?:  .*)?$`).FindAllStringSubmatch(cmd.Long, -1) {
			for _, c := range docs.Script(m[1], "") {
				inHelp++
				commandTaken(t, "help of "+cmd.Name(), c)
			}
		}
		for _, m := range regexp.MustCompile(`(?:^|\s)--([a-z][a-z-]*)`).FindAllStringSubmatch(strings.ReplaceAll(cmd.Long, exitCodes, ""), -1) {
			assert.NotNil(t, cmd.Flags().Lookup(m[1]), "help of %s: no flag --%s", cmd.Name(), m[1])
		}
	}
	assert.Greater(t, inHelp, 4, "commands in help texts are not found any more")
}

// placeholder is a word of the text that stands for the reader's own: FILE, FILE..., [FILE].
var placeholder = regexp.MustCompile(`^\[?[A-Z]+(:[A-Z]+)?(\.\.\.)?\]?$`)

// commandTaken holds that a command is taken, up to the point at which it would run. One between
// backticks may be a part, such as "rego lint".
func commandTaken(t *testing.T, where string, c docs.Command) {
	t.Helper()
	args := c.Words[1:]
	if len(args) == 0 {
		return // the name
	}
	cmd := newRootCommand(&streams{})
	cmd.InitDefaultHelpCmd()
	cmd.InitDefaultVersionFlag()
	cmd.InitDefaultCompletionCmd(args...)
	found, rest, err := cmd.Find(args)
	require.NoError(t, err, "%s: %s", where, c)
	if found == cmd {
		rest = args
	}
	require.True(t, found != cmd || strings.HasPrefix(args[0], "-"), "%s: %s: no command", where, c)
	if last := len(rest) - 1; c.Inline && last >= 0 && strings.HasPrefix(rest[last], "--") {
		flagTaken(t, where, found, rest[last]) // its value may be left out
		rest = rest[:last]
	}
	if i := slices.IndexFunc(rest, placeholder.MatchString); i > 0 && strings.HasPrefix(rest[i-1], "--") {
		flagTaken(t, where, found, rest[i-1]) // its value is the reader's own
		rest = slices.Delete(slices.Clone(rest), i-1, i+1)
	}
	require.NoError(t, found.ParseFlags(rest), "%s: %s", where, c)
	if !c.Inline {
		assert.NoError(t, found.ValidateArgs(found.Flags().Args()), "%s: %s", where, c)
	}
}

func flagTaken(t *testing.T, where string, cmd *cobra.Command, word string) {
	t.Helper()
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	assert.NotNil(t, cmd.Flags().Lookup(name), "%s: rego %s has no %s", where, cmd.Name(), word)
}

// TestDocFlags: each flag with two dashes that stands between backticks is one of rego.
func TestDocFlags(t *testing.T) {
	t.Parallel()
	all, err := docs.Pages(root)
	require.NoError(t, err)
	flags := make(map[string]bool)
	for _, cmd := range newRootCommand(&streams{}).Commands() {
		cmd.Flags().VisitAll(func(f *pflag.Flag) { flags[f.Name] = true })
	}
	found, used := 0, make(map[string]bool)
	for page, text := range all {
		for _, code := range docs.Inline(text) {
			if strings.HasPrefix(code, "kubectl ") {
				continue
			}
			for _, m := range regexp.MustCompile(`(?:^| )--([a-z][a-z-]*)`).FindAllStringSubmatch(code, -1) {
				found++
				if _, is := notRego[m[1]]; is {
					used[m[1]] = true
					continue
				}
				assert.True(t, flags[m[1]] || m[1] == "version", "%s: `%s`: no flag --%s", page, code, m[1])
			}
		}
	}
	assert.Greater(t, found, 60, "flags are not found any more")
	for name := range notRego {
		assert.True(t, used[name], "no page has --%s", name)
	}
}

// TestDocVariables: each variable of the environment that the pages name is one that rego reads.
func TestDocVariables(t *testing.T) {
	t.Parallel()
	all, err := docs.Pages(root)
	require.NoError(t, err)
	read := slices.Collect(maps.Values(fromEnvironment))
	found := 0
	for page, text := range all {
		for _, code := range docs.Inline(text) {
			if strings.HasPrefix(code, "REGO_") {
				found++
				assert.Contains(t, read, code, page)
			}
		}
	}
	assert.Positive(t, found, "variables are not found any more")
}
