package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rego-go/rego/policy/repository"
)

// Lease is as in [repository.Storage]. The ttl is rounded up to whole seconds. etcd has a
// minimum of one and a half election timeouts, usually two seconds. The lease is kept alive
// three times in each ttl, each time by a separate call, so that a member that does not
// answer delays it but does not end it.
//
// Done is also closed when etcd has not answered for ttl. Then the entries are gone, unless
// etcd has had no leader during that time: after a leader was elected, etcd lets them live
// for another ttl.
func (s *Storage) Lease(ctx context.Context, ttl time.Duration) (repository.Lease, error) {
	remote := clientv3.RetryLeaseClient(s.client)
	seconds := max(1, int64((ttl+time.Second-1)/time.Second))
	begun := time.Now()
	granted, err := remote.LeaseGrant(clientv3.WithRequireLeader(ctx), &pb.LeaseGrantRequest{TTL: seconds})
	if err != nil {
		return nil, fmt.Errorf("etcd: lease: %w", clientv3.ContextError(ctx, err))
	}
	// It outlives ctx, which is that of the request.
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &lease{
		client: s.client, remote: remote, id: clientv3.LeaseID(granted.ID),
		stop: stop, done: make(chan struct{}),
	}
	go l.keepAlive(keep, begun, time.Duration(granted.TTL)*time.Second)
	return l, nil
}

type lease struct {
	client *clientv3.Client
	remote pb.LeaseClient
	id     clientv3.LeaseID
	stop   context.CancelFunc // ends keepAlive
	done   chan struct{}      // closed by keepAlive

	once sync.Once
	err  error // of the first Close
}

func (l *lease) Done() <-chan struct{} { return l.done }

func (l *lease) Close(ctx context.Context) error {
	l.once.Do(func() {
		_, err := l.remote.LeaseRevoke(clientv3.WithRequireLeader(ctx), &pb.LeaseRevokeRequest{ID: int64(l.id)})
		l.stop()
		<-l.done
		if err = clientv3.ContextError(ctx, err); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			l.err = fmt.Errorf("etcd: close a lease: %w", err)
		}
	})
	return l.err
}

// retryKeepAlive is the longest wait before a lease that could not be kept alive is tried again.
const retryKeepAlive = 300 * time.Millisecond

// keepAlive returns when the lease has ended, or has to be taken as ended: when nothing that was
// sent within a ttl has been answered.
func (l *lease) keepAlive(ctx context.Context, heard time.Time, ttl time.Duration) {
	defer close(l.done)
	defer l.stop()
	wait := time.NewTimer(ttl / 3)
	defer wait.Stop()
	for {
		select {
		case <-wait.C:
		case <-ctx.Done():
			return
		}
		begun := time.Now()
		left, err := l.renew(ctx, ttl/4)
		switch {
		case err == nil && left <= 0, errors.Is(err, rpctypes.ErrLeaseNotFound):
			return
		case err == nil:
			heard = begun
			wait.Reset(ttl / 3)
		case time.Since(heard) >= ttl:
			return
		default:
			wait.Reset(min(rand.N(retryKeepAlive), ttl-time.Since(heard)))
		}
	}
}

// renew keeps the lease alive once, and returns how long it lives from now on.
func (l *lease) renew(ctx context.Context, patience time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), patience)
	defer cancel()
	stream, err := pb.NewLeaseClient(l.client.ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil {
		return 0, rpctypes.Error(err)
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(l.id)}); err != nil {
		return 0, rpctypes.Error(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		return 0, rpctypes.Error(err)
	}
	return time.Duration(answer.TTL) * time.Second, nil
}
