package file_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

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
	w, err := file.Watch(path, st, file.WithLogger(slog.New(slog.DiscardHandler)))
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
