package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy/repository"
)

// Commit is as in [repository.Storage]. It is one transaction of etcd, which has limits:
// usually 128 conditions and 128 changes (--max-txn-ops) and 1.5 MiB (--max-request-bytes).
// What exceeds them is an error, and nothing is changed. A commit without changes only asks
// whether the conditions hold, and its revision is the one of the commit before.
//
// It is sent once, to a member that knows a leader. It waits for such a member until ctx is
// done. Without a deadline that can be for ever.
func (s *Storage) Commit(ctx context.Context, conditions []repository.Condition, changes []repository.Change) (uint64, error) {
	ifs := make([]clientv3.Cmp, len(conditions))
	for i, c := range conditions {
		ifs[i] = clientv3.Compare(clientv3.ModRevision(s.prefix+c.Key), "=", int64(c.Revision))
	}
	thens, err := s.ops(changes)
	if err != nil {
		return 0, fmt.Errorf("etcd: commit: %w", err)
	}
	res, err := s.txn(ctx, ifs, thens)
	switch {
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return 0, fmt.Errorf("etcd: commit: %d conditions and %d changes are more than etcd takes at once: %w", len(ifs), len(thens), err)
	case errors.Is(err, rpctypes.ErrRequestTooLarge), status.Code(err) == codes.ResourceExhausted:
		return 0, fmt.Errorf("etcd: commit: the changes are larger than etcd takes at once: %w", err)
	case err != nil:
		return 0, fmt.Errorf("etcd: commit: %w", err)
	case !res.Succeeded:
		return 0, repository.ErrConflict
	}
	return uint64(res.Header.GetRevision()), nil
}

// txn asks the next member when one says that it knows no leader, which it says before it does
// anything. Nothing else is sent again.
func (s *Storage) txn(ctx context.Context, ifs []clientv3.Cmp, thens []clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx = clientv3.WithRequireLeader(ctx)
	for left := len(s.client.Endpoints()); ; left-- {
		res, err := s.kv.Txn(ctx).If(ifs...).Then(thens...).Commit()
		if left <= 1 || !errors.Is(err, rpctypes.ErrNoLeader) {
			return res, err
		}
	}
}

func (s *Storage) ops(changes []repository.Change) ([]clientv3.Op, error) {
	ops := make([]clientv3.Op, 0, len(changes))
	keys := make(map[string]struct{}, len(changes))
	for i, c := range changes {
		if _, ok := keys[c.Key]; ok {
			return nil, fmt.Errorf("changes[%d]: %q is changed twice", i, c.Key)
		}
		keys[c.Key] = struct{}{}
		if c.Delete {
			ops = append(ops, clientv3.OpDelete(s.prefix+c.Key))
			continue
		}
		var opts []clientv3.OpOption
		if c.Lease != nil {
			l, ok := c.Lease.(*lease)
			if !ok || l.client != s.client {
				return nil, fmt.Errorf("changes[%d]: the lease is of another storage", i)
			}
			opts = append(opts, clientv3.WithLease(l.id))
		}
		ops = append(ops, clientv3.OpPut(s.prefix+c.Key, string(c.Value), opts...))
	}
	return ops, nil
}

func (s *Storage) entry(kv *mvccpb.KeyValue) repository.Entry {
	return repository.Entry{Key: s.key(kv), Value: kv.Value, Revision: uint64(kv.ModRevision)}
}

func (s *Storage) key(kv *mvccpb.KeyValue) string { return string(kv.Key[len(s.prefix):]) }

// once has a transaction sent once. The client by itself sends it again when a server answers
// with DEADLINE_EXCEEDED or CANCELED, though the server may have made it: the second would
// then find that its conditions do not hold, and a commit that was made would be a conflict.
type once struct{ pb.KVClient }

func (o once) Txn(ctx context.Context, in *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	// What the client sends again it does not send when its context is done.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	return o.KVClient.Txn(ctx, in, append(slices.Clip(opts), grpc.OnFinish(func(err error) {
		if code := status.Code(err); code == codes.DeadlineExceeded || code == codes.Canceled {
			stop()
		}
	}))...)
}
