package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/etcd"
	"github.com/rego-go/rego/policy/etcd/etcdtest"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// commandEnv has this test's program be the command.
const commandEnv = "REGO_TEST_COMMAND"

var atLength = flag.Bool("long", false, "have a member of etcd not answer in TestEtcd, which takes a quarter of a minute")

func TestMain(m *testing.M) {
	etcdtest.Main()
	if os.Getenv(commandEnv) != "" {
		main()
	}
	// Tests wait for processes and files most of the time, rather than for a processor.
	if err := flag.Set("test.parallel", "4"); err != nil { // -parallel still says otherwise
		panic(err)
	}
	os.Exit(m.Run())
}

// replica is rego serve as a process of its own.
type replica struct {
	t    *testing.T
	addr string
	args []string
	cmd  *exec.Cmd
	conn *grpc.ClientConn
}

// startReplica starts one, and returns once it serves.
func startReplica(t *testing.T, name string, args ...string) *replica {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // an address that it has again when it is started again
	require.NoError(t, err)
	r := &replica{t: t, addr: l.Addr().String()}
	require.NoError(t, l.Close())
	r.args = append([]string{"serve", "--addr", r.addr, "--name", name, "--log", "json", "--report-every", "1s"}, args...)
	r.start()
	t.Cleanup(r.kill)
	r.conn, err = grpc.NewClient(r.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.conn.Close() })
	return r
}

func (r *replica) start() {
	r.t.Helper()
	r.cmd = exec.Command(os.Args[0], r.args...)
	r.cmd.Env = append(os.Environ(), commandEnv+"=1")
	log, err := r.cmd.StderrPipe()
	require.NoError(r.t, err)
	require.NoError(r.t, r.cmd.Start())
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var line map[string]any
		if json.Unmarshal(lines.Bytes(), &line) == nil && line["msg"] == "rego: serving policies" {
			go func() { _, _ = io.Copy(io.Discard, log) }() // until it has ended
			return
		}
	}
	require.Fail(r.t, "it does not serve")
}

// kill ends it as a machine that loses its power does.
func (r *replica) kill() {
	_ = r.cmd.Process.Kill() // it may have ended
	_ = r.cmd.Wait()
}

func (r *replica) admin() regov1.PolicyAdminServiceClient {
	return regov1.NewPolicyAdminServiceClient(r.conn)
}

// writer puts one set after the other, at one replica after the other, as operators do who look
// what is there first and ask again when they got no answer.
type writer struct {
	t        *testing.T
	replicas []*replica
	made     map[uint64]string // versions that were acknowledged, by revision
	unclear  atomic.Int64
}

func (w *writer) run(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		r := w.replicas[i%len(w.replicas)]
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		version := fmt.Sprint("v", i)
		have, err := r.admin().GetPolicies(within, new(regov1.GetPoliciesRequest))
		if err == nil {
			var put *regov1.PutPoliciesResponse
			put, err = r.admin().PutPolicies(within, &regov1.PutPoliciesRequest{
				Set: oneRule(version, policy.Policy{Name: version}), Base: have.GetRevision().GetRevision(), ChangeId: version,
			})
			if err == nil {
				w.made[put.GetRevision().GetRevision()] = version
			}
		}
		cancel()
		if err != nil {
			w.unclear.Add(1)
			assert.NotContains(w.t, []codes.Code{codes.Internal, codes.InvalidArgument, codes.Unknown}, status.Code(err), err)
		}
		pause := time.NewTimer(100 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

// TestEtcd: three replicas and a cluster of three members, all of them processes, lose one after
// the other while policies change all the time and clients make calls. All replicas and clients end
// at the newest set, none ever has an older one after a newer, and no call fails.
func TestEtcd(t *testing.T) {
	t.Parallel()
	cluster, err := etcdtest.Start(t.TempDir(), 3)
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	var flags []string
	for _, e := range cluster.Endpoints() {
		flags = append(flags, "--etcd", e)
	}
	var replicas []*replica
	var control []string
	for i := range 3 {
		r := startReplica(t, fmt.Sprint("replica-", i), flags...)
		replicas, control = append(replicas, r), append(control, r.addr)
	}
	_, err = replicas[0].admin().PutPolicies(t.Context(), &regov1.PutPoliciesRequest{Set: oneRule("first", policy.Policy{})})
	require.NoError(t, err)
	const size = 12
	c := calling(t, size, control, backend(t, testsrv.Echo), 20*time.Millisecond)
	c.all(func(s policy.Status) bool { return s.Revision > 0 })

	w := &writer{t: t, replicas: replicas, made: make(map[uint64]string)}
	ctx, stop := context.WithCancel(t.Context())
	written := make(chan struct{})
	go func() {
		defer close(written)
		w.run(ctx)
	}()
	client, err := clientv3.New(etcd.Config(cluster.Endpoints()...))
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	leader := func() int {
		i, err := cluster.Leader(t.Context())
		require.NoError(t, err)
		return i
	}
	// goesOn waits until all clients have got something that was put from now on.
	goesOn := func(what string) {
		t.Helper()
		began := time.Now()
		floor := uint64(0)
		for _, st := range c.stores {
			floor = max(floor, st.Status().Revision)
		}
		c.all(func(s policy.Status) bool { return s.Revision > floor })
		t.Logf("%s: all clients have got what came next after %v", what, time.Since(began).Round(10*time.Millisecond))
	}
	goesOn("nothing has happened")

	killed := leader()
	cluster.Kill(killed)
	goesOn("the leader of etcd was killed")
	require.NoError(t, cluster.Restart(killed))
	goesOn("it is back")
	require.NoError(t, cluster.MoveLeader(t.Context(), (leader()+1)%3))
	goesOn("the leader has moved")
	alone := leader()
	cluster.Partition(alone)
	goesOn("the leader is cut off from the others")
	cluster.Heal(alone)
	replicas[0].kill()
	goesOn("a replica was killed")
	now, err := client.Get(t.Context(), "x")
	require.NoError(t, err)
	_, err = client.Compact(t.Context(), now.Header.GetRevision())
	require.NoError(t, err)
	replicas[0].start()
	goesOn("it is back, after a compaction")
	if *atLength {
		silent := (leader() + 1) % 3
		cluster.Silence(silent)
		goesOn("a member does not answer any more")
		cluster.Heal(silent)
	}
	for i := range 2 {
		cluster.Kill(i)
	}
	before := w.unclear.Load()
	require.Eventually(t, func() bool { return w.unclear.Load() > before }, time.Minute, 10*time.Millisecond, "nothing can be put")
	for i := range 2 {
		require.NoError(t, cluster.Restart(i))
	}
	goesOn("most of etcd was killed, and is back")
	for _, r := range replicas {
		r.kill()
	}
	for _, r := range replicas {
		r.start()
	}
	goesOn("all replicas were killed at a time, and are back")
	stop()
	<-written

	have, err := replicas[0].admin().GetPolicies(t.Context(), new(regov1.GetPoliciesRequest))
	require.NoError(t, err)
	last := have.GetRevision().GetRevision()
	c.all(newest(last))
	for revision := range w.made {
		assert.LessOrEqual(t, revision, last, "it was acknowledged")
	}
	log, err := replicas[1].admin().ListRevisions(t.Context(), new(regov1.ListRevisionsRequest))
	require.NoError(t, err)
	for _, l := range log.GetRevisions() {
		if version, ok := w.made[l.GetRevision()]; ok {
			assert.Equal(t, version, l.GetVersion())
		}
	}
	for _, r := range replicas {
		assert.Eventually(t, func() bool {
			fleet := regov1.NewFleetServiceClient(r.conn)
			list, err := fleet.ListClients(t.Context(), new(regov1.ListClientsRequest))
			if err != nil || len(list.GetClients()) != size {
				return false
			}
			for _, c := range list.GetClients() {
				if c.GetRevision() != last || c.GetState() != regov1.ClientState_CLIENT_STATE_CURRENT {
					return false
				}
			}
			state, err := fleet.GetServerState(t.Context(), new(regov1.GetServerStateRequest))
			return err == nil && state.GetStores()[0].GetRevision() == last && len(state.GetReplicas()) == len(replicas)
		}, 30*time.Second, 200*time.Millisecond, "the list of a replica")
	}
	c.end()
	t.Logf("%d calls, %d failed; %d sets acknowledged, %d requests without an answer", c.calls.Load(), c.failed.Load(), len(w.made), w.unclear.Load())
	assert.Zero(t, c.failed.Load())
	assert.Zero(t, c.back.Load())
	assert.NotEmpty(t, w.made)
}
