package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"unicode/utf8"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	"github.com/rego-go/rego/policy/etcd"
	"github.com/rego-go/rego/policy/file"
	"github.com/rego-go/rego/policy/repository"
)

// kept is where policies are kept: in etcd, or in files that are watched.
type kept struct {
	repo     *repository.Repository
	log      *slog.Logger
	options  []controlplane.ServeOption
	client   *clientv3.Client // of etcd; nil with files
	places   map[string]place // of the policies of services; empty with etcd
	watchers []*file.Watcher
	waits    []*policy.Store // those whose file has to be read before anybody is served
}

// open opens what policies are kept in.
func (v *serve) open(ctx context.Context, log *slog.Logger) (k *kept, err error) {
	k = &kept{log: log, places: make(map[string]place)}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	if len(v.cluster.endpoints) > 0 {
		if k.client, err = v.cluster.open(ctx); err != nil {
			return k, err
		}
		k.repo = repository.New(etcd.New(k.client, v.cluster.prefix), func(_ string, t *policy.Table) error { return v.owner.limits.Check(t) })
		k.options = append(k.options, controlplane.SourceName("etcd"))
		return k, nil
	}
	k.repo = repository.New(repository.Memory(), func(service string, t *policy.Table) error {
		if err := v.owner.limits.Check(t); err != nil {
			return err
		}
		return k.has(service)
	}).KeepIn(k)
	return k, v.openFiles(k, log)
}

// openFiles reads the files, and goes on watching them.
func (v *serve) openFiles(k *kept, log *slog.Logger) (err error) {
	initial := policy.Set{}
	if v.file == "" {
		if initial, err = file.Parse(builtIn, file.YAML); err != nil {
			return err
		}
	}
	var options []policy.StoreOption
	if v.snapshot != "" {
		options = append(options, policy.Snapshot(v.snapshot))
	}
	main, err := policy.NewStore(initial, options...)
	if err != nil {
		return err
	}
	if err := k.add("", main, v.file, v.owner.limits, log); err != nil {
		return err
	}
	for service, path := range v.services {
		if service == "" || path == "" || !utf8.ValidString(service) || len(service) > policy.MaxNameLength {
			return fmt.Errorf("--service must be NAME=FILE, got %q", service+"="+path)
		}
		if err := k.add(service, new(policy.Store), path, v.owner.limits, log); err != nil {
			return err
		}
	}
	return nil
}

// add has the policies of a service be those of a file or, without one, those that are put.
func (k *kept) add(service string, st *policy.Store, path string, limits policy.Limits, log *slog.Logger) error {
	if err := st.Guard(limits.Check); err != nil {
		return err
	}
	if path == "" {
		put := st.Source("memory")
		k.places[service] = place{store: st, put: put}
		k.options = append(k.options, controlplane.Outlet(service, st, "memory"))
		return put.Update(st.Current().Set()) // so that it can be changed
	}
	w, err := file.Watch(path, st, file.WithLogger(log))
	if err != nil {
		return err
	}
	k.watchers = append(k.watchers, w)
	k.waits = append(k.waits, st)
	k.places[service] = place{store: st, path: path}
	k.options = append(k.options, controlplane.Outlet(service, st, path))
	return nil
}

func (k *kept) close() {
	for _, w := range k.watchers {
		_ = w.Close() // it only waits
	}
	if k.client != nil {
		_ = k.client.Close() // nothing is on its way any more
	}
}

// has returns why a set cannot be put for a service: without a file it would be lost with this
// process, and those of the others are not.
func (k *kept) has(service string) error {
	switch {
	case k.places[service].path != "" || len(k.watchers) == 0:
		return nil
	case service == "":
		return fmt.Errorf("%w: the policies of all services have no file here: --file gives them one", repository.ErrInvalid)
	}
	return fmt.Errorf("%w: service %q has no file here: --service %s=FILE gives it one", repository.ErrInvalid, service, service)
}

// follower tells of every change of the policies, until ctx is done: to the audit log, and whether
// all files have been read once.
type follower struct {
	ctx   context.Context
	audit *audit
	kept  *kept
	ready func(bool)
	mu    sync.Mutex // so that the last to look is the last to tell
}

// tell tells whether all files have been read once.
func (f *follower) tell() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kept.client == nil {
		f.ready(!slices.ContainsFunc(f.kept.waits, func(st *policy.Store) bool { return st.Status().Source == "" }))
	}
}

// watch tells of every change of the policies of a service.
func (f *follower) watch(service string, st *policy.Store) {
	seen := st.Current()
	f.audit.began(service, st)
	go func() {
		var failed error // of the snapshot
		for refusals := int64(0); ; {
			changed := st.Changed()
			now := st.Status()
			if t := st.Current(); t != seen {
				f.audit.changed(service, now, seen, t)
				seen = t
			}
			if now.Refusals != refusals {
				f.audit.refused(service, now)
				refusals = now.Refusals
			}
			if err := now.SnapshotErr; (err == nil) != (failed == nil) {
				f.audit.snapshot(service, err)
				failed = err
			}
			f.tell()
			select {
			case <-changed:
			case <-f.ctx.Done():
				return
			}
		}
	}()
}
