package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// TestAuditIsBounded: who is denied again and again does not fill a disk, and hides nobody else.
func TestAuditIsBounded(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	a := &audit{log: slog.New(slog.NewJSONHandler(&out, nil)), said: make(map[string]*repeated)}
	now := time.Now()
	deny := func(who, service string, at time.Time) {
		a.denied(controlplane.Denial{
			Time: at, Method: "m", Identities: []string{who}, Node: &regov1.Node{Service: service}, Err: status.Error(codes.PermissionDenied, "no"),
		})
	}
	for i := range 100_000 {
		deny("one", strconv.Itoa(i), now)
	}
	deny("two", "shop", now)
	assert.Equal(t, 2, bytes.Count(out.Bytes(), []byte("\n")))
	assert.Contains(t, out.String(), `"identities":["two"]`)
	out.Reset()
	deny("one", "shop", now.Add(repeatAfter))
	assert.Contains(t, out.String(), `"not_written_before":99999`)

	for i := range 5000 {
		deny(strconv.Itoa(i), "shop", now)
	}
	assert.LessOrEqual(t, len(a.said), maxRepeated+1)
	out.Reset()
	deny("last", "shop", now.Add(time.Hour))
	assert.Regexp(t, `"not_written_before":4\d\d\d`, out.String())
}

// TestChanges: switches and what was changed are named whatever else there is.
func TestChanges(t *testing.T) {
	t.Parallel()
	before := policy.Set{Rules: []policy.Rule{{Methods: []string{"/pay.v1.Pay/*", "/old.v1.Old/*"}}}}
	after := policy.Set{RetriesOff: true, Rules: []policy.Rule{{Methods: []string{"/pay.v1.Pay/*"}, Policy: policy.Policy{Timeout: time.Second}}}}
	for i := range 50 {
		after.Rules = append(after.Rules, policy.Rule{Methods: []string{fmt.Sprintf("/a.B/M%02d", i)}})
	}
	list := changesOf(before, after)
	assert.Equal(t, []string{"retries_off false -> true", "/pay.v1.Pay/*: timeout (none) -> 1s", "/old.v1.Old/*: removed: the default policy", "/a.B/M00: added: the default policy"}, list[:4])
	assert.Equal(t, "added 30 more", list[len(list)-1])
	assert.Empty(t, changesOf(before, before))
}

// TestAuditIsOpenedAgain: a file that was moved away is left alone, and a new one begun. A FIFO
// that nobody reads is refused instead of waited for.
func TestAuditIsOpenedAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a, err := openAudit(path, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	a.write("first")
	require.NoError(t, os.Rename(path, path+".1"))
	a.write("second")
	hangups := make(chan os.Signal)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		reopen(ctx, a, hangups)
	}()
	hangups <- syscall.SIGHUP
	stop()
	<-ended
	a.write("third")
	a.close()
	for file, want := range map[string][]string{path + ".1": {"first", "second"}, path: {"third"}} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, len(want), bytes.Count(text, []byte("\n")), file)
		for _, event := range want {
			assert.Contains(t, string(text), `"event":"`+event+`"`, file)
		}
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	_, err = openAudit(fifo, slog.New(slog.DiscardHandler))
	require.Error(t, err)
}
