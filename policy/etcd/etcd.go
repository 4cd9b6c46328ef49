// Package etcd keeps in etcd what the replicas of a control plane share. A [Storage] is a
// repository.Storage. Any number of processes have one each.
//
// All keys of a storage begin with its prefix. Let nothing else write there: it would change
// policies without any check. Reads and watches are never older than what was known before.
// A watch says when etcd cannot be reached. A commit is sent once: if it is not known to
// have failed, it may have been made.
//
// Begin with [Config] for a client that notices dead connections, and [New].
package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy/repository"
)

// Storage is a part of what etcd keeps: all keys that begin with a prefix. It is safe for
// concurrent use.
//
// Revisions are etcd's own. They count all keys of the cluster, so there may be gaps between
// two commits of a storage. An entry may be as large as a request to etcd: 1.5 MiB with keys
// and all changes of its commit, unless the servers have another --max-request-bytes.
type Storage struct {
	client *clientv3.Client
	kv     clientv3.KV
	prefix string
}

// New returns the storage of all keys that begin with prefix, such as "/rego/". An empty
// prefix means all keys of the cluster. If two control planes are in one cluster, none of
// their prefixes may begin with the other: otherwise one reads and changes the policies of
// the other.
//
// The client belongs to the caller. Close it after all watches and leases have ended. The
// storage uses the client's connection and credentials. It does not use the fields KV,
// Watcher and Lease, so a namespace in them has no effect.
func New(client *clientv3.Client, prefix string) *Storage {
	kv := clientv3.NewKVFromKVClient(once{clientv3.RetryKVClient(client)}, client)
	return &Storage{client: client, kv: kv, prefix: prefix}
}

// Durable is true.
func (s *Storage) Durable() bool { return true }

// List is as in [repository.Storage]. It asks in pages, all at one revision, so the number
// of entries has no limit. It asks one member after the other until ctx is done.
func (s *Storage) List(ctx context.Context, prefix string) ([]repository.Entry, error) {
	entries, _, err := s.list(ctx, prefix, 0, firstPatience)
	if err != nil {
		return nil, fmt.Errorf("etcd: list %q: %w", s.prefix+prefix, err)
	}
	return entries, nil
}

const (
	// A page has 16 entries at first, and twice as many while pages are small: no answer is
	// larger than the largest entry times 256, and thousands of small entries are a few answers.
	firstPage = 16
	lastPage  = 256
	smallPage = 1 << 20
	// Each member is given firstPatience for a page at first, and then twice as long each time
	// that none came. A page is tried again, rather than all, since pages go to one member after
	// the other: of many pages, some go to a member that does not answer.
	firstPatience = time.Second
	lastPatience  = 16 * time.Second
)

// list returns also the revision that the entries are of. It tries each page so often, or until ctx
// is done if tries is zero.
func (s *Storage) list(ctx context.Context, prefix string, tries int, patience time.Duration) ([]repository.Entry, int64, error) {
	l := listing{storage: s, tries: tries, patience: patience, limit: firstPage}
	for {
		l.begin(s.prefix + prefix)
		err := l.run(ctx)
		switch {
		case err == nil:
			return l.entries, l.revision, nil
		case errors.Is(err, rpctypes.ErrCompacted) && ctx.Err() == nil:
			// Between two pages. All is read again at a newer revision.
		default:
			return nil, 0, err
		}
	}
}

// listing reads a range page by page.
type listing struct {
	storage  *Storage
	tries    int
	patience time.Duration
	limit    int64

	from, end string
	revision  int64 // of the first page; 0 before it
	entries   []repository.Entry
}

// begin starts at the first key with the prefix.
func (l *listing) begin(prefix string) {
	l.from, l.end = prefix, clientv3.GetPrefixRangeEnd(prefix)
	if prefix == "" {
		l.from, l.end = "\x00", "\x00" // etcd's words for all keys
	}
	l.revision, l.entries = 0, nil
}

func (l *listing) run(ctx context.Context) error {
	for {
		page, err := l.page(ctx)
		if l.limit > 1 && status.Code(err) == codes.ResourceExhausted {
			l.limit /= 2 // it was larger than the client takes
			continue
		}
		if err != nil {
			return err
		}
		if l.revision == 0 {
			l.revision = page.Header.GetRevision()
		}
		size := 0
		for _, kv := range page.Kvs {
			size += len(kv.Key) + len(kv.Value)
			l.entries = append(l.entries, l.storage.entry(kv))
		}
		if !page.More || len(page.Kvs) == 0 {
			return nil
		}
		l.from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		if size < smallPage {
			l.limit = min(2*l.limit, lastPage)
		}
	}
}

// page asks until a member answers.
func (l *listing) page(ctx context.Context) (*clientv3.GetResponse, error) {
	for try := 1; ; try++ {
		page, err := l.ask(ctx, doubled(l.patience, try-l.storage.members(), lastPatience))
		if err == nil || try == l.tries || ctx.Err() != nil || !isUnavailable(err) {
			return page, err
		}
	}
}

// ask makes a linearizable read, so that the revision of the first page is at least that of
// every commit that has returned.
func (l *listing) ask(ctx context.Context, patience time.Duration) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), patience)
	defer cancel()
	return l.storage.kv.Get(ctx, l.from, clientv3.WithRange(l.end), clientv3.WithLimit(l.limit), clientv3.WithRev(l.revision))
}

// members is how many members are asked, one after the other, before none is thought to answer.
func (s *Storage) members() int { return min(len(s.client.Endpoints()), 3) }

// isUnavailable reports whether another member, or the same later, may give another answer.
func isUnavailable(err error) bool {
	var e rpctypes.EtcdError
	switch {
	case errors.As(err, &e):
		return e.Code() == codes.Unavailable
	case errors.Is(err, context.DeadlineExceeded):
		return true
	default:
		code := status.Code(err)
		return code == codes.Unavailable || code == codes.DeadlineExceeded
	}
}

// doubled is d, doubled n times, up to most.
func doubled(d time.Duration, n int, most time.Duration) time.Duration {
	for ; n > 0 && d < most; n-- {
		d *= 2
	}
	return min(d, most)
}
