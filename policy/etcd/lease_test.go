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

const leaseTTL = 5 * time.Second

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
	l, err := r.storage.Lease(t.Context(), leaseTTL)
	require.NoError(t, err)
	ended := func() bool {
		select {
		case <-l.Done():
			return true
		default:
			return false
		}
	}
	has := func(key string) func() bool {
		return func() bool { _, ok := f.state()[key]; return ok }
	}
	hasNot := func(key string) func() bool {
		return func() bool { return !has(key)() }
	}

	r.do(repository.Change{Key: "mine", Lease: l})

	// Another process, which is killed.
	p := exec.Command(os.Args[0])
	p.Env = append(os.Environ(), holderEnv+"="+strings.Join(c.Endpoints(), ","))
	p.Stderr = os.Stderr
	require.NoError(t, p.Start())
	t.Cleanup(func() { _ = p.Process.Kill() })
	r.eventually("the entry of another process", has("holder"))

	// The lease lives on while leaders come and go, one of them without a word.
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
	require.True(t, has("mine")())
	require.True(t, has("holder")())
	require.False(t, ended())

	require.NoError(t, p.Process.Kill())
	_ = p.Wait()
	t.Logf("the entry of a killed process was gone after %v", r.eventually("it is gone", hasNot("holder")))
	require.True(t, has("mine")())

	// Without a cluster the lease ends for its holder, too.
	for i := range 3 {
		c.Kill(i)
	}
	t.Logf("the lease ended for its holder after %v", r.eventually("it ends", ended))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.Error(t, l.Close(ctx), "nobody could be told")
	for i := range 3 {
		require.NoError(t, c.Restart(i))
	}
	t.Logf("its entry was gone after %v", r.eventually("it is gone", hasNot("mine")))
	require.Empty(t, f.faults)
}
