package file_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

var silent = slog.New(slog.DiscardHandler)

// until waits until the status is as it should be.
func until(st *policy.Store, ok func(policy.Status) bool) {
	for {
		changed := st.Changed()
		if ok(st.Status()) {
			return
		}
		<-changed
	}
}

func inForce(v string) func(policy.Status) bool {
	return func(s policy.Status) bool { return s.Version == v && s.State() == policy.StateCurrent }
}

func inState(want policy.State) func(policy.Status) bool {
	return func(s policy.Status) bool { return s.State() == want }
}

func TestWatch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "policies.yaml")
	put := func(path, text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	st := new(policy.Store)
	w, err := file.Watch(path, st, file.WithLogger(silent))
	require.NoError(t, err)
	require.ErrorIs(t, st.Status().Lost, os.ErrNotExist, "a file that is missing is no error")

	put(path, "version: a\n")
	until(st, inForce("a"))
	put(path, "version: b, rewritten in place\n")
	until(st, inForce("b, rewritten in place"))
	put(path+".new", "version: c\n")
	require.NoError(t, os.Rename(path+".new", path))
	until(st, inForce("c"))

	put(path, "version: d\nrules: [{methods: [x]}]\n")
	until(st, inState(policy.StateRefused))
	assert.Equal(t, "c", st.Current().Version())
	require.EqualError(t, st.Status().Refusal.Err, `2:20: rules[0].methods[0]: must be /pkg.Service/Method, /pkg.Service/* or *, got "x"`)
	put(path, "")
	until(st, func(s policy.Status) bool { return s.Refusal.Version == "" })
	put(path, "version: e\n")
	until(st, inForce("e"))

	require.NoError(t, os.Remove(path))
	until(st, inState(policy.StateStale))
	assert.Equal(t, "e", st.Current().Version())
	put(path, "version: e\n")
	until(st, inForce("e"))
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Mkdir(path, 0o700))
	until(st, inState(policy.StateStale))
	require.NoError(t, os.Remove(path))

	// As Kubernetes mounts a ConfigMap: path -> ..data/p -> ..1/p, and ..data is swapped.
	for i := range 3 {
		version := filepath.Join(dir, fmt.Sprint("..", i))
		require.NoError(t, os.Mkdir(version, 0o700))
		put(filepath.Join(version, "p"), fmt.Sprint("version: mounted ", i, "\n"))
		require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		if i == 0 {
			require.NoError(t, os.Symlink(filepath.Join("..data", "p"), path))
		}
		until(st, inForce(fmt.Sprint("mounted ", i)))
	}
	require.NoError(t, w.Close())

	_, err = file.Watch("policies.txt", st)
	require.ErrorContains(t, err, "extension")
}

// TestWatchStart: what is there at the start is told before Watch returns.
func TestWatchStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	huge, err := os.Create(filepath.Join(dir, "huge.yaml"))
	require.NoError(t, err)
	require.NoError(t, huge.Truncate(policy.MaxSize+1))
	require.NoError(t, huge.Close())
	require.NoError(t, os.Symlink("loop.yaml", filepath.Join(dir, "loop.yaml")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder.yaml"), 0o700))
	for name, text := range map[string]string{
		"good.yaml": "version: a", "good.json": `{"version": "a"}`, "empty.yaml": "", "bad.yaml": "version: [",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	for name, want := range map[string]struct {
		state policy.State
		why   string
	}{
		"good.yaml":   {policy.StateCurrent, ""},
		"good.json":   {policy.StateCurrent, ""},
		"empty.yaml":  {policy.StateRefused, "is empty"},
		"bad.yaml":    {policy.StateRefused, "did not find expected"},
		"huge.yaml":   {policy.StateRefused, "must be at most 16777216 bytes"},
		"none.yaml":   {policy.StateStale, "no such file"},
		"loop.yaml":   {policy.StateStale, "symbolic links"},
		"folder.yaml": {policy.StateStale, "is not a file"},
	} {
		st := new(policy.Store)
		w, err := file.Watch(filepath.Join(dir, name), st, file.WithLogger(silent))
		require.NoError(t, err, name)
		status := st.Status()
		assert.Equal(t, want.state, status.State(), name)
		switch want.state {
		case policy.StateRefused:
			require.ErrorContains(t, status.Refusal.Err, want.why, name)
		case policy.StateStale:
			require.ErrorContains(t, status.Lost, want.why, name)
		default:
			assert.Equal(t, "a", status.Version, name)
		}
		require.NoError(t, w.Close())
		require.NoError(t, w.Close(), "again")
	}
	w, err := file.Watch(filepath.Join(dir, "other"), new(policy.Store), file.WithFormat(file.JSON), file.WithLogger(nil))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	_, err = file.Watch("a.yaml", new(policy.Store), file.WithFormat(9))
	require.ErrorContains(t, err, "unknown format 9")
}

// TestWatchAttacked: what becomes of a file and its folder. Each step ends with a good
// file in force.
func TestWatchAttacked(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "folder")
	path := filepath.Join(dir, "policies.yaml")
	put := func(text string) {
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	put("version: a\n")
	st := new(policy.Store)
	w, err := file.Watch(path, st, file.WithLogger(silent))
	require.NoError(t, err)
	defer w.Close()

	require.NoError(t, os.RemoveAll(dir))
	until(st, inState(policy.StateStale))
	put("") // it is back, and empty
	until(st, inState(policy.StateRefused))
	put("version: b\n")
	until(st, inForce("b"))

	require.NoError(t, os.Truncate(path, policy.MaxSize+1)) // a file that grows without end
	until(st, inState(policy.StateRefused))
	require.EqualError(t, st.Status().Refusal.Err, "must be at most 16777216 bytes")
	put("version: b\n") // the same as before
	until(st, inForce("b"))

	info, err := os.Stat(path)
	require.NoError(t, err)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("version: c\n")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Chtimes(path, info.ModTime(), info.ModTime())) // nothing seems to have changed
	until(st, inForce("c"))
}

// TestWatchUnderWriters: whole sets are in force and no others, while the file is
// replaced all the time, and one of the last sets, in the end, is the last.
func TestWatchUnderWriters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "policies.yaml")
	text := func(n int) []byte {
		var b bytes.Buffer
		fmt.Fprintf(&b, "version: %q\nrules:\n", fmt.Sprint(n))
		for i := range n {
			fmt.Fprintf(&b, "- methods: [/a.B/M%d]\n", i)
		}
		return b.Bytes()
	}
	require.NoError(t, os.WriteFile(path, text(1), 0o600))
	st := new(policy.Store)
	w, err := file.Watch(path, st, file.WithLogger(silent))
	require.NoError(t, err)
	defer w.Close()

	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for n := 1; ; n = n%300 + 1 {
			select {
			case <-stop:
				return
			default:
			}
			assert.NoError(t, os.WriteFile(path+".new", text(n), 0o600))
			assert.NoError(t, os.Rename(path+".new", path))
		}
	})
	for range 3 { // it comes through, though no two looks find the same
		table := st.Current()
		until(st, func(policy.Status) bool { return st.Current() != table })
		s := st.Current().Set()
		assert.Equal(t, s.Version, fmt.Sprint(len(s.Rules)))
		assert.Nil(t, st.Status().Refusal)
	}
	close(stop)
	writing.Wait()

	// In place, in pieces of a line.
	whole := text(5000)
	f, err := os.Create(path)
	require.NoError(t, err)
	for line := range bytes.Lines(whole) {
		_, err := f.Write(line)
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
	until(st, inForce("5000"))
	assert.Len(t, st.Current().Set().Rules, 5000)
}

// TestCutFile: of a file that has ended with the end marker, no beginning is taken.
func TestCutFile(t *testing.T) {
	t.Parallel()
	whole, err := file.Marshal(documented, file.YAML)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "policies.yaml")
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	st := new(policy.Store)
	w := file.Unwatched(path, st)
	w.Look()
	require.NoError(t, st.Status().Lost)
	require.Equal(t, documented.Version, st.Current().Version())
	for n := range len(whole) - len("\n") {
		require.NoError(t, os.WriteFile(path, whole[:n], 0o600))
		w.Look()
		w.Look()
		require.Equal(t, policy.StateRefused, st.Status().State(), "%q", whole[:n])
		require.Equal(t, documented, st.Current().Set())
	}
	require.NoError(t, os.WriteFile(path, []byte("version: without\nepoch: 2\n"), 0o600))
	w.Look()
	w.Look()
	require.EqualError(t, st.Status().Refusal.Err, "must end with the line ..., as the file did before: it may have been cut short")
	require.NoError(t, os.WriteFile(path, []byte("version: with\nepoch: 2\n...\n"), 0o600))
	w.Look()
	w.Look()
	require.Equal(t, policy.StateCurrent, st.Status().State())

	path = filepath.Join(t.TempDir(), "policies.yaml")
	st = new(policy.Store)
	w = file.Unwatched(path, st)
	for _, text := range []string{"version: a\n", "version: b\n", "version: c...\n", "version: d # ...\n"} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		w.Look()
		w.Look()
		require.Equal(t, policy.StateCurrent, st.Status().State(), "no marker, no question")
	}
	for _, marker := range []string{"...", "...\r\n", "...\n\n", "... # end\n", "...\n# that was all\n \n"} {
		require.NoError(t, os.WriteFile(path, []byte("version: whole\n"+marker), 0o600))
		w.Look()
		w.Look()
		require.Equal(t, "whole", st.Current().Version(), "%q", marker)
		require.NoError(t, os.WriteFile(path, []byte("version: cut\n"), 0o600))
		w.Look()
		w.Look()
		require.Equal(t, policy.StateRefused, st.Status().State(), "%q", marker)
	}
}

// TestWatchNoFile: a FIFO and a device are reported, and hold up nobody.
func TestWatchNoFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policies.yaml")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	st := new(policy.Store)
	w, err := file.Watch(path, st, file.WithLogger(silent))
	require.NoError(t, err)
	require.ErrorContains(t, st.Status().Lost, "is not a file")
	require.NoError(t, w.Close())
}
