package etcd_test

import (
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rego-go/rego/internal/storagetest"
	"github.com/rego-go/rego/policy/etcd"
	"github.com/rego-go/rego/policy/etcd/etcdtest"
	"github.com/rego-go/rego/policy/repository"
)

var long = flag.Bool("long", false, "have every member be silent once, and not one of them")

func TestMain(m *testing.M) {
	etcdtest.Main()
	holdLease()
	// Tests wait for their clusters most of the time, rather than for a processor.
	if err := flag.Set("test.parallel", "6"); err != nil { // -parallel still says otherwise
		panic(err)
	}
	os.Exit(m.Run())
}

func start(t *testing.T, n int) *etcdtest.Cluster {
	t.Helper()
	c, err := etcdtest.Start(t.TempDir(), n)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func newClient(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(etcd.Config(endpoints...))
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestStorage(t *testing.T) {
	t.Parallel()
	client := newClient(t, start(t, 1).Endpoints()...)
	var opened atomic.Int64
	storagetest.Test(t, func(*testing.T) repository.Storage {
		return etcd.New(client, fmt.Sprintf("/test/%d/", opened.Add(1)))
	})
}
