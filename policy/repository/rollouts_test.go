package repository_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy/repository"
	"github.com/rego-go/rego/policy/rollout"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// heard is what a replica has heard of one method: calls and failures of the canary and the rest.
func heard(canary, canaryFailed, rest, restFailed int64) *regov1.StoredCounts {
	return &regov1.StoredCounts{Clients: 10, CanaryClients: 1, Strata: []*regov1.StoredStratum{{
		Method: "/shop.v1.Basket/Get",
		Canary: &regov1.ArmCounts{Calls: canary, Failed: canaryFailed}, Rest: &regov1.ArmCounts{Calls: rest, Failed: restFailed},
	}}}
}

// trying returns a repository in which a set is tried out, with the revision of that.
func trying(t *testing.T, plan *rollout.Plan) (*repository.Repository, uint64) {
	t.Helper()
	r := open(t)
	put(t, r, set("a"), 0, nil)
	return r, put(t, r, set("b"), 1, plan).Candidate.Revision
}

// look has a replica tell and look, and returns the rollout.
func look(t *testing.T, r *repository.Repository, replica string, revision uint64, m *regov1.StoredCounts) *regov1.Rollout {
	t.Helper()
	_, _, err := r.Judge(t.Context(), "shop", replica, revision, m)
	require.NoError(t, err)
	ro, err := r.Progress(t.Context(), p(t, r))
	require.NoError(t, err)
	return ro
}

func TestHarmIsTakenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, revision := trying(t, plan)
		virtual.Sleep(2 * time.Second)
		ro := look(t, r, "one", revision, heard(5, 0, 95, 1))
		assert.Equal(t, regov1.RolloutState_ROLLOUT_STATE_BAKING, ro.GetState())
		assert.Contains(t, ro.GetReason(), "5 of 100 calls")
		assert.Equal(t, int64(95), ro.GetRest().GetCalls())
		virtual.Sleep(2 * time.Second)
		ro = look(t, r, "one", revision, heard(20, 15, 380, 4))
		require.Equal(t, regov1.RolloutState_ROLLOUT_STATE_REJECTED, ro.GetState(), ro.GetReason())
		assert.Contains(t, ro.GetReason(), "15 of 20 (75.0 %) in the canary")
		assert.Zero(t, ro.GetShare())
		now := p(t, r)
		assert.False(t, now.Trying())
		assert.Equal(t, "a", now.Set.Version)
		assert.Greater(t, now.Set.Revision, revision)
		assert.Equal(t, "the control plane", now.Revision.GetAuthor())
		assert.Equal(t, ro.GetReason(), now.Revision.GetMessage())
		_, _, err := r.Judge(t.Context(), "shop", "two", revision, heard(1, 1, 1, 1))
		require.ErrorIs(t, err, repository.ErrNotFound, "it is over")
		left, err := r.Storage().List(t.Context(), "counts/")
		require.NoError(t, err)
		assert.Empty(t, left)
		left, err = r.Storage().List(t.Context(), "evidence/")
		require.NoError(t, err)
		assert.Empty(t, left)
	})
}

func TestStepsToAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, revision := trying(t, plan)
		virtual.Sleep(2 * time.Minute)
		ro := look(t, r, "one", revision, heard(99, 0, 900, 0))
		assert.Contains(t, ro.GetReason(), "99 of 100 calls", "silence promotes nothing")
		virtual.Sleep(2 * time.Second)
		refused := heard(100, 0, 900, 0)
		refused.Refusing = 1
		ro = look(t, r, "one", revision, refused)
		assert.Contains(t, ro.GetReason(), "1 client of the canary refuses it")
		virtual.Sleep(2 * time.Second)
		ro = look(t, r, "one", revision, heard(100, 0, 900, 0))
		assert.Equal(t, int32(1), ro.GetStep())
		assert.InDelta(t, 0.5, ro.GetShare(), 0)
		virtual.Sleep(2 * time.Second)
		ro = look(t, r, "one", revision, heard(250, 0, 1000, 0))
		assert.Contains(t, ro.GetReason(), "bakes for another")
		virtual.Sleep(time.Minute)
		ro = look(t, r, "one", revision, heard(199, 0, 1000, 0))
		assert.Contains(t, ro.GetReason(), "99 of 100 calls", "those of the step before do not count, and one that began anew tells less")
		virtual.Sleep(2 * time.Second)
		ro = look(t, r, "one", revision, heard(250, 0, 1000, 0))
		assert.Equal(t, regov1.RolloutState_ROLLOUT_STATE_PROMOTED, ro.GetState(), ro.GetReason())
		now := p(t, r)
		assert.Equal(t, "b", now.Set.Version)
		assert.Equal(t, revision, now.Set.Revision, "who has it keeps it")
	})
}

// TestReplicasJudgeTogether: what one has heard and what others have is added up, each once, however
// many look at a time; and another one goes on when one has died.
func TestReplicasJudgeTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, revision := trying(t, plan)
		decisions := 0
		var mu sync.Mutex
		for round := range int64(10) {
			virtual.Sleep(2 * time.Second)
			var wg sync.WaitGroup
			for i := range 5 {
				wg.Go(func() {
					_, decided, err := r.Judge(t.Context(), "shop", fmt.Sprint(i), revision, heard(round, 0, 20*round, 0))
					mu.Lock()
					defer mu.Unlock()
					if err != nil && !errors.Is(err, repository.ErrConflict) {
						t.Error(err)
					}
					if decided {
						decisions++
					}
				})
			}
			wg.Wait()
		}
		assert.Zero(t, decisions)
		virtual.Sleep(2 * time.Second)
		ro := look(t, r, "new", revision, heard(1, 1, 0, 0)) // the others have died
		assert.Equal(t, int64(5*9+1), ro.GetCanary().GetCalls())
		assert.Equal(t, int64(5*180), ro.GetRest().GetCalls())
		assert.Equal(t, uint64(60), ro.GetClients())
	})
}

// TestEvidenceIsOfOneRollout: that of the one before does not count.
func TestEvidenceIsOfOneRollout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, revision := trying(t, plan)
		virtual.Sleep(2 * time.Second)
		ro := look(t, r, "one", revision, heard(50, 4, 950, 9))
		assert.Greater(t, ro.GetFailedEvidence(), 2.0)
		_, err := r.RollBack(t.Context(), repository.RollBack{Service: "shop"})
		require.NoError(t, err)
		next := put(t, r, set("b"), p(t, r).Set.Revision, plan)
		virtual.Sleep(2 * time.Second)
		ro = look(t, r, "one", next.Candidate.Revision, heard(50, 0, 950, 9))
		assert.Less(t, ro.GetFailedEvidence(), 2.0)
		assert.Zero(t, ro.GetCanary().GetFailed())
	})
}

// TestClientsOfTheDead: what a replica has told of its clients is void when it has died, and what it has
// told of calls is not. Else one client that refused there would hold the rollout up for good.
func TestClientsOfTheDead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, revision := trying(t, plan)
		virtual.Sleep(2 * time.Second)
		dead := heard(100, 0, 900, 0)
		dead.Refusing = 1
		look(t, r, "dead", revision, dead)
		virtual.Sleep(2 * time.Second)
		ro := look(t, r, "one", revision, heard(100, 0, 900, 0))
		assert.Equal(t, uint64(1), ro.GetRefusing())
		assert.Equal(t, uint64(20), ro.GetClients())
		virtual.Sleep(2 * time.Minute)
		ro = look(t, r, "one", revision, heard(100, 0, 900, 0))
		assert.Zero(t, ro.GetRefusing())
		assert.Equal(t, uint64(10), ro.GetClients())
		assert.Equal(t, int64(200), ro.GetCanary().GetCalls())
		assert.Equal(t, int32(1), ro.GetStep(), ro.GetReason())
	})
}

// TestManyMethods: methods are told apart up to a bound, the same ones at each look, and what is
// stored fits.
func TestManyMethods(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, revision := trying(t, plan)
		calls := int64(0)
		for round := range int64(3) {
			for replica := range 4 {
				virtual.Sleep(2 * time.Second)
				m := &regov1.StoredCounts{}
				for i := range 1000 {
					m.Strata = append(m.Strata, &regov1.StoredStratum{
						Method: fmt.Sprintf("/%0200d.%d.Service/Method%d", 7, 3-replica, i),
						Canary: &regov1.ArmCounts{Calls: 30 * (round + 1)}, Rest: &regov1.ArmCounts{Calls: 300 * (round + 1)},
					})
				}
				ro := look(t, r, fmt.Sprint(replica), revision, m)
				assert.Less(t, ro.GetFailedEvidence(), 2.0)
				calls = ro.GetCanary().GetCalls()
			}
		}
		assert.Equal(t, int64(3*4*1000*30), calls)
		all, err := r.Storage().List(t.Context(), "evidence/")
		require.NoError(t, err)
		require.Len(t, all, 1)
		assert.Less(t, len(all[0].Value), 1<<20)
	})
}

// TestFewClients: of two clients, one of which tries the set out, one reports while the other does not.
// Their calls are compared all the same.
func TestFewClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, revision := trying(t, &rollout.Plan{Steps: []float64{0.5}, Bake: time.Minute, MinCalls: 1000})
		var canary, failed, rest int64
		for i := range 30 {
			virtual.Sleep(2500 * time.Millisecond)
			if i%2 == 0 {
				canary, failed = canary+100, failed+3
			} else {
				rest += 100
			}
			m := heard(canary, failed, rest, 0)
			m.ReportEvery = durationpb.New(5 * time.Second)
			ro := look(t, r, "one", revision, m)
			if ro.GetState() == regov1.RolloutState_ROLLOUT_STATE_REJECTED {
				assert.Less(t, canary, int64(900), "calls")
				return
			}
			require.Equal(t, regov1.RolloutState_ROLLOUT_STATE_BAKING, ro.GetState(), ro.GetReason())
		}
		assert.Fail(t, "it was not taken back")
	})
}
