package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

// served are the stores that policies are served from, and what watches their files.
type served struct {
	main     *policy.Store
	own      map[string]*policy.Store // by service
	watchers []*file.Watcher
	waits    []*policy.Store // those whose file has to be read before anybody is served
}

// open reads the files, and goes on watching them.
func (v *serve) open(log *slog.Logger) (p *served, err error) {
	p = &served{own: make(map[string]*policy.Store)}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	initial := policy.Set{}
	if v.file == "" {
		if initial, err = file.Parse(builtIn, file.YAML); err != nil {
			return p, err
		}
	}
	var options []policy.StoreOption
	if v.snapshot != "" {
		options = append(options, policy.Snapshot(v.snapshot))
	}
	if p.main, err = policy.NewStore(initial, options...); err != nil {
		return p, err
	}
	if err := p.add(p.main, v.file, v.owner.limits, log); err != nil {
		return p, err
	}
	for service, path := range v.services {
		if service == "" || path == "" || !utf8.ValidString(service) || len(service) > policy.MaxNameLength {
			return p, fmt.Errorf("--service must be NAME=FILE, got %q", service+"="+path)
		}
		p.own[service] = new(policy.Store)
		if err := p.add(p.own[service], path, v.owner.limits, log); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (p *served) add(st *policy.Store, path string, limits policy.Limits, log *slog.Logger) error {
	if err := st.Guard(limits.Check); err != nil {
		return err
	}
	if path == "" {
		return nil
	}
	w, err := file.Watch(path, st, file.WithLogger(log))
	if err != nil {
		return err
	}
	p.watchers = append(p.watchers, w)
	p.waits = append(p.waits, st)
	return nil
}

func (p *served) close() {
	for _, w := range p.watchers {
		_ = w.Close() // it only waits
	}
}

// follow tells of every change until ctx is done: to the audit log, and whether all files have
// been read once.
func (p *served) follow(ctx context.Context, audit *audit, ready func(bool)) {
	var mu sync.Mutex // so that the last to look is the last to tell
	tell := func() {
		mu.Lock()
		defer mu.Unlock()
		ready(!slices.ContainsFunc(p.waits, func(st *policy.Store) bool { return st.Status().Source == "" }))
	}
	tell()
	watch := func(service string, st *policy.Store) {
		seen := st.Current()
		audit.began(service, st)
		go func() {
			var failed error // of the snapshot
			for refusals := int64(0); ; {
				changed := st.Changed()
				now := st.Status()
				if t := st.Current(); t != seen {
					audit.changed(service, now, seen, t)
					seen = t
				}
				if now.Refusals != refusals {
					audit.refused(service, now)
					refusals = now.Refusals
				}
				if err := now.SnapshotErr; (err == nil) != (failed == nil) {
					audit.snapshot(service, err)
					failed = err
				}
				tell()
				select {
				case <-changed:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	watch("", p.main)
	for service, st := range p.own {
		watch(service, st)
	}
}
