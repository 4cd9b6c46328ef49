package repository

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Repository keeps the policies of services in a storage. The service "" stands for all
// services without policies of their own. It is safe for concurrent use, also with
// repositories of other processes in the same storage.
//
// If the storage is durable, revisions are the storage's own: every replica and every client
// has the same number for the same set. Otherwise they follow the revisions of the sets that
// were there first.
type Repository struct {
	storage Storage
	check   func(service string, t *policy.Table) error
	files   Files // nil if nothing outlives the storage

	writing sync.Mutex // held while a change is made that files are told of before
}

// New returns a repository in s. check is called for every set that somebody puts, with its
// service. Its error refuses the set. Nil means that all valid sets may be put.
func New(s Storage, check func(service string, t *policy.Table) error) *Repository {
	return &Repository{storage: s, check: check}
}

// Files keep what must outlive a repository that is not durable.
type Files interface {
	// Write writes the set that will be in force for a service. It is called before any
	// client gets the set. Its error refuses the change.
	Write(service string, s policy.Set) error
	// Mark remembers the highest revision that clients of a service may have, before any
	// client gets it. Its error refuses the change.
	Mark(service string, m Mark) error
	// Marked returns what Mark remembered last; the zero Mark if nothing.
	Marked(service string) Mark
}

// KeepIn makes r keep in f what must outlive its storage, and returns r.
func (r *Repository) KeepIn(f Files) *Repository {
	r.files = f
	return r
}

// Durable reports whether the policies outlive this process.
func (r *Repository) Durable() bool { return r.storage.Durable() }

// Storage returns the storage of the repository.
func (r *Repository) Storage() Storage { return r.storage }

// Policies are what a service has.
type Policies struct {
	Service string
	// Set that is in force, and who put it; nil if none ever was.
	Set      policy.Set
	Revision *regov1.Revision
	// Candidate is the set that is tried out; nil if none is. Rollout describes its rollout,
	// or the last one when it has ended; nil if there was none.
	Candidate *policy.Set
	Rollout   *regov1.Rollout

	head  *regov1.StoredHead
	entry uint64 // revision of the head's entry; 0 if there is none
}

// Trying reports whether a set is tried out.
func (p Policies) Trying() bool { return p.Candidate != nil }

// Same reports whether nothing has been changed from p to o.
func (p Policies) Same(o Policies) bool { return p.entry == o.entry }

// ErrNotFound is for a service that has no policies, or a revision that is not in its history.
var ErrNotFound = errors.New("not found")

// ErrInvalid is for a change that cannot be made as it is. If a set has faults, the error is
// a [policy.Faults] instead.
var ErrInvalid = errors.New("invalid")

// Bounds of what a change says.
const (
	maxMessage  = 1 << 10
	maxChangeID = 128
	maxAuthor   = 512
)

// By is who makes a change, and why.
type By struct {
	Author  string // at most 512 bytes
	Message string // at most 1 KiB
	// ChangeID identifies the change: if the last change of the service has the same ID, the
	// change is answered and not made again. Empty means none.
	ChangeID string // at most 128 bytes
}

func (b By) validate() error {
	for _, of := range []struct {
		name, text string
		most       int
	}{{"author", b.Author, maxAuthor}, {"message", b.Message, maxMessage}, {"change_id", b.ChangeID, maxChangeID}} {
		switch {
		case len(of.text) > of.most:
			return fmt.Errorf("%w: %s may have %d bytes, got %d", ErrInvalid, of.name, of.most, len(of.text))
		case !utf8.ValidString(of.text):
			return fmt.Errorf("%w: %s must be UTF-8", ErrInvalid, of.name)
		}
	}
	return nil
}

func validService(service string) error {
	if len(service) > policy.MaxNameLength || !utf8.ValidString(service) || strings.ContainsFunc(service, unicode.IsControl) {
		return fmt.Errorf("%w: service must be UTF-8 without control characters, of at most %d bytes", ErrInvalid, policy.MaxNameLength)
	}
	return nil
}

func (p Policies) revision() uint64 { return p.Set.Revision }

// epoch returns the highest that a client may have.
func (p Policies) epoch() uint64 {
	if p.Candidate != nil {
		return max(p.Set.Epoch, p.Candidate.Epoch)
	}
	return p.Set.Epoch
}

// attempts is how often a change is tried that others get in the way of.
const attempts = 20

// change makes a change of a service: decide is given what there is, and asked again if somebody
// else was faster. A change whose id is that of the last one has been made already.
func (r *Repository) change(ctx context.Context, service, id string, decide func(Policies) (*edit, error)) (Policies, error) {
	if r.files != nil {
		r.writing.Lock()
		defer r.writing.Unlock()
	}
	for range attempts {
		have, err := r.newest(ctx, service)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return Policies{}, err
		}
		if id != "" && have.head.GetChangeId() == id {
			return have, nil
		}
		e, err := decide(have)
		if err != nil {
			return Policies{}, err
		}
		if e == nil {
			return have, nil
		}
		if e.head.ChangeId = id; e.again {
			e.head.ChangeId = ""
		}
		err = r.commit(ctx, e)
		switch {
		case err == nil && e.again:
		case err == nil:
			return r.Get(ctx, service)
		case !errors.Is(err, ErrConflict):
			return Policies{}, err
		}
	}
	return Policies{}, fmt.Errorf("%w, %d times", ErrConflict, attempts)
}

// newest is Get for who is to change something: what is added then gets a revision above all that
// clients may have.
func (r *Repository) newest(ctx context.Context, service string) (Policies, error) {
	have, err := r.Get(ctx, service)
	if m := r.highest(have); m.Revision > have.head.GetHighest() && m.Epoch >= have.epoch() {
		if have.head == nil {
			have.head = new(regov1.StoredHead)
		}
		have.head.Highest = m.Revision
	}
	return have, err
}

// readTimeout bounds what is read besides, when nobody waits for it.
const readTimeout = 10 * time.Second
