package etcd_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy/etcd"
	"github.com/rego-go/rego/policy/etcd/etcdtest"
	"github.com/rego-go/rego/policy/repository"
)

// deaf is a server that answers transactions with an error, whether or not it has made them.
type deaf struct {
	pb.UnimplementedKVServer
	err  error
	txns atomic.Int64
}

func (d *deaf) Txn(context.Context, *pb.TxnRequest) (*pb.TxnResponse, error) {
	d.txns.Add(1)
	return nil, d.err
}

func serveDeaf(t *testing.T, err error) (*deaf, string) {
	t.Helper()
	d := &deaf{err: err}
	l, listenErr := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, listenErr)
	g := grpc.NewServer()
	pb.RegisterKVServer(g, d)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return d, l.Addr().String()
}

// TestCommitIsSentOnce: what a server may have made is not sent again. A member that knows no
// leader has made nothing, and so the next is asked.
func TestCommitIsSentOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		sent int64 // to two servers that answer so
	}{
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), 1}, // the client itself would send it 100 times
		{status.Error(codes.Canceled, "context canceled"), 1},
		{status.Error(codes.Unavailable, "transport is closing"), 1},
		{status.Error(codes.Internal, "odd"), 1},
		{rpctypes.ErrGRPCTimeout, 1},
		{rpctypes.ErrGRPCLeaderChanged, 1},
		{rpctypes.ErrGRPCNoLeader, 2},
	} {
		one, a := serveDeaf(t, c.err)
		other, b := serveDeaf(t, c.err)
		s := etcd.New(newClient(t, a, b), "/")
		_, err := s.Commit(t.Context(), nil, []repository.Change{{Key: "k"}})
		require.Error(t, err)
		require.NotErrorIs(t, err, repository.ErrConflict)
		require.NotErrorIs(t, err, context.Canceled, "of the caller")
		require.Contains(t, err.Error(), status.Convert(c.err).Message())
		require.Equal(t, c.sent, one.txns.Load()+other.txns.Load(), "%v", c.err)
	}
}

func TestCommitLimits(t *testing.T) {
	t.Parallel()
	client := newClient(t, start(t, 1).Endpoints()...)
	s := etcd.New(client, "/limits/")
	many := make([]repository.Change, 129)
	for i := range many {
		many[i] = repository.Change{Key: strings.Repeat("k", i+1)}
	}
	_, err := s.Commit(t.Context(), nil, many[1:])
	require.NoError(t, err)
	_, err = s.Commit(t.Context(), nil, many)
	require.ErrorIs(t, err, rpctypes.ErrTooManyOps)
	require.ErrorContains(t, err, "0 conditions and 129 changes")

	for _, size := range []int{1600 << 10, 4 << 20} { // more than etcd takes, and more than the client sends
		_, err = s.Commit(t.Context(), nil, []repository.Change{{Key: "large", Value: make([]byte, size)}})
		require.ErrorContains(t, err, "larger than etcd takes")
	}
	entries, err := s.List(t.Context(), "large")
	require.NoError(t, err)
	require.Empty(t, entries)

	// A storage ends where its prefix does.
	_, err = etcd.New(client, "/limits0").Commit(t.Context(), nil, []repository.Change{{Key: "k"}})
	require.NoError(t, err)
	all, err := etcd.New(client, "").List(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, all, 129)
	require.Equal(t, "/limits0k", all[128].Key)
	own, err := s.List(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, own, 128)

	l, err := etcd.New(newClient(t, client.Endpoints()...), "/limits/").Lease(t.Context(), time.Minute)
	require.NoError(t, err)
	_, err = s.Commit(t.Context(), nil, []repository.Change{{Key: "k", Lease: l}})
	require.ErrorContains(t, err, "changes[0]: the lease is of another storage")
	require.NoError(t, l.Close(t.Context()))
}

// TestListInPages: a page that is too large for the client is asked for in parts, and history
// that is gone between two pages is no error.
func TestListInPages(t *testing.T) {
	t.Parallel()
	endpoints := start(t, 1).Endpoints()
	other := newClient(t, endpoints...)
	s := etcd.New(other, "/pages/")
	var want []string
	for i := range 40 {
		c := repository.Change{Key: fmt.Sprintf("%02d", i), Value: make([]byte, 300<<10)}
		_, err := s.Commit(t.Context(), nil, []repository.Change{c})
		require.NoError(t, err)
		want = append(want, c.Key)
	}
	var pages, compactions int
	cfg := etcd.Config(endpoints...)
	cfg.MaxCallRecvMsgSize = 1 << 20
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any,
		cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if r, ok := req.(*pb.RangeRequest); ok {
			pages++
			if r.Revision > 0 && compactions < 2 {
				compactions++
				revision, err := s.Commit(ctx, nil, []repository.Change{{Key: "99", Value: make([]byte, compactions)}})
				require.NoError(t, err)
				_, err = other.Compact(ctx, int64(revision))
				require.NoError(t, err)
			}
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	}))
	client, err := clientv3.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	entries, err := etcd.New(client, "/pages/").List(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, 2, compactions)
	var got []string
	for _, e := range entries {
		got = append(got, e.Key)
	}
	require.Equal(t, append(want, "99"), got)
	require.Len(t, entries[40].Value, 2, "of the newest revision")
	t.Logf("%d requests", pages)
}

// TestOlderStorage: a storage that has lost its history is not taken for the truth.
func TestOlderStorage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, err := etcdtest.Start(dir, 1)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	r := &rig{T: t, cluster: c, storage: etcd.New(newClient(t, c.Endpoints()...), "/older/")}
	f := follow(t, "free", r.storage)
	for range 20 {
		r.do(repository.Change{Key: "k", Value: []byte("before")})
	}
	r.settle(f)
	c.Kill(0)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "member-0")))
	require.NoError(t, c.Restart(0))
	r.awaitLost(f)
	require.ErrorContains(t, f.lost, "older revision")
	require.Equal(t, "before", string(f.state()["k"].Value))
	for range 40 {
		r.do(repository.Change{Key: "k", Value: []byte("after")})
	}
	r.settle(f)
	require.Equal(t, "after", string(f.state()["k"].Value))
}
