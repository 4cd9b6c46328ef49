package etcd

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rego-go/rego/policy/repository"
)

const (
	// grace is how long a watch looks for etcd before it says that etcd is lost. An election
	// takes about as long.
	grace = 2 * time.Second
	// Tries are up to firstDelay apart, and up to twice as far each time.
	firstDelay = 50 * time.Millisecond
	lastDelay  = 2 * time.Second
)

// Watch is as in [repository.Storage]. Once a second it checks whether it still gets all
// updates, by a read of no entries that the quorum of etcd confirms. So within six seconds
// it leaves a member that is cut off from the others, or a connection that has died
// silently. Then it reads all entries again, as after a compaction that it was too slow for.
// It leaves a member that knows no leader at once, and goes on at the next member.
//
// Lost is reported within ten seconds of the fault, when three members in turn have not
// answered, or as many as the client knows. It tries again at random intervals of up to two
// seconds. Lost is also reported while etcd has an older revision than the watch has seen,
// for example after a backup was restored without raising revisions. Such a watch goes on
// when etcd has passed that revision, or in a new process.
func (s *Storage) Watch(ctx context.Context, prefix string) iter.Seq[repository.Update] {
	return func(yield func(repository.Update) bool) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		w := &watch{storage: s, prefix: prefix, since: time.Now()}
		w.tell = func(u repository.Update) {
			if ctx.Err() == nil && !yield(u) {
				stop()
			}
		}
		w.run(ctx)
	}
}

// watch reads all, follows, and begins anew when it cannot follow.
type watch struct {
	storage *Storage
	prefix  string
	tell    func(repository.Update) // does nothing once the context of run is done

	seen  int64     // the revision up to which all has been told
	since time.Time // when it was found out that etcd cannot be followed
	lost  bool      // and that has been told
	tries int       // since etcd could be followed last
}

func (w *watch) run(ctx context.Context) {
	for ctx.Err() == nil {
		w.wait(ctx)
		err := w.reset(ctx)
		if err == nil {
			err = w.follow(ctx)
			w.since = time.Now()
			if errors.Is(err, errSilent) {
				w.since, w.tries = w.since.Add(-unanswered*tick), 0
			}
			continue
		}
		if !w.lost && time.Since(w.since) >= grace {
			w.lost = true
			w.tell(repository.Update{Lost: fmt.Errorf("etcd: watch %q: %w", w.storage.prefix+w.prefix, err)})
		}
	}
}

// wait lets time pass before another try.
func (w *watch) wait(ctx context.Context) {
	w.tries++
	if w.tries == 1 {
		return
	}
	t := time.NewTimer(rand.N(doubled(firstDelay, w.tries-1, lastDelay)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// reset reads and tells all.
func (w *watch) reset(ctx context.Context) error {
	entries, at, err := w.storage.list(ctx, w.prefix, w.storage.members(), doubled(firstPatience, w.tries-1, lastPatience))
	if err != nil {
		return err
	}
	if at < w.seen {
		return fmt.Errorf("%w: it is at %d, and was at %d", errOlder, at, w.seen)
	}
	w.seen, w.lost = at, false
	w.tell(repository.Update{Reset: true, Put: entries})
	return nil
}

// Why a watch is left that does not say why itself.
var (
	errEnded  = errors.New("the watch has ended")
	errSilent = errors.New("no answer")
	errOlder  = errors.New("the storage has gone back to an older revision")
)

// follow tells what changes, until it cannot be followed without reading all again.
func (w *watch) follow(ctx context.Context) error {
	for left := len(w.storage.client.Endpoints()); ; left-- {
		err := w.stream(ctx)
		if left <= 1 || !errors.Is(err, rpctypes.ErrNoLeader) {
			return err
		}
	}
}

// stream follows one member, until the watch has ended or cannot be trusted any more.
func (w *watch) stream(ctx context.Context) error {
	// Its own watcher has its own stream, and takes the next member when it is made anew.
	watcher := clientv3.NewWatcher(w.storage.client)
	defer watcher.Close() //nolint:errcheck // it is left
	ctx, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer stop()

	opened := make(chan clientv3.WatchChan, 1)
	go func() {
		opened <- watcher.Watch(ctx, w.storage.prefix+w.prefix, clientv3.WithPrefix(),
			clientv3.WithRev(w.seen+1), clientv3.WithFragment())
	}()
	checks := make(chan checked, 1)
	checking := false

	var responses clientv3.WatchChan
	var p pulse
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	for {
		select {
		case responses = <-opened:
			opened = nil
		case r, ok := <-responses:
			if !ok {
				return errEnded
			}
			if err := r.Err(); err != nil {
				return err
			}
			w.take(r.Events)
			w.settled(p.reached(told(r)))
		case c := <-checks:
			checking = false
			switch {
			case c.err != nil: // the next may go to another member
			case c.revision < c.seen:
				return errOlder
			default:
				w.settled(p.current(c.revision))
			}
		case <-ticks.C:
			if !p.tick() {
				return errSilent
			}
			if !checking {
				checking = true
				seen := w.seen
				go func() { checks <- w.check(ctx, watcher, seen) }()
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// told is the revision up to which a watch has told all with a response. The header of one with
// events may be ahead of them.
func told(r clientv3.WatchResponse) int64 {
	if len(r.Events) > 0 {
		return r.Events[len(r.Events)-1].Kv.ModRevision
	}
	return r.Header.GetRevision()
}

// settled forgets what went wrong once a watch keeps up.
func (w *watch) settled(keepsUp bool) {
	if keepsUp {
		w.tries = 0
	}
}

// checked is what a check has found.
type checked struct {
	seen     int64 // the revision that the watch was at when it began
	revision int64 // the revision that the quorum was at after that
	err      error
}

// check asks the quorum for its revision, and the watch's member how far it has told. The answer
// of the member is a response of the watch. The key that is read is one that who may read the
// prefix may read.
func (w *watch) check(ctx context.Context, watcher clientv3.Watcher, seen int64) checked {
	ctx, cancel := context.WithTimeout(ctx, tick)
	defer cancel()
	now, err := w.storage.kv.Get(ctx, w.storage.prefix+w.prefix+"\x00", clientv3.WithCountOnly())
	if err != nil {
		return checked{err: err}
	}
	return checked{seen, now.Header.GetRevision(), watcher.RequestProgress(ctx)}
}

// take tells events, those of one revision together. The client has put the fragments of a
// response together, and etcd does not tell a revision in two responses.
func (w *watch) take(events []*clientv3.Event) {
	var u repository.Update
	var at int64
	for _, e := range events {
		if e.Kv.ModRevision <= w.seen {
			continue // it has been told before the stream was opened again
		}
		if at != 0 && at != e.Kv.ModRevision {
			w.tell(u)
			u = repository.Update{}
			w.seen = at
		}
		at = e.Kv.ModRevision
		if e.Type == clientv3.EventTypeDelete {
			u.Deleted = append(u.Deleted, w.storage.key(e.Kv))
		} else {
			u.Put = append(u.Put, w.storage.entry(e.Kv))
		}
	}
	if at != 0 {
		w.tell(u)
		w.seen = at
	}
}
