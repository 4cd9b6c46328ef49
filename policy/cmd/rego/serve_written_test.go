package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// versionIn returns the version of the set in a file.
func versionIn(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	s, err := file.Parse(b, file.YAML)
	require.NoError(t, err)
	return s.Version
}

// TestWrittenBeforeTheAnswer: what a server has said to be in force is in the file, also when it is
// killed at once, and is in force when it is started again.
func TestWrittenBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policies.yaml")
	put(t, path, "version: '0'\n")
	r := startReplica(t, "one", "--file", path)
	for i := range 6 {
		version := fmt.Sprint(i + 1)
		_, err := r.admin().PutPolicies(t.Context(), &regov1.PutPoliciesRequest{Set: oneRule(version, policy.Policy{}), Overwrite: true}, grpc.WaitForReady(true))
		require.NoError(t, err)
		r.kill()
		assert.Equal(t, version, versionIn(t, path))
		r.start()
		got, err := r.admin().GetPolicies(t.Context(), new(regov1.GetPoliciesRequest), grpc.WaitForReady(true))
		require.NoError(t, err)
		assert.Equal(t, version, got.GetSet().GetVersion())
	}
}

// TestWhatCannotBeWritten is not in force, and what there is can be read.
func TestWhatCannotBeWritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policies.yaml")
	put(t, path, "version: '1'\nrevision: 7\n")
	require.NoError(t, os.Mkdir(path+markSuffix, 0o700)) // so that it cannot be a file
	s := serving(t, "--file", path)
	st := s.client("shop", insecure.NewCredentials())
	wait(st, has("1"))
	admin := regov1.NewPolicyAdminServiceClient(s.dial(insecure.NewCredentials()))
	_, err := admin.PutPolicies(t.Context(), &regov1.PutPoliciesRequest{Set: oneRule("2", policy.Policy{}), Overwrite: true})
	require.ErrorContains(t, err, "the revision cannot be remembered")
	got, err := admin.GetPolicies(t.Context(), new(regov1.GetPoliciesRequest))
	require.NoError(t, err)
	assert.Equal(t, "1", got.GetSet().GetVersion())
	assert.Equal(t, "1", versionIn(t, path))

	require.NoError(t, os.Remove(path+markSuffix))
	_, err = admin.PutPolicies(t.Context(), &regov1.PutPoliciesRequest{Set: oneRule("2", policy.Policy{}), Overwrite: true})
	require.NoError(t, err)
	wait(st, has("2"))
	assert.Equal(t, uint64(8), st.Status().Revision)
}

// TestFileOfAnotherPlace: a server that is started with another file than the one that its clients
// have got has them take it.
func TestFileOfAnotherPlace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policies.yaml")
	put(t, path, "version: '1'\n")
	r := startReplica(t, "one", "--file", path)
	st := (&running{t: t, addr: r.addr}).client("shop", insecure.NewCredentials())
	for i := range 3 {
		version := fmt.Sprint(i + 2)
		_, err := r.admin().PutPolicies(t.Context(), &regov1.PutPoliciesRequest{Set: oneRule(version, policy.Policy{}), Overwrite: true})
		require.NoError(t, err)
		wait(st, has(version))
	}
	r.kill()
	put(t, path, "version: restored\n")
	r.start()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !has("restored")(st.Status()) {
		changed := st.Changed()
		select {
		case <-changed:
		case <-ctx.Done():
			require.Fail(t, "it has not got it", "%+v", st.Status())
		}
	}
	assert.Equal(t, uint64(4), st.Status().Revision)
	assert.Zero(t, st.Status().Refusals)
	assert.Equal(t, "restored", versionIn(t, path))
}

// TestSymlink: what is put goes to where a link leads, and the file keeps its mode.
func TestSymlink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target, path := filepath.Join(dir, "real.yaml"), filepath.Join(dir, "policies.yaml")
	put(t, target, "version: '1'\n")
	require.NoError(t, os.Chmod(target, 0o640))
	require.NoError(t, os.Symlink("real.yaml", path))
	s := serving(t, "--file", path)
	admin := regov1.NewPolicyAdminServiceClient(s.dial(insecure.NewCredentials()))
	_, err := admin.PutPolicies(t.Context(), &regov1.PutPoliciesRequest{Set: oneRule("2", policy.Policy{}), Overwrite: true})
	require.NoError(t, err)
	to, err := os.Readlink(path)
	require.NoError(t, err)
	assert.Equal(t, "real.yaml", to)
	assert.Equal(t, "2", versionIn(t, target))
	info, err := os.Stat(target)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o640), info.Mode())
}

// TestEditedMeanwhile: of a put and somebody who edits the file at the same time, one is in force, and who
// has put is told which.
func TestEditedMeanwhile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policies.yaml")
	put(t, path, "version: '1'\nrevision: 1\n")
	s := serving(t, "--file", path)
	st := s.client("shop", insecure.NewCredentials())
	wait(st, has("1"))
	admin := regov1.NewPolicyAdminServiceClient(s.dial(insecure.NewCredentials()))
	edited := make(chan error, 1)
	go func() {
		for { // until it is written
			if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), "'1'") {
				break
			}
		}
		err := os.WriteFile(path+".new", []byte("version: by hand\n...\n"), 0o600) // which is refused, since it has no revision
		edited <- cmp.Or(err, os.Rename(path+".new", path))
	}()
	_, err := admin.PutPolicies(t.Context(), &regov1.PutPoliciesRequest{Set: oneRule("2", policy.Policy{}), Overwrite: true})
	require.NoError(t, <-edited)
	got, e := admin.GetPolicies(t.Context(), new(regov1.GetPoliciesRequest))
	require.NoError(t, e)
	if err == nil { // the file was read in between
		assert.Equal(t, "2", got.GetSet().GetVersion())
		wait(st, has("2"))
		return
	}
	require.ErrorContains(t, err, "somebody has changed it at the same time")
	assert.Equal(t, "1", got.GetSet().GetVersion())
	assert.Equal(t, "1", st.Status().Version)
}

// TestHigherRevisionAlone: an edit that raises the revision and nothing else is taken in, and what is put
// then is above it.
func TestHigherRevisionAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policies.yaml")
	put(t, path, "version: '1'\nrevision: 1\n")
	s := serving(t, "--file", path)
	st := s.client("shop", insecure.NewCredentials())
	wait(st, has("1"))
	put(t, path, "version: '1'\nrevision: 10\n")
	wait(st, func(s policy.Status) bool { return s.Revision == 10 })
	admin := regov1.NewPolicyAdminServiceClient(s.dial(insecure.NewCredentials()))
	require.Eventually(t, func() bool { // clients may have it before it is the base of what is put
		got, err := admin.GetPolicies(t.Context(), new(regov1.GetPoliciesRequest))
		return err == nil && got.GetRevision().GetRevision() == 10
	}, time.Minute, time.Millisecond)
	_, err := admin.PutPolicies(t.Context(), &regov1.PutPoliciesRequest{Set: oneRule("2", policy.Policy{}), Overwrite: true})
	require.NoError(t, err)
	wait(st, has("2"))
	assert.Equal(t, uint64(11), st.Status().Revision)
}
