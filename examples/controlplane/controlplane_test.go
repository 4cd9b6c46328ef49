package main

import (
	"bytes"
	"flag"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy/etcd/etcdtest"
)

// TestMain lets the processes of a test be the test's own program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "client" || os.Args[1] == "crew") {
		main()
		return
	}
	etcdtest.Main() // this program is also the members of etcd
	os.Exit(test(m))
}

// folder is where the command is built. It is gone when the tests have ended.
var folder string

func test(m *testing.M) int {
	var err error
	if folder, err = os.MkdirTemp("", "rego"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	return m.Run()
}

var built = sync.OnceValues(func() (string, error) { return build(folder) })

// command returns the command rego, which is built once for all tests.
func command(t *testing.T) string {
	t.Helper()
	path, err := built()
	require.NoError(t, err)
	return path
}

var long = flag.Bool("long", false, "play all of the incident, without etcd and with it, and tell clients every lie")

// TestIncident plays the example: what is brief of it or, with -long, all, without etcd and with it. It
// fails by itself if a call has.
func TestIncident(t *testing.T) {
	t.Parallel()
	refused := []string{ // by the control plane
		"refused v5 of file policies.yaml",
		`rules[0]: policy "shop": retry.max_attempts: must not exceed the limit 10, got 50`,
		`rules[0]: policy "shop": timeout: must not exceed the limit 1m0s, got 10m0s`,
	}
	if !*long {
		testIncident(t, []string{"-brief"}, refused)
		return
	}
	storm := []string{
		"of 2, 40 % of the clients (",
		"of 2, 70 % of the clients (",
		"promoted: no harm in ",
		"retry.off false -> true",
		"UNAVAILABLE attempts-exhausted (100 %)",
		"in the storm, 1.0",
	}
	t.Run("files", func(t *testing.T) {
		testIncident(t, nil, slices.Concat(refused, storm, []string{
			"the rollout was in its memory and is gone, and the ",
			"so the control plane has given the file a higher one by itself: search.yaml has \"revision: ",
		}))
	})
	t.Run("etcd", func(t *testing.T) {
		testIncident(t, []string{"-etcd"}, append(storm,
			"policies.yaml:7:27: rules[0].policy.retry.max_attempts: must not exceed the limit 10, got 50",
			"so is the leader of etcd",
			"no instance that tried it has gone back in between",
			"rego: a rollout has gone on  ROLLOUT_STATE_PROMOTED",
		))
	})
}

func testIncident(t *testing.T, flags, says []string) {
	t.Helper()
	var out bytes.Buffer
	err := run(&out, append(flags, "-rego", command(t)))
	t.Log(out.String())
	require.NoError(t, err)
	var rows, payments []string // of all tables, without what differs from run to run
	for line := range strings.Lines(out.String()) {
		if row := strings.Fields(line); len(row) > 0 && (row[0] == "payments-1" || row[0] == "refunds-1") {
			payments = append(payments, strings.Join(row, " "))
		}
		if row := strings.Fields(line); len(row) > 8 && strings.HasPrefix(row[0], "client-") && row[1] != "keeps" {
			rows = append(rows, strings.Join(row[:len(row)-3], " "))
			assert.Equal(t, "0", row[len(row)-1], line)
		}
	}
	const mended = "v7 current control plane 2 on"
	steps := []string{ // what each client uses after each
		"v1 current control plane 4 on",  // hedging on, up to 4 attempts
		"v2 current control plane 4 off", // hedging is switched off
		"v3 current control plane 1 off", // attempts are cut
		"v3 current control plane 1 off", // an impostor
		"v3 current control plane 1 off", // a file with mistakes
		"v3 current control plane 1 off", // a set beyond the limits
		"v3 refused control plane 1 off", // more attempts than the clients allow
		mended,
		mended, // two services pay
		mended, // their retries are switched off
		mended, // a service of twelve instances
		mended, // a timeout that is too short
	}
	if !slices.Contains(flags, "-brief") {
		steps = append(steps,
			mended, // another one that does no harm
			mended, // a storm
		)
	}
	restarted := (len(steps) + 1) * clients
	steps = append(steps,
		"v7 stale control plane 2 on",   // the control plane is killed
		"v7 stale control plane 2 on",   // a client is restarted
		"v8 current control plane 4 on", // the control plane is back
	)
	var want []string
	for _, step := range steps {
		for _, c := range []string{"client-1 ", "client-2 ", "client-3 "} {
			want = append(want, c+step)
		}
	}
	want[restarted] = "client-1 v7 stale snapshot 2 on"
	assert.Equal(t, want, rows)
	// What an override does, by the clients' pages.
	assert.Equal(t, []string{
		"payments-1 p1 3.0 false default", "refunds-1 p1 3.0 false default",
		"payments-1 p2 1.0 true set, over code", "refunds-1 p2 3.0 false default",
	}, payments)
	for _, w := range append(says,
		"max_atempts: unknown field",
		`the impostor is told: rpc error: code = PermissionDenied desc = the certificate of spiffe://shop.example/sa/shop is not that of service "payments"`,
		"denied spiffe://shop.example/sa/shop at 127.0.0.1:",
		", which said it was payments (instance impostor): PermissionDenied",
		"all by what it was built with",
		"client-2 has v3, CLIENT_STATE_CURRENT, and has refused nothing",
		"client-2 keeps v3 and refuses v6: rules[0].policy.retry.max_attempts: must not exceed the limit 5, got 8",
		`refunds-1 has a warning: rules[0]: retry.off: no effect on "/rego.test.v1.TestService/Pay", since a rule in code is stronger`,
		" 0 failed; ",
		"client-2 shows itself at http://127.0.0.1:",
		"by its metrics client-2 made 1.0",
		"rejected: failed calls: ",
		"it came back by itself after ",
		"calls that went by anything else 0 failed",
		"failed, all in the storm",
	) {
		assert.Contains(t, out.String(), w)
	}
}

func TestUnknownRole(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, run(new(bytes.Buffer), []string{"x"}), `no role "x"`)
}
