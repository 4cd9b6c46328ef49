package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain lets the processes of a test be the test's own program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "server" || os.Args[1] == "client") {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestIncident plays the example. It fails by itself if a call has.
func TestIncident(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := run(&out, nil)
	t.Log(out.String())
	require.NoError(t, err)
	var rows []string // of all tables, without what differs from run to run
	for line := range strings.Lines(out.String()) {
		if row := strings.Fields(line); len(row) > 8 && strings.HasPrefix(row[0], "client-") && row[1] != "keeps" {
			rows = append(rows, strings.Join(row[:len(row)-3], " "))
			assert.Equal(t, "0", row[len(row)-1], line)
		}
	}
	var want []string
	for _, step := range []string{
		"v1 current control plane 4 on", "v2 current control plane 4 off", "v3 current control plane 1 off",
		"v3 current control plane 1 off", "v3 refused control plane 1 off", "v6 current control plane 2 on",
		"v6 stale control plane 2 on", "v6 stale control plane 2 on", "v7 current control plane 4 on",
	} {
		for _, c := range []string{"client-1 ", "client-2 ", "client-3 "} {
			want = append(want, c+step)
		}
	}
	want[7*clients] = "client-1 v6 stale snapshot 2 on" // it was restarted
	assert.Equal(t, want, rows)
	for _, w := range []string{
		"max_atempts: unknown field",
		"client-2 keeps v3 and refuses v5: rules[0].policy.retry.max_attempts: must not exceed the limit 5, got 50",
		" 0 failed; ",
		"client-2 shows itself at http://127.0.0.1:",
		"by its metrics client-2 made 1.0",
	} {
		assert.Contains(t, out.String(), w)
	}
}

func TestUnknownRole(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, run(new(bytes.Buffer), []string{"x"}), `no role "x"`)
}
