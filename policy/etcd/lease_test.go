package etcd_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rego-go/rego/policy/etcd"
	"github.com/rego-go/rego/policy/repository"
)

const leaseTTL = 3 * time.Second

// holderEnv tells a process to hold a lease until it is killed: the endpoints.
const holderEnv = "REGO_ETCD_TEST_HOLDER"

func holdLease() {
	endpoints, ok := os.LookupEnv(holderEnv)
	if !ok {
		return
	}
	err := func() error {
		client, err := clientv3.New(etcd.Config(strings.Split(endpoints, ",")...))
		if err != nil {
			return err
		}
		s := etcd.New(client, "/lease/")
		l, err := s.Lease(context.Background(), leaseTTL)
		if err != nil {
			return err
		}
		_, err = s.Commit(context.Background(), nil, []repository.Change{{Key: "holder", Lease: l}})
		if err != nil {
			return err
		}
		<-l.Done()
		return fmt.Errorf("the lease ended")
	}()
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestLeases: a lease lives as long as its process, whatever leads the cluster, and its
// holder knows when it has ended.
func TestLeases(t *testing.T) {
	t.Parallel()
	c := start(t, 3)
	r := &rig{T: t, cluster: c, storage: etcd.New(newClient(t, c.Endpoints()...), "/lease/")}
	f := follow(t, "free", r.storage)
	has := func(key string) func() bool {
		return func() bool { _, ok := f.state()[key]; return ok }
	}
	hasNot := func(key string) func() bool {
		return func() bool { return !has(key)() }
	}

	// A lease lives on while leaders come and go, one of them without a word. It is longer than
	// a busy machine takes for that.
	long, err := r.storage.Lease(t.Context(), 6*leaseTTL)
	require.NoError(t, err)
	r.do(repository.Change{Key: "long", Lease: long})
	first := r.leader()
	require.NoError(t, c.MoveLeader(t.Context(), (first+1)%3))
	second := r.leader()
	c.Kill(second)
	r.do(repository.Change{Key: "mark"})
	c.Partition((second + 1) % 3)
	require.NoError(t, c.Restart(second))
	r.do(repository.Change{Key: "mark"})
	c.Heal((second + 1) % 3)
	r.settle(f)
	require.True(t, has("long")())
	require.False(t, ended(long)())

	// Another process, which is killed.
	p := exec.Command(os.Args[0])
	p.Env = append(os.Environ(), holderEnv+"="+strings.Join(c.Endpoints(), ","))
	p.Stderr = os.Stderr
	require.NoError(t, p.Start())
	t.Cleanup(func() { _ = p.Process.Kill() })
	r.eventually("the entry of another process", has("holder"))
	require.NoError(t, p.Process.Kill())
	_ = p.Wait()
	t.Logf("the entry of a killed process was gone after %v", r.eventually("it is gone", hasNot("holder")))

	// Without a cluster a lease ends for its holder, too.
	short, err := r.storage.Lease(t.Context(), leaseTTL)
	require.NoError(t, err)
	r.do(repository.Change{Key: "short", Lease: short})
	r.eventually("the entry of the short lease", has("short"))
	for i := range 3 {
		c.Kill(i)
	}
	t.Logf("a lease ended for its holder after %v", r.eventually("it ends", ended(short)))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.Error(t, short.Close(ctx), "nobody could be told")
	for i := range 3 {
		require.NoError(t, c.Restart(i))
	}
	t.Logf("its entry was gone after %v", r.eventually("it is gone", hasNot("short")))
	require.Empty(t, f.faults)
	require.NoError(t, long.Close(t.Context()))
}

func ended(l repository.Lease) func() bool {
	return func() bool {
		select {
		case <-l.Done():
			return true
		default:
			return false
		}
	}
}
