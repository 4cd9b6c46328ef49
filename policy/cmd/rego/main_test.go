package main

import (
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

func TestCalledWrongly(t *testing.T) {
	t.Parallel()
	const policies = "testdata/policies.yaml"
	for _, r := range []struct{ args, want string }{
		{"", "a command is missing"},
		{"x", `unknown command "x": must be one of clients, completion, convert, diff, `},
		{"lnt", `unknown command "lnt": did you mean lint?`},
		{"help explian", `unknown command "explian": did you mean explain?`},
		{"lint", "requires at least 1 arg"},
		{"explain " + policies, "accepts 2 arg(s), received 1\nrego: usage: rego explain [flags] FILE /pkg.Service/Method"},
		{"explain " + policies + " a.B/C", `"a.B/C" is no method`},
		{"convert", "accepts 1 arg(s)"},
		{"convert a b", "accepts 1 arg(s)"},
		{"lint --form yaml x", "unknown flag: --form: did you mean --from?"},
		{"lint -from yaml x", "did you mean --from?"}, // as it was before there were two dashes
		{"lint --quiet x", "unknown flag: --quiet: rego lint --help lists the flags"},
		{"lint --to yaml " + policies, "unknown flag: --to"}, // convert has it
		{"lint --from", "flag needs an argument: --from"},
		{"lint --output xml x", "must be text or json"},
		{"lint testdata/none.yaml", "no such file"},
		{"lint testdata", `extension "" is none of`},
		{"lint testdata/basket.txt", `extension ".txt" is none of .json, .yaml, .yml, .binpb, .pb: --from says the format`},
		{"lint --from x " + policies, `format "x" is none of yaml, json, binary, serviceconfig`},
		{"lint - -", "the standard input can be read once"},
		{"convert --to x " + policies, `format "x" is none of`},
	} {
		code, out, errs := call("", strings.Fields(r.args)...)
		assert.Equal(t, 2, code, r.args)
		assert.Empty(t, out, r.args)
		assert.Contains(t, errs, "rego: ", r.args)
		assert.Contains(t, errs, r.want, r.args)
	}
}

// TestHelp: who asks for help gets it on the standard output, and has done nothing wrong.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, r := range []struct{ args, want string }{
		{"help", "Available Commands:"},
		{"-h", "Available Commands:"},
		{"--help", "Available Commands:"},
		{"help lint", "rego lint [flags] FILE..."},
		{"lint -h", "rego lint [flags] FILE..."},
		{"explain --help", "rego explain [flags] FILE /pkg.Service/Method"},
		{"convert -h", "--to FORMAT"},
	} {
		code, out, errs := call("", strings.Fields(r.args)...)
		assert.Equal(t, 0, code, r.args)
		assert.Empty(t, errs, r.args)
		assert.Contains(t, out, r.want, r.args)
		assert.Contains(t, out, "Exit codes:", r.args)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, r := range []struct{ args, want string }{
		{"__complete l", "lint"},
		{"__complete help c", "convert"},
		{"__complete lint --from ", "serviceconfig"},
		{"__complete convert --to j", "json"},
		{"__complete lint --output ", "json"},
		{"__complete get --to ", "yaml\njson\nbinary\n:"},
		{"__complete top --sort ", "amplification"},
		{"__complete clients --output ", "json"},
		{"__complete explain testdata/policies.yaml /shop", "/shop.v1.Basket/Checkout\n/shop.v1.Search/Suggest\n"},
		{"__complete explain --descriptors " + written(t, testv1.File_rego_test_v1_test_proto) + " x.yaml /", "/rego.test.v1.TestService/Chat\n"},
	} {
		args := strings.Split(r.args, " ") // the last one may be empty
		code, out, _ := call("", args...)
		assert.Equal(t, 0, code, r.args)
		assert.Contains(t, out, r.want, r.args)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	info := &debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: "v1.2.3"}}
	assert.Equal(t, "v1.2.3 (go1.26.0)", versionOf(info))
	info.Main.Version = ""
	info.Settings = []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"}}
	assert.Equal(t, "(devel) (go1.26.0, commit 0123456789ab with changes)", versionOf(info))
}

// TestProcess: the command as people have it, with its exit codes.
func TestProcess(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		args, stdin  string
		code         int
		stdout, errs string
	}{
		{"--version", "", 0, "rego ", ""},
		{"lint -", "{}", 0, "", ""},
		{"lint testdata/mistakes.yaml", "", 1, "testdata/mistakes.yaml:5:14: ", ""},
		{"lint testdata/none.yaml", "", 2, "", "rego: open testdata/none.yaml: "},
		{"explain - /a.B/C", "{}", 0, "worst case", ""},
		{"convert --to json -", "version: a", 0, `"version": "a"`, ""},
		{"completion bash", "", 0, "__start_rego", ""},
		{"completion zsh", "", 0, "#compdef rego", ""},
		{"completion fish", "", 0, "complete -c rego", ""},
		{"lnt", "", 2, "", "did you mean lint?"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], strings.Fields(r.args)...) // which is the command, too
		cmd.Env = append(os.Environ(), commandEnv+"=1")
		cmd.Stdin = strings.NewReader(r.stdin)
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run() // the exit code says the same
		assert.Equal(t, r.code, cmd.ProcessState.ExitCode(), "%s: %s", r.args, stderr.String())
		assert.Contains(t, stdout.String(), r.stdout, r.args)
		assert.Contains(t, stderr.String(), r.errs, r.args)
	}
}
