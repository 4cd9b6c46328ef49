package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
	"github.com/rego-go/rego/policy/repository"
)

// markSuffix is what the name of the file with the highest revision that clients may have has more
// than that of the policies.
const markSuffix = ".revision"

// readWithin is how long a file that was written may take to be read again. Then it is not in force:
// somebody else has written it at the same time.
const readWithin = 5 * time.Second

// place is where the policies of a service are: in a file, or in memory.
type place struct {
	store *policy.Store
	path  string         // empty in memory
	put   *policy.Source // nil with a file, which is watched
}

// Write is that of repository.Files. It returns when the store has the set, and what that says if it has
// not.
func (k *kept) Write(service string, s policy.Set) error {
	p, ok := k.places[service]
	switch {
	case !ok:
		return nil // the repository serves it
	case p.put != nil:
		return p.put.Update(s)
	}
	format, err := file.FormatOf(p.path)
	if err != nil {
		return err
	}
	b, err := file.Marshal(s, format)
	if err != nil {
		return err
	}
	if err := replace(p.path, b); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), readWithin)
	defer cancel()
	for {
		changed := p.store.Changed()
		now := p.store.Status()
		if now.Epoch == s.Epoch && now.Revision == s.Revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if now.Refusal != nil {
				return fmt.Errorf("%s is not in force, perhaps since somebody has changed it at the same time: %s", p.path, now.Refusal.Err.Error()) // it is no fault of the set that was put
			}
			return fmt.Errorf("%s is not in force: somebody has changed it at the same time", p.path)
		}
	}
}

// Mark is that of repository.Files.
func (k *kept) Mark(service string, m repository.Mark) error {
	if p := k.places[service]; p.path != "" {
		return replace(p.path+markSuffix, fmt.Appendf(nil, "%d %d %x\n", m.Epoch, m.Revision, m.SHA256))
	}
	return nil
}

// Marked is that of repository.Files.
func (k *kept) Marked(service string) (m repository.Mark) {
	p := k.places[service]
	if p.path == "" {
		return m
	}
	b, err := os.ReadFile(p.path + markSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return m // no revision was given
	}
	var sum string
	if err == nil {
		_, err = fmt.Sscanf(string(b), "%d %d %s", &m.Epoch, &m.Revision, &sum)
	}
	if err == nil {
		m.SHA256, err = hex.DecodeString(sum)
	}
	if err != nil {
		k.log.Error("rego: the highest revision that clients may have cannot be read, and is not known", "path", p.path+markSuffix, "error", err)
		return repository.Mark{}
	}
	return m
}

// replace writes a file whole or not at all, and returns when it is on the disk. One that is there keeps
// its mode, and a symlink goes on leading to it.
func replace(path string, b []byte) error {
	mode := os.FileMode(0o644)
	if leadsTo, err := filepath.EvalSymlinks(path); err == nil {
		path = leadsTo
	}
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	folder := filepath.Dir(path)
	f, err := os.CreateTemp(folder, ".rego-*")
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
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // it is only read
	return d.Sync()
}
