package etcd_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/etcd"
	"github.com/rego-go/rego/policy/etcd/etcdtest"
	"github.com/rego-go/rego/policy/repository"
)

// TestFollow: etcd is the source of a program's store, without a control plane between them. The
// store has the newest set after members were killed, and none older on the way; its revision is
// etcd's.
func TestFollow(t *testing.T) {
	t.Parallel()
	cluster, err := etcdtest.Start(t.TempDir(), 3)
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	open := func() *repository.Repository {
		client, err := clientv3.New(etcd.Config(cluster.Endpoints()...))
		require.NoError(t, err)
		t.Cleanup(func() { _ = client.Close() })
		return repository.New(etcd.New(client, "/rego/"), nil)
	}
	writer := open()
	var shop, other policy.Store
	for service, st := range map[string]*policy.Store{"shop": &shop, "other": &other} {
		f := open().Follow(service, "etcd", st, slog.New(slog.DiscardHandler))
		t.Cleanup(func() { _ = f.Close() })
	}
	// put puts a set, and puts it again while that may not have been done.
	put := func(service, version string) uint64 {
		t.Helper()
		set := policy.Set{Version: version, Rules: []policy.Rule{{Methods: []string{"*"}, Policy: policy.Policy{Name: version}}}}
		for {
			p, err := writer.Put(t.Context(), repository.Put{By: repository.By{ChangeID: version}, Service: service, Set: set, Overwrite: true})
			if err == nil {
				return p.Set.Revision
			}
		}
	}
	until := func(st *policy.Store, version string) policy.Status {
		t.Helper()
		last := uint64(0)
		for {
			changed := st.Changed()
			s := st.Status()
			require.GreaterOrEqual(t, s.Revision, last)
			last = s.Revision
			if s.Version == version && s.State() == policy.StateCurrent {
				return s
			}
			select {
			case <-changed:
			case <-time.After(time.Minute):
				require.Fail(t, "it has not come", "%+v", s)
			}
		}
	}
	revision := put("", "of all")
	assert.Equal(t, revision, until(&other, "of all").Revision)
	until(&shop, "of all")
	put("shop", "of the shop")
	assert.Equal(t, "etcd", until(&shop, "of the shop").Source)
	put("", "of all, again")
	until(&other, "of all, again")
	assert.Equal(t, "of the shop", shop.Status().Version)
	for i := range 3 {
		cluster.Kill(i)
		version := fmt.Sprint("while ", i, " was away")
		revision := put("shop", version)
		assert.Equal(t, revision, until(&shop, version).Revision)
		require.NoError(t, cluster.Restart(i))
	}
}
