package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// session is what an operator does, and what the commands say, with the exit codes that are not 0.
type session struct {
	*controlled
	text strings.Builder
}

func (s *session) do(stdin string, args ...string) string {
	code, out, errs := s.call(stdin, args...)
	fmt.Fprintf(&s.text, "$ rego %s\n%s%s", strings.Join(args, " "), errs, out)
	if code != exitOK {
		fmt.Fprintf(&s.text, "exit code %d\n", code)
	}
	s.text.WriteString("\n")
	return out
}

// TestSession: an operator's way from nothing to changes that are tried out, and taken back.
func TestSession(t *testing.T) { // not beside others: what it prints is of a rollout that has just begun
	s := session{controlled: control(t)}
	s.do("", "get")
	s.do("", "log")
	s.do("", "rollout")
	s.do(basket, "put", "-", "--dry-run")
	s.do(basket, "put", "-", "--canary", "5%") // there is nothing to compare it with
	s.do(basket, "put", "-", "-m", "begin")
	s.do("", "rollback")
	first := s.do("", "get")
	s.do(basket, "put", "-")
	s.do(first, "put", "-")
	second := strings.NewReplacer(`"1"`, `"2"`, "max_attempts: 3", "max_attempts: 5\n      hedge: {max_extra_load: 0.02}").Replace(first)
	s.do(second, "put", "-", "--canary", "5%", "--steps", "25%,50%", "--bake", "1m", "-m", "more attempts")
	s.do("", "rollout")
	s.do("", "get", "--candidate")
	s.do(strings.ReplaceAll(second, `"2"`, `"3"`), "put", "-")
	s.do("", "rollback", "--to", "1")
	s.do("", "rollback", "-m", "not today")
	s.do("", "promote")
	s.do(second, "put", "-", "--base", "3", "--canary", "0.05", "-m", "now")
	s.do("", "promote", "-m", "looks well")
	s.do("", "rollout")
	s.do(first, "put", "-")
	s.do(strings.Replace(first, "max_attempts: 3", "max_attempts: 10", 1), "put", "-", "--base", "4")
	s.do(basket+"x: 1\n", "put", "-")
	s.do(strings.Replace(first, "retry:\n", "budget: unknown\n      retry:\n", 1), "put", "-", "--base", "4")
	s.do("", "rollback", "--to", "1")
	s.do("", "rollback", "--to", "99")
	s.do("", "get", "--revision", "4")
	s.do(second, "put", "-", "--service", "shop")
	s.do(second, "put", "-", "--service", "shop", "--base", "0")
	s.do("", "log")
	s.do("", "log", "-n", "1", "--service", "shop")
	golden(t, "session.txt", plain(s.text.String()))
}

func TestPutCalledWrongly(t *testing.T) {
	t.Parallel()
	for _, r := range []struct{ args, want string }{
		{"put", "accepts 1 arg(s)"},
		{"put - --canary 5", "must be above 0 % and below 100 %"},
		{"put - --canary x%", "must be above 0 % and below 100 %"},
		{"put - --canary 50% --steps 25%", "steps[1]: must be above steps[0]"},
		{"put - --steps 25%", "--steps is about a rollout: --canary says"},
		{"put - --wait", "--wait is about a rollout: --canary says"},
		{"put - --base 1 --overwrite", "none of the others can be"},
		{"put - --canary 5% --alpha 2", "alpha: must be above 0 and below 1"},
		{"put none.yaml", "no such file"},
		{"get x", "unknown command"},
		{"get --to serviceconfig", "none of"},
		{"get --revision 1 --candidate", "none of the others can be"},
		{"log -n 0", "--number must be at least 1"},
		{"log --output xml", "must be text or json"},
		{"log --limit 3", "unknown flag: --limit"},
		{"log --numbr 3", "did you mean --number?"},
		{"log --server localhost", "--server must be HOST:PORT"},
		{"log --plaintext --ca x", "exclude each other"},
		{"log --cert x", "--cert and --key belong together"},
		{"log --ca testdata/none.pem", "no such file"},
		{"log --ca testdata/policies.yaml", "has no certificate (PEM)"},
		{"log --timeout 0s", "--timeout must be above 0"},
		{"log --server 127.0.0.1:1", "server 127.0.0.1:1 does not answer: dial tcp 127.0.0.1:1"},
		{"rollout --watch --output json", "none of the others can be"},
	} {
		code, out, errs := call("{}", strings.Fields(r.args)...)
		assert.Equal(t, exitUsage, code, r.args)
		assert.Empty(t, out, r.args)
		assert.Contains(t, errs, r.want, r.args)
	}
}

// TestPutLarge: a set of some 400 KiB, which is larger than a message to the server may be.
func TestPutLarge(t *testing.T) {
	t.Parallel()
	s := session{controlled: control(t)}
	var large strings.Builder
	large.WriteString("version: large\nrules:\n")
	for i := range 10_000 {
		fmt.Fprintf(&large, "- methods: [/shop.v1.S%d/Get]\n  policy: {name: n%d, timeout: %ds}\n", i, i, i%50+1)
	}
	assert.Contains(t, s.do(large.String(), "put", "-"), "put as revision 1")
	assert.Contains(t, s.do("", "get"), "- /shop.v1.S9999/Get")
}
