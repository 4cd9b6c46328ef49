package controlplane_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	"github.com/rego-go/rego/policy/repository"
	"github.com/rego-go/rego/policy/rollout"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// shared is a storage in memory that says it is not, so that replicas in one process share it.
type shared struct{ repository.Storage }

func (shared) Durable() bool { return true }

// replica serves a repository until the test ends.
func (n *network) replica(t *testing.T, repo *repository.Repository, name string, opts ...controlplane.ServeOption) *controlplane.Replica {
	t.Helper()
	opts = append(opts, controlplane.LogTo(slog.New(slog.DiscardHandler)))
	r, err := controlplane.NewReplica(repo, name, opts...)
	require.NoError(t, err)
	n.serve(r.Server)
	return r
}

// crowd watches as so many instances of a service, each with a store.
func (n *network) crowd(t *testing.T, service string, size int, opts ...controlplane.Option) (stores []*policy.Store, end func()) {
	t.Helper()
	watchers := make([]*controlplane.Watcher, size)
	for i := range size {
		st := new(policy.Store)
		w, err := controlplane.Watch("passthrough:///control", controlplane.Node{Service: service, Instance: instance(i)}, st, append(opts, silent, n.options())...)
		require.NoError(t, err)
		stores, watchers[i] = append(stores, st), w
	}
	return stores, func() {
		for _, w := range watchers {
			_ = w.Close()
		}
	}
}

func instance(i int) string { return fmt.Sprint("i-", i) }

// versions returns what each store has.
func versions(stores []*policy.Store) []string {
	list := make([]string, len(stores))
	for i, st := range stores {
		list[i] = st.Status().Version
	}
	return list
}

// eachOf returns a version for each of so many instances.
func eachOf(n int, version func(i int) string) []string {
	list := make([]string, n)
	for i := range n {
		list[i] = version(i)
	}
	return list
}

func always(version string) func(int) string { return func(int) string { return version } }

func puts(t *testing.T, repo *repository.Repository, p repository.Put) repository.Policies {
	t.Helper()
	p.Overwrite = true
	after, err := repo.Put(t.Context(), p)
	require.NoError(t, err)
	return after
}

// TestTrialGoesToAShare of the instances, the same ones at every replica, and is taken back from
// all, or given to all.
func TestTrialGoesToAShare(t *testing.T) {
	t.Parallel()
	for name, storage := range map[string]repository.Storage{"in memory": repository.Memory(), "shared": shared{repository.Memory()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testTrial(t, storage)
		})
	}
}

func testTrial(t *testing.T, storage repository.Storage) {
	t.Helper()
	bubble(t, func(t *testing.T, n *network) {
		const size = 40
		repo := repository.New(storage, nil)
		puts(t, repo, repository.Put{Set: set("a")})
		r := n.replica(t, repo, "one")
		stores, end := n.crowd(t, "shop", size)
		defer end()
		virtual.Sleep(time.Second)
		assert.Equal(t, eachOf(size, always("a")), versions(stores))

		p := puts(t, repo, repository.Put{Set: set("b"), Plan: &rollout.Plan{Steps: []float64{0.2}}})
		virtual.Sleep(time.Second)
		mixed := eachOf(size, func(i int) string {
			if rollout.Includes("b", instance(i), 0.2) {
				return "b"
			}
			return "a"
		})
		assert.Contains(t, mixed, "b")
		assert.Equal(t, mixed, versions(stores))
		for _, c := range n.list(t, "shop") {
			assert.Equal(t, c.GetVersion() == "b", c.GetCanary(), c.GetNode().GetInstance())
			assert.Equal(t, regov1.ClientState_CLIENT_STATE_CURRENT, c.GetState())
		}

		_, err := repo.RollBack(t.Context(), repository.RollBack{})
		require.NoError(t, err)
		virtual.Sleep(time.Second)
		assert.Equal(t, eachOf(size, always("a")), versions(stores))
		for _, st := range stores {
			assert.Greater(t, st.Status().Revision, p.Candidate.Revision, "they come back by a higher revision")
			assert.Zero(t, st.Status().Refusals)
		}

		p = puts(t, repo, repository.Put{Set: set("b"), Plan: &rollout.Plan{Steps: []float64{0.2, 0.6}, Bake: 2 * time.Second, MinCalls: 10}})
		virtual.Sleep(time.Second)
		assert.Equal(t, mixed, versions(stores), "the same version goes to the same instances")
		for decided := false; !decided; virtual.Sleep(300 * time.Millisecond) { // the replica looks, too
			var err error
			_, decided, err = repo.Judge(t.Context(), "", "x", p.Candidate.Revision, &regov1.StoredCounts{Strata: []*regov1.StoredStratum{
				{Canary: &regov1.ArmCounts{Calls: 10}, Rest: &regov1.ArmCounts{Calls: 10}},
			}})
			require.NoError(t, err)
		}
		virtual.Sleep(time.Second)
		assert.Equal(t, eachOf(size, func(i int) string {
			if rollout.Includes("b", instance(i), 0.6) {
				return "b"
			}
			return "a"
		}), versions(stores))
		_, err = repo.Promote(t.Context(), repository.Promotion{})
		require.NoError(t, err)
		virtual.Sleep(time.Second)
		assert.Equal(t, eachOf(size, always("b")), versions(stores))
		for _, st := range stores {
			assert.Equal(t, p.Candidate.Revision, st.Status().Revision)
			assert.Zero(t, st.Status().Refusals)
		}
		end()
		n.stop()
		require.NoError(t, r.Close())
	})
}

// TestServiceGetsPoliciesOfItsOwn while its clients are connected.
func TestServiceGetsPoliciesOfItsOwn(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		repo := repository.New(shared{repository.Memory()}, nil)
		r := n.replica(t, repo, "one")
		shop, end := n.crowd(t, "shop", 2)
		defer end()
		other, endOther := n.crowd(t, "other", 1)
		defer endOther()
		virtual.Sleep(time.Second)
		assert.Equal(t, []string{"", ""}, versions(shop), "there are no policies yet")
		assert.Equal(t, policy.StateStale, shop[0].Status().State())

		puts(t, repo, repository.Put{Set: set("of all")})
		virtual.Sleep(time.Second)
		assert.Equal(t, []string{"of all", "of all"}, versions(shop))
		puts(t, repo, repository.Put{Service: "shop", Set: set("of the shop")})
		puts(t, repo, repository.Put{Set: set("of all, again")})
		virtual.Sleep(time.Second)
		assert.Equal(t, []string{"of the shop", "of the shop"}, versions(shop))
		assert.Equal(t, []string{"of all, again"}, versions(other))
		end()
		endOther()
		n.stop()
		require.NoError(t, r.Close())
	})
}

// twoReplicas serves what one storage has at both networks.
func twoReplicas(t *testing.T, a, b *network) (repo *repository.Repository, one, two *controlplane.Replica) {
	t.Helper()
	storage := shared{repository.Memory()}
	repo = repository.New(storage, nil)
	puts(t, repo, repository.Put{Set: set("1")})
	return repo, a.replica(t, repo, "one"), b.replica(t, repository.New(storage, nil), "two")
}

// TestReplicasTellOfEachOther: each lists the clients of both, also those that were connected to
// one that has died, and what their calls do.
func TestReplicasTellOfEachOther(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, a *network) {
		b := new(network)
		defer b.stop()
		repo, one, two := twoReplicas(t, a, b)
		_, endA := a.crowd(t, "shop", 250)
		defer endA()
		_, endB := b.crowd(t, "cart", 3)
		defer endB()
		virtual.Sleep(5 * time.Second)
		for _, n := range []*network{a, b} {
			all := n.list(t, "")
			require.Len(t, all, 253)
			at := make(map[string]int)
			for _, c := range all {
				at[c.GetReplica()]++
				assert.Equal(t, "1", c.GetVersion())
				assert.Equal(t, regov1.ClientState_CLIENT_STATE_CURRENT, c.GetState())
			}
			assert.Equal(t, map[string]int{"one": 250, "two": 3}, at)
			sum, err := n.fleet(t).SummarizeClients(t.Context(), new(regov1.SummarizeClientsRequest))
			require.NoError(t, err)
			assert.Equal(t, uint64(253), sum.GetClients())
			assert.Len(t, sum.GetCounts(), 2)
			state, err := n.fleet(t).GetServerState(t.Context(), new(regov1.GetServerStateRequest))
			require.NoError(t, err)
			assert.Len(t, state.GetReplicas(), 2)
			assert.Equal(t, uint64(253), state.GetClients())
			paged, _ := pages(t, n.fleet(t), &regov1.ListClientsRequest{PageSize: 100}, func(int) {})
			assert.Len(t, paged, 253)
		}
		puts(t, repo, repository.Put{Set: set("2")})
		virtual.Sleep(5 * time.Second)
		for _, c := range b.list(t, "") {
			assert.Equal(t, "2", c.GetVersion())
		}

		a.stop()
		require.NoError(t, one.Close())
		virtual.Sleep(5 * time.Second)
		assert.Len(t, b.list(t, ""), 3)
		r, err := b.fleet(t).ListClients(t.Context(), &regov1.ListClientsRequest{Disconnected: true})
		require.NoError(t, err)
		assert.Len(t, r.GetClients(), 253, "those of the replica that has gone are not forgotten")
		endA()
		endB()
		b.stop()
		require.NoError(t, two.Close())
	})
}

// TestMoved: a client that has gone to another replica is not among those that have gone.
func TestMoved(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, a *network) {
		b := new(network)
		defer b.stop()
		_, one, two := twoReplicas(t, a, b)
		_, endA := a.crowd(t, "shop", 3)
		virtual.Sleep(5 * time.Second)
		_, endB := b.crowd(t, "shop", 3)
		virtual.Sleep(5 * time.Second)
		endA()
		virtual.Sleep(5 * time.Second)
		for _, n := range []*network{a, b} {
			r, err := n.fleet(t).ListClients(t.Context(), &regov1.ListClientsRequest{Disconnected: true})
			require.NoError(t, err)
			require.Len(t, r.GetClients(), 3)
			for _, c := range r.GetClients() {
				assert.Equal(t, regov1.ClientState_CLIENT_STATE_CURRENT, c.GetState())
			}
		}
		endB()
		virtual.Sleep(5 * time.Second)
		for _, n := range []*network{a, b} {
			r, err := n.fleet(t).ListClients(t.Context(), &regov1.ListClientsRequest{Disconnected: true})
			require.NoError(t, err)
			require.Len(t, r.GetClients(), 3)
			assert.Equal(t, regov1.ClientState_CLIENT_STATE_DISCONNECTED, r.GetClients()[0].GetState())
		}
		a.stop()
		b.stop()
		require.NoError(t, one.Close())
		require.NoError(t, two.Close())
	})
}

// TestDamaged: entries of one service that cannot be read keep nobody from the others.
func TestDamaged(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		storage := shared{repository.Memory()}
		repo := repository.New(storage, nil)
		puts(t, repo, repository.Put{Set: set("1")})
		puts(t, repo, repository.Put{Service: "shop", Set: set("shop 1")})
		_, err := storage.Commit(t.Context(), nil, []repository.Change{{Key: "heads/broken/", Value: []byte("\xff")}})
		require.NoError(t, err)
		r := n.replica(t, repo, "one")
		stores, end := n.crowd(t, "shop", 1)
		<-r.Ready()
		virtual.Sleep(time.Second)
		assert.Equal(t, []string{"shop 1"}, versions(stores))
		m, err := r.Admin().ListServices(t.Context(), new(regov1.ListServicesRequest))
		require.NoError(t, err)
		var listed []string
		for _, s := range m.GetServices() {
			listed = append(listed, s.GetService()+": "+s.GetInForce().GetVersion())
		}
		assert.Equal(t, []string{": 1", "broken: ", "shop: shop 1"}, listed)
		end()
		n.stop()
		require.NoError(t, r.Close())
	})
}

// silentStorage does not answer.
type silentStorage struct{ repository.Storage }

func (silentStorage) List(ctx context.Context, _ string) ([]repository.Entry, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestSilentStorage: whoever asks is told before its time is over, and of whom it is.
func TestSilentStorage(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		r := n.replica(t, repository.New(silentStorage{repository.Memory()}, nil), "one")
		for _, patience := range []time.Duration{10 * time.Second, time.Hour} {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			_, err := r.Admin().GetPolicies(ctx, new(regov1.GetPoliciesRequest))
			cancel()
			assert.Equal(t, codes.Unavailable, status.Code(err))
			require.ErrorContains(t, err, "the storage of policies does not answer")
			assert.Less(t, time.Since(began), min(patience, 20*time.Second))
		}
		n.stop()
		require.NoError(t, r.Close())
	})
}

// TestOutlet: what is put goes to where the policies are kept, and what changes there goes into
// the repository.
func TestOutlet(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		file := newStore(t, policy.Set{})
		source := file.Source("policies.yaml")
		require.NoError(t, source.Update(set("in the file")))
		kept := &keptIn{source: source}
		repo := repository.New(repository.Memory(), nil).KeepIn(kept)
		r := n.replica(t, repo, "one", controlplane.Outlet("", file, "policies.yaml"))
		stores, end := n.crowd(t, "shop", 40)
		defer end()
		virtual.Sleep(time.Second)
		now, err := repo.Get(t.Context(), "")
		require.NoError(t, err)
		assert.Equal(t, "in the file", now.Set.Version)
		assert.Equal(t, "policies.yaml", now.Revision.GetAuthor())
		assert.Zero(t, now.Set.Revision, "as in the file")

		kept.fails = assert.AnError
		_, err = repo.Put(t.Context(), repository.Put{Set: set("put")})
		require.ErrorIs(t, err, assert.AnError)
		virtual.Sleep(time.Second)
		assert.Equal(t, eachOf(40, always("in the file")), versions(stores))
		kept.fails = nil
		_, err = repo.Put(t.Context(), repository.Put{Set: set("put")})
		require.NoError(t, err)
		virtual.Sleep(time.Second)
		assert.Equal(t, "put", file.Status().Version)
		assert.Equal(t, uint64(1), file.Status().Revision)
		assert.Equal(t, eachOf(40, always("put")), versions(stores))

		_, err = repo.Put(t.Context(), repository.Put{Set: set("tried"), Base: 1, Plan: &rollout.Plan{Steps: []float64{0.5}}})
		require.NoError(t, err)
		virtual.Sleep(time.Second)
		assert.Contains(t, versions(stores), "tried")
		assert.Equal(t, "put", file.Status().Version)
		changed := set("by hand")
		changed.Revision = 2
		require.NoError(t, source.Update(changed))
		virtual.Sleep(time.Second)
		now, err = repo.Get(t.Context(), "")
		require.NoError(t, err)
		assert.Equal(t, "by hand", now.Set.Version)
		assert.False(t, now.Trying(), "whoever edits the file wins")
		assert.Equal(t, uint64(3), now.Set.Revision, "above that which was tried out")
		assert.Equal(t, eachOf(40, always("by hand")), versions(stores))
		end()
		n.stop()
		require.NoError(t, r.Close())
		synctest.Wait()
	})
}

// keptIn is where a replica's policies are besides: in a file that comes into a store.
type keptIn struct {
	source *policy.Source
	after  time.Duration // that a file that was written is read
	mark   repository.Mark
	fails  error
}

func (k *keptIn) Write(_ string, s policy.Set) error {
	if k.fails != nil || k.after == 0 {
		return cmp.Or(k.fails, k.source.Update(s))
	}
	time.AfterFunc(k.after, func() { _ = k.source.Update(s) }) // which may be an older one by then
	return nil
}

func (k *keptIn) Mark(_ string, m repository.Mark) error {
	if k.fails == nil {
		k.mark = m
	}
	return k.fails
}

func (k *keptIn) Marked(string) repository.Mark { return k.mark }

// TestForgottenTrial: a server that keeps trials in memory is started again in the middle of one, and
// clients that have tried the set come back to what is in the file.
func TestForgottenTrial(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		file := newStore(t, policy.Set{})
		source := file.Source("policies.yaml")
		require.NoError(t, source.Update(set("in the file")))
		kept := &keptIn{source: source}
		repo := repository.New(repository.Memory(), nil).KeepIn(kept)
		r := n.replica(t, repo, "one", controlplane.Outlet("", file, "policies.yaml"))
		stores, end := n.crowd(t, "shop", 40)
		defer end()
		virtual.Sleep(time.Second)
		puts(t, repo, repository.Put{Set: set("tried"), Plan: &rollout.Plan{Steps: []float64{0.5}}})
		virtual.Sleep(time.Second)
		assert.Contains(t, versions(stores), "tried")
		n.stop()
		require.NoError(t, r.Close())

		r = n.replica(t, repository.New(repository.Memory(), nil).KeepIn(kept), "one", controlplane.Outlet("", file, "policies.yaml"))
		virtual.Sleep(time.Minute)
		assert.Equal(t, eachOf(40, always("in the file")), versions(stores))
		for _, st := range stores {
			assert.Equal(t, policy.StateCurrent, st.Status().State())
			assert.Zero(t, st.Status().Refusals)
		}
		end()
		n.stop()
		require.NoError(t, r.Close())
	})
}

// TestPutAtOnce: what is put before the outlet has it is not undone by what is there still.
func TestPutAtOnce(t *testing.T) {
	t.Parallel()
	for range 20 {
		bubble(t, func(t *testing.T, n *network) {
			file := newStore(t, policy.Set{})
			source := file.Source("policies.yaml")
			require.NoError(t, source.Update(set("in the file")))
			repo := repository.New(repository.Memory(), nil).KeepIn(&keptIn{source: source, after: 10 * time.Millisecond})
			r := n.replica(t, repo, "one", controlplane.Outlet("", file, "policies.yaml"))
			puts(t, repo, repository.Put{Set: set("put")})
			puts(t, repo, repository.Put{Set: set("and again")})
			virtual.Sleep(time.Minute)
			now, err := repo.Get(t.Context(), "")
			require.NoError(t, err)
			assert.Equal(t, "and again", now.Set.Version)
			assert.Equal(t, uint64(2), now.Set.Revision)
			assert.Equal(t, now.Set, file.Current().Set())
			n.stop()
			require.NoError(t, r.Close())
		})
	}
}
