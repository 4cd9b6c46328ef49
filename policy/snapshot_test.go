package policy_test

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

func withSnapshot(t *testing.T, path string) *policy.Store {
	t.Helper()
	st, err := policy.NewStore(version("built in"), policy.Snapshot(path))
	require.NoError(t, err)
	return st
}

// TestSnapshotOutlivesProcess: a store that starts while its source is out of reach
// has what the one before it had.
func TestSnapshotOutlivesProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "policies")
		st := withSnapshot(t, path)
		assert.Equal(t, policy.Status{Version: "built in"}, st.Status(), "no file is no fault")

		s := version("1")
		s.Revision = 7
		require.NoError(t, st.Source("control plane").Update(s))
		synctest.Wait()
		taken := time.Now()
		virtual.Sleep(time.Hour)

		st = withSnapshot(t, path)
		status := st.Status()
		assert.Equal(t, "1", st.Current().Version())
		assert.Equal(t, "1", found(st.Current(), "/a.B/C"))
		assert.Equal(t, policy.StateStale, status.State())
		assert.Equal(t, "snapshot", status.Source)
		assert.Equal(t, uint64(7), status.Revision)
		assert.True(t, taken.Equal(status.Accepted))
		assert.Equal(t, time.Hour, status.Age(time.Now()))
		s.Revision, s.Version = 6, "0"
		require.Error(t, st.Source("control plane").Update(s), "a replica that lags")
		assert.Equal(t, policy.StateRefused, st.Status().State())
		s.Revision, s.Version = 7, "1"
		require.NoError(t, st.Source("control plane").Update(s))
		assert.Equal(t, policy.StateCurrent, st.Status().State())
		assert.True(t, taken.Equal(st.Status().Accepted), "it is the same set")

		require.Error(t, st.Update(broken("2")))
		require.NoError(t, st.Update(policy.Set{Version: "3"}))
		require.NoError(t, st.Update(policy.Set{Version: "4"}))
		synctest.Wait()
		assert.Equal(t, "4", withSnapshot(t, path).Current().Version())
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		assert.Len(t, files, 1, "nothing else is left behind")
		info, err := files[0].Info()
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	})
}

// snapshotOf returns the file of a snapshot.
func snapshotOf(t *testing.T, s policy.Set) []byte {
	t.Helper()
	var b []byte
	path := filepath.Join(t.TempDir(), "s")
	synctest.Test(t, func(t *testing.T) {
		require.NoError(t, withSnapshot(t, path).Update(s))
		synctest.Wait()
		var err error
		b, err = os.ReadFile(path)
		require.NoError(t, err)
	})
	return b
}

// sealed returns a file with a good checksum around a payload.
func sealed(payload []byte) []byte {
	sum := sha256.Sum256(payload)
	return bytes.Join([][]byte{[]byte("rego snapshot 1\n"), sum[:], payload}, nil)
}

// TestBadSnapshots: reported and ignored, whatever is wrong with them, and replaced.
func TestBadSnapshots(t *testing.T) {
	t.Parallel()
	good := snapshotOf(t, version("1"))
	marshal := func(m *regov1.Snapshot) []byte {
		b, err := proto.Marshal(m)
		require.NoError(t, err)
		return b
	}
	require.Equal(t, good[:48], sealed(good[48:])[:48], "the format")
	for name, r := range map[string]struct {
		file []byte
		want string
	}{
		"empty":         {nil, "is not a snapshot"},
		"something":     {[]byte("rules: []\n"), "is not a snapshot"},
		"next format":   {append([]byte("rego snapshot 2\n"), good[16:]...), "is not a snapshot"},
		"only the name": {good[:16], "is truncated"},
		"huge":          {make([]byte, policy.MaxSize+10_000), "has more than 16781312 bytes"},
		"no message":    {sealed([]byte{0xff}), "is not protobuf, or cut off"},
		"unknown field": {sealed([]byte{0x0a, 0x03, 0x98, 0x06, 0x01}), "field 99 of Set is not known to this version"},
		"invalid set":   {sealed(marshal(&regov1.Snapshot{Set: broken("2").Proto()})), "must be between 0 and 24h0m0s"},
	} {
		path := filepath.Join(t.TempDir(), "s")
		require.NoError(t, os.WriteFile(path, r.file, 0o600))
		st := withSnapshot(t, path)
		require.ErrorContains(t, st.Status().SnapshotErr, path, name)
		require.ErrorContains(t, st.Status().SnapshotErr, r.want, name)
		assert.Equal(t, "built in", st.Current().Version(), name)
		assert.Equal(t, policy.StateInitial, st.Status().State(), name)
		synctest.Test(t, func(t *testing.T) {
			st := withSnapshot(t, path)
			require.NoError(t, st.Update(version("2")))
			synctest.Wait()
			require.NoError(t, st.Status().SnapshotErr, name)
			assert.Equal(t, "2", withSnapshot(t, path).Current().Version(), name)
		})
	}

	path := filepath.Join(t.TempDir(), "s")
	for i := range good { // every byte, and every length
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		for _, b := range [][]byte{bad, good[:i]} {
			require.NoError(t, os.WriteFile(path, b, 0o600))
			st := withSnapshot(t, path)
			require.Error(t, st.Status().SnapshotErr, "%d", i)
			require.Equal(t, "built in", st.Current().Version(), "%d", i)
		}
	}
}

// TestSnapshotCannotBeWritten: the set is in force all the same.
func TestSnapshotCannotBeWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "later")
		st := withSnapshot(t, filepath.Join(dir, "s"))
		require.NoError(t, st.Update(version("1")))
		assert.Equal(t, "1", st.Current().Version())
		changed := st.Changed()
		synctest.Wait()
		require.ErrorIs(t, st.Status().SnapshotErr, os.ErrNotExist)
		assert.True(t, closed(changed))
		assert.Equal(t, policy.StateCurrent, st.Status().State())

		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, st.Update(version("2")))
		synctest.Wait()
		require.NoError(t, st.Status().SnapshotErr)

		require.NoError(t, os.Remove(filepath.Join(dir, "s")))
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "s", "in the way"), 0o700))
		require.NoError(t, st.Update(version("3")))
		synctest.Wait()
		require.Error(t, st.Status().SnapshotErr)
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		assert.Len(t, files, 1, "nothing is left behind")
	})
}

// TestWayBackOutlivesProcess: a revision that was too high stands over restarts, and so does the
// epoch that took it back.
func TestWayBackOutlivesProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "policies")
		offer := func(s policy.Set) error {
			err := withSnapshot(t, path).Source("file").Update(s) // by a process of its own
			synctest.Wait()
			return err
		}
		require.NoError(t, offer(policy.Set{Version: "too high", Revision: 20261126}))
		require.Error(t, offer(policy.Set{Version: "43", Revision: 43}))
		require.NoError(t, offer(policy.Set{Version: "43", Epoch: 1, Revision: 43}))
		require.Error(t, offer(policy.Set{Version: "too high", Revision: 20261126}), "of a replica that lags")
		require.Error(t, offer(policy.Set{Version: "other", Epoch: 1, Revision: 43}), "another content")
		require.NoError(t, offer(policy.Set{Version: "44", Epoch: 1, Revision: 44}))
		assert.Equal(t, "44", withSnapshot(t, path).Current().Version())
	})
}

// TestSnapshotIsWrittenLater: once there is room again, without another set.
func TestSnapshotIsWrittenLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "later")
		path := filepath.Join(dir, "s")
		st := withSnapshot(t, path)
		require.NoError(t, st.Update(version("1")))
		require.NoError(t, st.Update(version("2")))
		synctest.Wait()
		virtual.Sleep(10 * time.Minute)
		require.ErrorIs(t, st.Status().SnapshotErr, os.ErrNotExist)
		require.NoError(t, os.Mkdir(dir, 0o700))
		changed := st.Changed()
		virtual.Sleep(time.Minute)
		synctest.Wait()
		require.NoError(t, st.Status().SnapshotErr)
		assert.True(t, closed(changed))
		assert.Equal(t, "2", withSnapshot(t, path).Current().Version())

		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, st.Update(version("3")))
		synctest.Wait()
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, st.Update(version("4")))
		synctest.Wait()
		require.NoError(t, os.Remove(path))
		virtual.Sleep(time.Hour)
		assert.NoFileExists(t, path, "the older one is not tried again")
	})
}

// TestSnapshotIsNoFile: a FIFO is reported, and waited for by nobody.
func TestSnapshotIsNoFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	require.ErrorContains(t, withSnapshot(t, path).Status().SnapshotErr, "is not a regular file")
	require.ErrorContains(t, withSnapshot(t, "/dev/zero").Status().SnapshotErr, "is not a regular file")
	require.ErrorContains(t, withSnapshot(t, t.TempDir()).Status().SnapshotErr, "is not a regular file")
}

// TestSnapshotOfOthers: what others may have written is not read.
func TestSnapshotOfOthers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	require.NoError(t, os.WriteFile(path, snapshotOf(t, version("2")), 0o600))
	for _, r := range []struct {
		mode os.FileMode
		want string
	}{{0o600, "2"}, {0o644, "2"}, {0o664, "built in"}, {0o646, "built in"}} {
		require.NoError(t, os.Chmod(path, r.mode))
		st := withSnapshot(t, path)
		assert.Equal(t, r.want, st.Current().Version(), "%o", r.mode)
		assert.Equal(t, r.want != "2", st.Status().SnapshotErr != nil, "%o", r.mode)
	}
	require.NoError(t, os.Chmod(path, 0o600))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(path, 65534, -1))
		require.ErrorContains(t, withSnapshot(t, path).Status().SnapshotErr, "it belongs to user 65534")
	}
}

// TestSnapshotGuarded: a snapshot that names what the program no longer has does not
// keep it from starting.
func TestSnapshotGuarded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	require.NoError(t, os.WriteFile(path, snapshotOf(t, version("bad")), 0o600))
	st := withSnapshot(t, path)
	require.NoError(t, st.Guard(func(t *policy.Table) error {
		if t.Version() == "bad" {
			return os.ErrInvalid
		}
		return nil
	}))
	assert.Equal(t, "built in", st.Current().Version())
	assert.Equal(t, "snapshot", st.Status().Refusal.Source)
}

// FuzzSnapshot: whatever is in the file, a store starts.
func FuzzSnapshot(f *testing.F) {
	f.Add([]byte("rego snapshot 1\n"), false)
	f.Add([]byte{0x0a, 0x03, 0x98, 0x06, 0x01}, true)
	path := filepath.Join(f.TempDir(), "s")
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal {
			b = sealed(b)
		}
		require.NoError(t, os.WriteFile(path, b, 0o600))
		st := withSnapshot(t, path)
		require.Equal(t, st.Status().SnapshotErr != nil, st.Current().Version() == "built in" && st.Status().State() == policy.StateInitial)
	})
}
