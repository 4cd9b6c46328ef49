package repository

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Keys. A service has a head, which says by number what is in force and what is tried out, and
// which every change writes: whoever changes something does so on the condition that the head
// is as it was. A set and its place in the log are written once, in the commit that first names
// them, so both entries have the revision of the set.
const (
	heads    = "heads/"
	logs     = "log/"
	sets     = "sets/"
	counts   = "counts/"
	evidence = "evidence/"
)

func headKey(service string) string { return heads + escape(service) + "/" }

func numbered(kind, service string, n uint64) string {
	return fmt.Sprintf("%s%s/%020d", kind, escape(service), n)
}

// escape makes one segment of a key.
func escape(s string) string { return url.PathEscape(s) }

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}

// kept is how many revisions of a service are in its history.
const kept = 100

// maxStored is the most bytes of a set once it is compressed: with what is written beside it, it
// has to stay below the 1.5 MiB that etcd takes.
const maxStored = 1 << 20

// edit is a change of a service that is to be committed.
type edit struct {
	service  string
	entry    uint64 // the head's, which must be as it was
	head     *regov1.StoredHead
	added    []added
	replaced uint64      // what is in force
	inForce  *policy.Set // that takes the place of another one, and has to be written; nil if none does
	drop     []uint64    // numbers that leave the history
	kept     bool        // the set has the revision that it is to have
	over     bool        // a rollout has ended
	again    bool        // it is the first half of a change
	also     []Change
}

// added is a set that is added to the history.
type added struct {
	number   uint64
	set      policy.Set
	revision *regov1.Revision
}

func (p Policies) edit() *edit {
	h := &regov1.StoredHead{}
	if p.head != nil {
		h = proto.CloneOf(p.head)
	}
	return &edit{service: p.Service, entry: p.entry, head: h, replaced: p.revision()}
}

// add adds a set to the history, which then has the number head.last.
func (e *edit) add(s policy.Set, made *regov1.Revision) {
	e.head.Last++
	if n := e.head.GetLast(); n > kept {
		if old := n - kept; old != e.head.GetCurrent() && old != e.head.GetCandidate() {
			e.drop = append(e.drop, old)
		}
	}
	if !e.kept {
		e.head.Highest++
	}
	s.Revision = e.head.GetHighest()
	made.Service, made.Epoch, made.Version, made.Revision = e.service, s.Epoch, s.Version, s.Revision
	made.Replaces = e.replaced
	made.Sha256 = digest(s)
	e.added = append(e.added, added{e.head.GetLast(), s, made})
}

// enforce puts the set that was added last in force, in the place of whatever is.
func (e *edit) enforce() {
	e.head.Current, e.head.Candidate = e.head.GetLast(), 0
	if !e.kept { // a file that has it already is left alone
		e.inForce = &e.added[len(e.added)-1].set
	}
}

// tell tells files what clients are about to get.
func (r *Repository) tell(e *edit) error {
	if r.files == nil {
		return nil
	}
	for _, a := range e.added {
		m := Mark{a.set.Epoch, a.set.Revision, a.revision.GetSha256()}
		if !m.above(r.files.Marked(e.service)) {
			continue
		}
		if err := r.files.Mark(e.service, m); err != nil && !e.kept { // it is where only others may write
			return fmt.Errorf("%w: the revision cannot be remembered: %w", ErrInvalid, err)
		}
	}
	if e.inForce != nil {
		if err := r.files.Write(e.service, *e.inForce); err != nil {
			return fmt.Errorf("%w: the policies cannot be written: %w", ErrInvalid, err)
		}
	}
	return nil
}

// end notes how the rollout ended that was under way.
func (e *edit) end(state regov1.RolloutState, reason string, now *timestamppb.Timestamp) {
	e.over = true
	ro := e.head.GetRollout()
	ro.State, ro.Reason, ro.Ended = state, reason, now
	if state == regov1.RolloutState_ROLLOUT_STATE_PROMOTED {
		ro.Share = 1
	} else {
		ro.Share = 0
	}
}

// commit makes the change, or none: [ErrConflict] if the head is not as it was.
func (r *Repository) commit(ctx context.Context, e *edit) error {
	return r.commitIf(ctx, e, []Condition{{headKey(e.service), e.entry}})
}

func (r *Repository) commitIf(ctx context.Context, e *edit, conditions []Condition) error {
	changes := slices.Clone(e.also)
	if e.over {
		more, err := r.leftOvers(ctx, e.service)
		if err != nil {
			return err
		}
		changes = append(changes, more...)
	}
	for _, a := range e.added {
		packed, err := pack(a.set)
		if err != nil {
			return err
		}
		changes = append(changes,
			Change{Key: numbered(sets, e.service, a.number), Value: packed},
			Change{Key: numbered(logs, e.service, a.number), Value: marshal(a.revision)})
	}
	for _, n := range e.drop {
		changes = append(changes,
			Change{Key: numbered(sets, e.service, n), Delete: true},
			Change{Key: numbered(logs, e.service, n), Delete: true})
	}
	if err := r.tell(e); err != nil {
		return err
	}
	if e.head != nil {
		changes = append(changes, Change{Key: headKey(e.service), Value: marshal(e.head)})
	}
	_, err := r.storage.Commit(ctx, conditions, changes)
	return err
}

// Get returns the policies of a service. The error is [ErrNotFound] if it has never had
// policies of its own; then the rest is as if it had none.
func (r *Repository) Get(ctx context.Context, service string) (Policies, error) {
	e, err := r.entry(ctx, headKey(service))
	if err != nil {
		return Policies{Service: service}, err
	}
	return r.load(ctx, service, e)
}

// entry returns the entry of a key, and [ErrNotFound] if there is none.
func (r *Repository) entry(ctx context.Context, key string) (Entry, error) {
	found, err := r.storage.List(ctx, key)
	if err != nil {
		return Entry{}, err
	}
	for _, e := range found {
		if e.Key == key {
			return e, nil
		}
	}
	return Entry{}, ErrNotFound
}

// load returns what a head says.
func (r *Repository) load(ctx context.Context, service string, e Entry) (Policies, error) {
	p := Policies{Service: service, head: new(regov1.StoredHead), entry: e.Revision}
	if err := proto.Unmarshal(e.Value, p.head); err != nil {
		return p, fmt.Errorf("the head of %s: %w: %w", whose(service), ErrDamaged, err)
	}
	var err error
	if p.Set, p.Revision, err = r.numbered(ctx, service, p.head.GetCurrent()); err != nil {
		return p, err
	}
	p.Rollout = p.head.GetRollout()
	if n := p.head.GetCandidate(); n != 0 {
		set, revision, err := r.numbered(ctx, service, n)
		if err != nil {
			return p, err
		}
		p.Candidate, p.Rollout.Candidate = &set, revision
	}
	return p, nil
}

// ErrDamaged is for entries of a storage that cannot be read, or that are missing although
// others are there. Remove or restore them in the storage.
var ErrDamaged = errors.New("what is stored cannot be read")

// numbered returns a set by its number, which a head or the log names.
func (r *Repository) numbered(ctx context.Context, service string, n uint64) (policy.Set, *regov1.Revision, error) {
	revision, err := r.made(ctx, service, n)
	if err != nil {
		return policy.Set{}, nil, err
	}
	content, err := r.entry(ctx, numbered(sets, service, n))
	if err != nil {
		return policy.Set{}, nil, unread(service, n, err)
	}
	set, err := unpack(content.Value)
	if err != nil {
		return policy.Set{}, nil, unread(service, n, fmt.Errorf("%w: %w", ErrDamaged, err))
	}
	set.Epoch, set.Revision = revision.GetEpoch(), revision.GetRevision()
	return set, revision, nil
}

// made returns who has made a set, by its number.
func (r *Repository) made(ctx context.Context, service string, n uint64) (*regov1.Revision, error) {
	meta, err := r.entry(ctx, numbered(logs, service, n))
	if err != nil {
		return nil, unread(service, n, err)
	}
	return r.revisionOf(meta)
}

// unread says of what a head or the log names why it cannot be read.
func unread(service string, n uint64, err error) error {
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%w: it is missing", ErrDamaged)
	}
	return fmt.Errorf("set %d of %s: %w", n, whose(service), err)
}

func (r *Repository) revisionOf(e Entry) (*regov1.Revision, error) {
	m := new(regov1.Revision)
	if err := proto.Unmarshal(e.Value, m); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", e.Key, ErrDamaged, err)
	}
	if r.storage.Durable() {
		m.Revision = e.Revision
	}
	return m, nil
}

// At returns the set that has, or had, a revision, and who put it.
func (r *Repository) At(ctx context.Context, service string, revision uint64) (policy.Set, *regov1.Revision, error) {
	all, err := r.storage.List(ctx, logs+escape(service)+"/")
	if err != nil {
		return policy.Set{}, nil, err
	}
	for _, e := range slices.Backward(all) { // in a new epoch, revisions come again
		m, err := r.revisionOf(e)
		if err != nil {
			return policy.Set{}, nil, err
		}
		if m.GetRevision() == revision {
			return r.numbered(ctx, service, numberOf(e.Key))
		}
	}
	return policy.Set{}, nil, fmt.Errorf("%w: revision %d is not in the history of %s", ErrNotFound, revision, whose(service))
}

func numberOf(key string) (n uint64) {
	_, _ = fmt.Sscanf(key[strings.LastIndexByte(key, '/')+1:], "%d", &n)
	return n
}

// Log returns the history of a service, the newest first: at most n revisions below before,
// or from the newest if before is 0. more says that there are older ones.
func (r *Repository) Log(ctx context.Context, service string, before uint64, n int) (list []*regov1.Revision, more bool, err error) {
	all, err := r.storage.List(ctx, logs+escape(service)+"/")
	if err != nil {
		return nil, false, err
	}
	for _, e := range slices.Backward(all) {
		m, err := r.revisionOf(e)
		switch {
		case err != nil:
			return nil, false, err
		case before != 0 && m.GetRevision() >= before:
		case len(list) == n:
			return list, true, nil
		default:
			list = append(list, m)
		}
	}
	return list, false, nil
}

// Overview says what is known about the policies of a service.
type Overview struct {
	Service string
	InForce *regov1.Revision // nil if what is stored cannot be read
	Rollout *regov1.Rollout  // the last one; nil if there was none
}

// Services returns an overview of the first n services, by name, and how many more there
// are.
func (r *Repository) Services(ctx context.Context, n int) (list []Overview, more int, err error) {
	all, err := r.storage.List(ctx, heads)
	if err != nil {
		return nil, 0, err
	}
	list = make([]Overview, min(len(all), n))
	failed := make([]error, len(list))
	var reading sync.WaitGroup
	room := make(chan struct{}, readers)
	for i := range list {
		reading.Go(func() {
			room <- struct{}{}
			list[i], failed[i] = r.overview(ctx, all[i])
			<-room
		})
	}
	reading.Wait()
	for _, err := range failed {
		if err != nil && !errors.Is(err, ErrDamaged) {
			return nil, 0, err
		}
	}
	return list, len(all) - len(list), nil
}

// readers is how many entries are read at a time: a storage far away takes a millisecond for each.
const readers = 32

// overview reads no set.
func (r *Repository) overview(ctx context.Context, e Entry) (o Overview, err error) {
	o.Service = serviceOf(e.Key)
	p := Policies{Service: o.Service, head: new(regov1.StoredHead)}
	if err := proto.Unmarshal(e.Value, p.head); err != nil {
		return o, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if o.InForce, err = r.made(ctx, o.Service, p.head.GetCurrent()); err != nil {
		return o, err
	}
	p.Rollout = p.head.GetRollout()
	if n := p.head.GetCandidate(); n != 0 {
		if p.Rollout.Candidate, err = r.made(ctx, o.Service, n); err != nil {
			return o, err
		}
		p.Candidate = &policy.Set{Revision: p.Rollout.GetCandidate().GetRevision()}
	}
	o.Rollout, err = r.Progress(ctx, p)
	return o, err
}

func serviceOf(key string) string {
	return unescape(strings.TrimSuffix(strings.TrimPrefix(key, heads), "/"))
}

// whose says in an error whose policies are meant.
func whose(service string) string {
	if service == "" {
		return "all services that have none of their own"
	}
	return fmt.Sprintf("service %q", service)
}
