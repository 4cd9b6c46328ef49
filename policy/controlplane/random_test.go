package controlplane_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	"github.com/rego-go/rego/policy/repository"
	"github.com/rego-go/rego/policy/rollout"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// seeds is small, since the race detector can follow a bubble only so far.
var seeds = flag.Int("seeds", 3, "how many random histories are played")

// TestRandomChanges: whatever operators do, replicas that end and begin and clients that come and
// go, all clients end at the newest set of their service, and none has had an older one after a
// newer. What a client refused on the way was older than what it had.
func TestRandomChanges(t *testing.T) {
	t.Parallel()
	for range *seeds {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) { randomChanges(t, n, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func randomChanges(t *testing.T, n *network, r *rand.Rand) {
	t.Helper()
	const size = 8
	services := []string{"", "shop", "cart"}
	storage := shared{repository.Memory()}
	repo := repository.New(storage, nil)
	puts(t, repo, repository.Put{Set: set("first")})
	replica := n.replica(t, repo, "one")
	shop, endShop := n.crowd(t, "shop", size)
	cart, endCart := n.crowd(t, "cart", size)
	other, endOther := n.crowd(t, "other", size)
	watched := make(chan struct{})
	defer close(watched)
	back := make(chan string, 1)
	for _, st := range append(append(shop, cart...), other...) {
		go func() {
			for last := uint64(0); ; {
				changed := st.Changed()
				now := st.Status().Revision
				if now < last {
					select {
					case back <- fmt.Sprintf("from %d to %d", last, now):
					default:
					}
				}
				last = now
				select {
				case <-changed:
				case <-watched:
					return
				}
			}
		}()
	}
	for i := range 40 {
		service := services[r.IntN(len(services))]
		switch r.IntN(8) {
		case 0, 1:
			_, err := repo.Put(t.Context(), repository.Put{Service: service, Set: set(fmt.Sprint("v", i)), Overwrite: true})
			require.NoError(t, err)
		case 2, 3:
			share := r.Float64()*0.8 + 0.1
			_, err := repo.Put(t.Context(), repository.Put{Service: service, Set: set(fmt.Sprint("v", i)), Overwrite: true, Plan: &rollout.Plan{Steps: []float64{share}, Bake: time.Hour}})
			if !errors.Is(err, repository.ErrInvalid) { // there may be nothing to compare it with
				require.NoError(t, err)
			}
		case 4:
			_, err := repo.RollBack(t.Context(), repository.RollBack{Service: service})
			if !errors.Is(err, repository.ErrNotFound) {
				require.NoError(t, err)
			}
		case 5:
			_, err := repo.Promote(t.Context(), repository.Promotion{Service: service})
			if !errors.Is(err, repository.ErrNotFound) {
				require.NoError(t, err)
			}
		case 6:
			n.stop()
			require.NoError(t, replica.Close())
			replica = n.replica(t, repository.New(storage, nil), "one")
		case 7:
			harm(t, repo, service)
		}
		virtual.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
	}
	virtual.Sleep(time.Minute)
	for service, stores := range map[string][]*policy.Store{"shop": shop, "cart": cart, "other": other} {
		p, err := repo.Get(t.Context(), service)
		if errors.Is(err, repository.ErrNotFound) {
			p, err = repo.Get(t.Context(), "")
		}
		require.NoError(t, err)
		for i, st := range stores {
			want := p.Set
			if p.Trying() && rollout.Includes(p.Candidate.Version, instance(i), p.Rollout.GetShare()) {
				want = *p.Candidate
			}
			assert.Equal(t, want.Revision, st.Status().Revision, "%s %d", service, i)
			assert.Equal(t, want.Version, st.Status().Version)
			assert.Equal(t, policy.StateCurrent, st.Status().State(), "%s %d: %+v", service, i, st.Status())
		}
	}
	list := n.list(t, "")
	assert.Len(t, list, 3*size)
	for _, c := range list {
		assert.Equal(t, regov1.ClientState_CLIENT_STATE_CURRENT, c.GetState(), c)
	}
	select {
	case moved := <-back:
		assert.Fail(t, "a client went back", moved)
	default:
	}
	endShop()
	endCart()
	endOther()
	n.stop()
	require.NoError(t, replica.Close())
}

// harm tells of calls that all fail by what is tried out, if something is.
func harm(t *testing.T, repo *repository.Repository, service string) {
	t.Helper()
	p, err := repo.Get(t.Context(), service)
	if err != nil || !p.Trying() {
		return
	}
	for range 8 { // clients have the time to report
		_, decided, err := repo.Judge(t.Context(), service, "another", p.Candidate.Revision, &regov1.StoredCounts{Strata: []*regov1.StoredStratum{
			{Canary: &regov1.ArmCounts{Calls: 100, Failed: 100}, Rest: &regov1.ArmCounts{Calls: 1000}},
		}})
		if decided || errors.Is(err, repository.ErrNotFound) {
			return
		}
		virtual.Sleep(2 * time.Second)
	}
	assert.Fail(t, "it was not taken back")
}

// TestRandomChangesOfAFile: the same of a server that has its policies in a file, which somebody
// edits, and that keeps what is tried out in memory.
func TestRandomChangesOfAFile(t *testing.T) {
	t.Parallel()
	for range *seeds {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) { randomFile(t, n, rand.New(rand.NewPCG(seed, 2))) })
		})
	}
}

func randomFile(t *testing.T, n *network, r *rand.Rand) {
	t.Helper()
	const size = 8
	file := newStore(t, policy.Set{})
	source := file.Source("policies.yaml")
	require.NoError(t, source.Update(set("first")))
	kept := &keptIn{source: source}
	begin := func() (*repository.Repository, *controlplane.Replica) {
		repo := repository.New(repository.Memory(), nil).KeepIn(kept)
		return repo, n.replica(t, repo, "one", controlplane.Outlet("", file, "policies.yaml"))
	}
	repo, replica := begin()
	stores, end := n.crowd(t, "shop", size)
	virtual.Sleep(time.Second)
	for i := range 40 {
		var err error
		switch r.IntN(7) {
		case 0, 1:
			_, err = repo.Put(t.Context(), repository.Put{Set: set(fmt.Sprint("v", i)), Overwrite: true})
		case 2, 3:
			_, err = repo.Put(t.Context(), repository.Put{Set: set(fmt.Sprint("v", i)), Overwrite: true, Plan: &rollout.Plan{Steps: []float64{r.Float64()*0.8 + 0.1}, Bake: time.Hour}})
		case 4:
			if _, err = repo.RollBack(t.Context(), repository.RollBack{}); errors.Is(err, repository.ErrNotFound) {
				err = nil
			}
		case 5:
			n.stop()
			require.NoError(t, replica.Close())
			repo, replica = begin()
		case 6:
			edited := set(fmt.Sprint("edited", i))
			if was := file.Status().Revision; was > 0 {
				edited.Revision = was + 1
			}
			err = source.Update(edited)
		}
		require.NoError(t, err)
		virtual.Sleep(time.Second + time.Duration(r.IntN(3000))*time.Millisecond)
	}
	virtual.Sleep(time.Minute)
	p, err := repo.Get(t.Context(), "")
	require.NoError(t, err)
	assert.Equal(t, p.Set, file.Current().Set(), "the file has what is in force")
	for i, st := range stores {
		want := p.Set
		if p.Trying() && rollout.Includes(p.Candidate.Version, instance(i), p.Rollout.GetShare()) {
			want = *p.Candidate
		}
		assert.Equal(t, want.Version, st.Status().Version)
		assert.Equal(t, want.Revision, st.Status().Revision)
		assert.Equal(t, policy.StateCurrent, st.Status().State(), "%d: %+v", i, st.Status())
	}
	end()
	n.stop()
	require.NoError(t, replica.Close())
}
