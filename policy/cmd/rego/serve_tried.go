package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// tried remembers the highest revision that was tried out, in a small file beside that of the
// policies: what is tried out is itself kept in memory.
type tried struct{ path func(service string) string } // of the file of the policies; empty without one

// triedSuffix is what the name of the file has more than that of the policies.
const triedSuffix = ".tried"

// Reserve is that of repository.Tried.
func (m tried) Reserve(service string, epoch, revision uint64) error {
	path := m.path(service)
	if path == "" {
		return nil
	}
	return replaceWith(path+triedSuffix, fmt.Appendf(nil, "%d %d\n", epoch, revision))
}

// Reserved is that of repository.Tried.
func (m tried) Reserved(service string) (epoch, revision uint64) {
	path := m.path(service)
	if path == "" {
		return 0, 0
	}
	b, err := os.ReadFile(path + triedSuffix)
	if err != nil {
		return 0, 0 // nothing was tried out
	}
	if n, err := fmt.Sscanf(string(b), "%d %d", &epoch, &revision); n != 2 || err != nil {
		return 0, 0
	}
	return epoch, revision
}

// replaceWith writes a file whole or not at all. One that is there keeps its mode.
func replaceWith(path string, b []byte) error {
	mode := os.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".rego-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it is gone if all is well
	if _, err = f.Write(b); err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
