package etcd_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rego-go/rego/policy/repository"
)

// fault is one that a cluster has.
type fault struct {
	name string
	does func(*rig)
}

// TestFaults does to clusters of three processes what happens to clusters, one after the other, while
// writers write. Every follower ends at the newest state, having seen none that is older than
// one before.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, faults := range map[string][]fault{
		"members die": {
			{"a member is killed", killOther},
			{"the leader is killed", killLeader},
			{"the leader is moved", moveLeader},
			{"compaction while the member of a follower is down", compactWhileDown},
			{"all are killed", killAll},
		},
		"members are cut off": {
			{"a member is cut off from the others", partitionOther},
			{"the leader is cut off from the others", partitionLeader},
		},
		"a member is silent": {
			{"compaction while a follower is cut off", compactWhileSilent},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testFaults(t, faults)
		})
	}
}

func testFaults(t *testing.T, faults []fault) {
	t.Helper()
	r := newRig(t)
	r.settle(r.followers()...)
	for _, f := range faults {
		r.Log(f.name)
		f.does(r)
		r.settle(r.followers()...)
	}
	r.load.check(t, r.storage)
	r.settle(r.followers()...)

	entries, err := r.storage.List(t.Context(), "")
	require.NoError(t, err)
	newest := make(map[string]repository.Entry)
	for _, e := range entries {
		newest[e.Key] = e
	}
	for _, f := range r.followers() {
		require.Len(t, f.state(), len(newest), f.name)
		require.Equal(t, newest, f.state(), f.name)
		require.Empty(t, f.faults, f.name)
	}
}

// whileDown runs f while a member is down.
func whileDown(r *rig, i int, f func()) {
	r.cluster.Kill(i)
	f()
	require.NoError(r, r.cluster.Restart(i))
}

func killOther(r *rig) {
	i := (r.leader() + 1) % 3
	whileDown(r, i, func() { r.settle(r.others(i)...) })
}

func killLeader(r *rig) {
	i := r.leader()
	whileDown(r, i, func() { r.settle(r.others(i)...) })
}

func moveLeader(r *rig) {
	to := (r.leader() + 1) % 3
	require.NoError(r, r.cluster.MoveLeader(r.Context(), to))
	require.Equal(r, to, r.leader())
}

func partitionOther(r *rig) { partition(r, (r.leader()+1)%3) }

func partitionLeader(r *rig) { partition(r, r.leader()) }

// partition leaves the member a minority, whose clients must learn that they hear nothing.
func partition(r *rig, i int) {
	before := r.losses()
	r.cluster.Partition(i)
	r.settle(r.others(i)...)
	r.awaitLost(r.bound[i])
	r.settle(r.others(i)...)
	require.Equal(r, before, r.losses(), "a follower that may go to another member is not lost")
	r.cluster.Heal(i)
}

// losses is how often followers were lost that may go to any member.
func (r *rig) losses() int {
	sum := 0
	for _, f := range r.free {
		losses, _ := f.counts()
		sum += losses
	}
	return sum
}

// compactWhileSilent has the history gone that a follower would have gone on with, and an entry
// deleted meanwhile.
func compactWhileSilent(r *rig) {
	const i = 0
	r.do(repository.Change{Key: "doomed"})
	r.settle(r.followers()...)
	before := r.losses()
	r.cluster.Silence(i)
	deleted := r.do(repository.Change{Key: "doomed", Delete: true})
	client := newClient(r.T, r.cluster.Endpoint(1), r.cluster.Endpoint(2))
	_, err := client.Compact(r.Context(), int64(deleted), clientv3.WithCompactPhysical())
	require.NoError(r, err)
	r.settle(r.others(i)...)
	require.Equal(r, before, r.losses(), "a follower that may go to another member is not lost")
	r.awaitLost(r.bound[i])
	require.Contains(r, r.bound[i].state(), "doomed")
	r.cluster.Heal(i)
	r.settle(r.followers()...)
	require.NotContains(r, r.bound[i].state(), "doomed")
}

// compactWhileDown is the same for a follower whose member is down, which the client waits for.
func compactWhileDown(r *rig) {
	const i = 1
	r.do(repository.Change{Key: "doomed"})
	r.settle(r.followers()...)
	client := newClient(r.T, r.cluster.Endpoint(0), r.cluster.Endpoint(2))
	whileDown(r, i, func() {
		deleted := r.do(repository.Change{Key: "doomed", Delete: true})
		_, err := client.Compact(r.Context(), int64(deleted), clientv3.WithCompactPhysical())
		require.NoError(r, err)
	})
	r.settle(r.followers()...)
	require.NotContains(r, r.bound[i].state(), "doomed")
}

func killAll(r *rig) {
	for i := range 3 {
		r.cluster.Kill(i)
	}
	r.awaitLost(r.followers()...)
	for i := range 3 {
		require.NoError(r, r.cluster.Restart(i))
	}
}

func (r *rig) others(i int) []*follower {
	others := slices.Clone(r.free)
	for n, f := range r.bound {
		if n != i {
			others = append(others, f)
		}
	}
	return others
}

func (r *rig) awaitLost(followers ...*follower) {
	r.Helper()
	text := "lost after"
	for _, f := range followers {
		took := r.eventually(f.name+" is lost", f.isLost)
		text += fmt.Sprintf(" %v (%s)", took, f.name)
	}
	r.Log(text)
}

// TestSilentMembers: followers leave a member that is silent for another, without being lost.
// There are entries for many pages, which go to all members that are thought to be there. With
// -long every member is silent once.
func TestSilentMembers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.load.end()
	for page := range 10 {
		changes := make([]repository.Change, 100)
		for i := range changes {
			changes[i].Key = fmt.Sprintf("many/%d/%02d", page, i)
		}
		_, err := r.storage.Commit(t.Context(), nil, changes)
		require.NoError(t, err)
	}
	silent := 1
	if *long {
		silent = 3
	}
	for i := range silent {
		r.cluster.Silence(i)
		r.settle(r.free...)
		r.cluster.Heal(i)
		r.settle(r.free...)
	}
	require.Zero(t, r.losses())
	for _, f := range r.free {
		require.Empty(t, f.faults, f.name)
	}
}
