package file

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/rego-go/rego/internal/plainfile"
	"github.com/rego-go/rego/policy"
)

const (
	// poll is how often a watched file is looked at. That costs a stat, works on every
	// file system, and follows renames and symlinks by itself.
	poll = 100 * time.Millisecond
	// patience is how many looks may find another file in the place of the one before,
	// until what is there is taken nevertheless: who replaces it all the time must not
	// keep every change away.
	patience = 10
	// rereadEvery is how many looks pass between two that read a file which seems to be
	// as it was: clocks of file systems are coarse, and some tell no changes.
	rereadEvery = 50
)

// Option configures [Watch].
type Option interface{ apply(*Watcher) }

type optionFunc func(*Watcher)

func (f optionFunc) apply(w *Watcher) { f(w) }

// WithFormat sets the format of the file. Default, and what zero means: the extension of its
// name says the format.
func WithFormat(f Format) Option { return optionFunc(func(w *Watcher) { w.format = f }) }

// WithLogger sets where the watcher reports sets that were taken or refused, and that the
// file is lost. Default, and what nil means: slog.Default.
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(w *Watcher) { w.log = cmp.Or(l, slog.Default()) })
}

// Watcher keeps a store up to date with a file.
type Watcher struct {
	path   string
	format Format
	store  *policy.Store
	source *policy.Source
	log    *slog.Logger
	stop   context.CancelFunc
	done   chan struct{}

	looks    int
	restless int         // looks that found another file in the place of the one before
	seen     os.FileInfo // when it was read last; nil if it could not be
	read     string      // what was read then
	told     bool        // the store has been told of a content, which is
	taken    string
	ended    bool   // what was in force last ended with YAML's end marker
	said     string // what was logged last, so that it is said once
}

// Watch keeps st up to date with the file at path, until the Watcher is closed. It reads the
// file at once, and then looks at it ten times a second. The file may be rewritten, replaced
// by renaming, swapped as a symlink (as Kubernetes mounts a ConfigMap), removed and put
// back. New content counts when two looks have found it, or when the file was replaced all
// the time for a second or more.
//
// So a file that is being written is not taken, unless its writer pauses in the middle. To
// be sure, write the file under another name and rename it. If a YAML file has once ended
// with the end marker, a line of three dots as [Marshal] writes it, it must go on ending
// with it: without it the file was cut short, and is refused. At the start it is taken as it
// is. While the file is gone, or has a fault, the store keeps what it has, and
// [policy.Store.Status] says why.
//
// The error says that the extension of path does not say the format, and that there is no
// [WithFormat].
func Watch(path string, st *policy.Store, opts ...Option) (*Watcher, error) {
	w := &Watcher{
		path: path, store: st, source: st.Source("file " + path), log: slog.Default(),
		done: make(chan struct{}),
	}
	for _, o := range opts {
		if o != nil {
			o.apply(w)
		}
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
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.restless = patience
	w.look()
	go w.run(ctx)
	return w, nil
}

// Close ends the watch and returns when it has ended. The store keeps what it has.
func (w *Watcher) Close() error {
	w.stop()
	<-w.done
	return nil
}

func (w *Watcher) run(ctx context.Context) {
	defer close(w.done)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.look()
		case <-ctx.Done():
			return
		}
	}
}

// look reads the file, unless it is known, and takes what has come to rest.
func (w *Watcher) look() {
	w.looks++
	info, err := os.Stat(w.path)
	switch {
	case err != nil:
		w.lose(err)
		return
	case !info.Mode().IsRegular():
		w.lose(fmt.Errorf("%s is not a file", w.path))
		return
	case info.Size() > policy.MaxSize:
		w.forget()
		w.refuse("", fault("must be at most %d bytes", policy.MaxSize))
		return
	}
	same := w.isSeen(info)
	if same && w.told && w.read == w.taken && w.looks%rereadEvery != 0 {
		return
	}
	data, err := readFile(w.path)
	if err != nil {
		w.lose(err)
		return
	}
	same = same && data == w.read
	replaced := w.seen != nil && !os.SameFile(w.seen, info)
	w.seen, w.read = info, data
	switch {
	case w.told && data == w.taken:
		w.restless = 0
	case same, w.restless >= patience:
		w.restless = 0
		w.take()
	case replaced:
		w.restless++
	}
}

// isSeen reports whether a file looks like the one that was read last.
func (w *Watcher) isSeen(info os.FileInfo) bool {
	return w.seen != nil && os.SameFile(w.seen, info) && w.seen.ModTime().Equal(info.ModTime()) && w.seen.Size() == info.Size()
}

// readFile reads no more than is too much.
func readFile(path string) (string, error) {
	f, _, err := plainfile.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it is only read
	data, err := io.ReadAll(io.LimitReader(f, policy.MaxSize+1))
	return string(data), err
}

// forget has what comes next told anew, whatever it is.
func (w *Watcher) forget() { w.seen, w.told = nil, false }

func (w *Watcher) lose(err error) {
	w.forget()
	w.restless = 0
	w.source.Lost(err)
	w.say(slog.LevelWarn, "rego: the file of policies cannot be read, policies stay as they are", "error", err)
}

func (w *Watcher) take() {
	w.told, w.taken = true, w.read
	set, faults := parse([]byte(w.read), w.format, &sets)
	ended := w.format == YAML && isEnded(w.read)
	if w.ended && !ended && len(faults) == 0 {
		faults = fault("must end with the line %s, as the file did before: it may have been cut short", endMarker)
	}
	if len(faults) > 0 {
		w.refuse(set.Version, faults)
		return
	}
	if err := w.source.Update(set); err != nil {
		w.tellRefused(set.Version, err)
		return
	}
	w.ended = ended
	const text = "rego: the file of policies is in force"
	if found := w.store.Status().Warnings; len(found) > 0 {
		w.say(slog.LevelWarn, text+", but for what has no effect here", "path", w.path, "version", set.Version, "warnings", found.Error())
		return
	}
	w.say(slog.LevelInfo, text, "path", w.path, "version", set.Version)
}

// refuse reports what could not be read as a set.
func (w *Watcher) refuse(version string, err error) {
	w.source.Refuse(version, err)
	w.tellRefused(version, err)
}

func (w *Watcher) tellRefused(version string, err error) {
	w.say(slog.LevelError, "rego: the file of policies is refused", "path", w.path, "version", version, "error", err)
}

// say logs what has not been said just before.
func (w *Watcher) say(level slog.Level, text string, args ...any) {
	if line := fmt.Sprint(append([]any{text}, args...)...); line != w.said {
		w.said = line
		w.log.Log(context.Background(), level, text, args...)
	}
}
