package file

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/rego-go/rego/policy"
)

// poll is how often a watched file is looked at. That costs a stat, works on every file
// system, and follows renames and symlinks by itself.
const poll = 100 * time.Millisecond

// Option configures [Watch].
type Option interface{ apply(*Watcher) }

type optionFunc func(*Watcher)

func (f optionFunc) apply(w *Watcher) { f(w) }

// WithFormat sets the format of the file. Default, and what zero means: what the
// extension of its name says.
func WithFormat(f Format) Option { return optionFunc(func(w *Watcher) { w.format = f }) }

// WithLogger sets where sets that were taken or refused are reported, and that the file is
// lost. Default, and what nil means: slog.Default.
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(w *Watcher) { w.log = cmp.Or(l, slog.Default()) })
}

// Watcher keeps a store at what a file says.
type Watcher struct {
	path   string
	format Format
	source *policy.Source
	log    *slog.Logger
	stop   chan struct{}
	done   chan struct{}

	seen  os.FileInfo // when it was read last; nil if it could not be
	read  string      // what was read then
	taken string      // what the store was told last
	said  string      // what was logged last, so that it is said once
}

// Watch keeps st at what the file at path says, until the Watcher is closed. The file is
// read at once, and then looked at ten times a second: it may be rewritten, replaced by
// renaming, swapped as a symlink, which is how Kubernetes mounts a ConfigMap, removed and
// put back. Its content counts once two looks have found the same, so a file that is still
// being written is not taken; but only who writes aside and renames can be sure that no
// half of it is. While it is gone, or has a fault, the store keeps what it has, and
// [policy.Store.Status] says why.
//
// The error is for a path whose extension does not say the format, without [WithFormat].
func Watch(path string, st *policy.Store, opts ...Option) (*Watcher, error) {
	w := &Watcher{
		path: path, source: st.Source("file " + path), log: slog.Default(),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	for _, o := range opts {
		o.apply(w)
	}
	if w.format == 0 {
		var err error
		if w.format, err = FormatOf(path); err != nil {
			return nil, fmt.Errorf("file: %w", err)
		}
	}
	if err := w.format.check(); err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	w.look()
	w.look() // what was there before is not being written
	go w.run()
	return w, nil
}

// Close ends the watch and returns when it has ended. The store keeps what it has.
func (w *Watcher) Close() error {
	close(w.stop)
	<-w.done
	return nil
}

func (w *Watcher) run() {
	defer close(w.done)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.look()
		case <-w.stop:
			return
		}
	}
}

// look reads the file if it has changed, and takes what it found twice.
func (w *Watcher) look() {
	info, err := os.Stat(w.path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("is not a file: " + w.path)
	}
	if err != nil {
		w.lose(err)
		return
	}
	if !w.changed(info) {
		if w.read != w.taken {
			w.take()
		}
		return
	}
	data, err := readFile(w.path)
	if err != nil {
		w.lose(err)
		return
	}
	w.seen, w.read = info, data
}

func (w *Watcher) changed(info os.FileInfo) bool {
	return w.seen == nil || !os.SameFile(w.seen, info) || !w.seen.ModTime().Equal(info.ModTime()) || w.seen.Size() != info.Size()
}

// readFile reads no more than is too much.
func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it is only read
	data, err := io.ReadAll(io.LimitReader(f, policy.MaxSize+1))
	return string(data), err
}

func (w *Watcher) lose(err error) {
	w.seen, w.read, w.taken = nil, "", "" // what comes back is told anew
	w.source.Lost(err)
	w.say(slog.LevelWarn, "rego: the file of policies cannot be read, policies stay as they are", "error", err)
}

func (w *Watcher) take() {
	w.taken = w.read
	set, faults := parse([]byte(w.read), w.format)
	var err error
	if len(faults) > 0 {
		err = faults
		w.source.Refuse(set.Version, err)
	} else {
		err = w.source.Update(set)
	}
	if err != nil {
		w.say(slog.LevelError, "rego: the file of policies is refused", "path", w.path, "version", set.Version, "error", err)
		return
	}
	w.say(slog.LevelInfo, "rego: the file of policies is in force", "path", w.path, "version", set.Version)
}

// say logs what has not been said just before.
func (w *Watcher) say(level slog.Level, text string, args ...any) {
	if line := fmt.Sprint(append([]any{text}, args...)...); line != w.said {
		w.said = line
		w.log.Log(context.Background(), level, text, args...)
	}
}
