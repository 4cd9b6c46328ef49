package main

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

var trials = flag.Int("trials", 1, "how often each rollout is tried with real clients")

func oneRule(version string, p policy.Policy) *regov1.Set {
	return policy.Set{Version: version, Rules: []policy.Rule{{Methods: []string{"*"}, Policy: p}}}.Proto()
}

// decided waits until a rollout has ended.
func decided(t *testing.T, admin regov1.PolicyAdminServiceClient) *regov1.Rollout {
	t.Helper()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	said := ""
	for range look.C {
		r, err := admin.GetPolicies(t.Context(), new(regov1.GetPoliciesRequest))
		require.NoError(t, err)
		if r.GetRollout().GetState() != regov1.RolloutState_ROLLOUT_STATE_BAKING {
			return r.GetRollout()
		}
		if reason := r.GetRollout().GetReason(); reason != said {
			t.Log(reason)
			said = reason
		}
	}
	return nil
}

// TestRollout with real clients that make real calls: a set that does harm comes back by itself, and
// one that does none goes on to all.
func TestRollout(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		size          int           // instances
		rest          time.Duration // between the calls of one
		backend       func() testsrv.Step
		share         float64
		before, tried policy.Policy
		state         regov1.RolloutState
		most          int64 // calls of all, on average, that a simulation took
	}{
		{
			"all calls fail", 200, 4 * time.Second,
			func() testsrv.Step { return testsrv.Do(testsrv.Delay(5*time.Millisecond), testsrv.Echo()) },
			0.05, policy.Policy{}, policy.Policy{Timeout: time.Millisecond},
			regov1.RolloutState_ROLLOUT_STATE_REJECTED, 93,
		},
		{
			"five in a hundred fail and not one", 200, 600 * time.Millisecond,
			func() testsrv.Step {
				switch r := rand.IntN(100); {
				case r < 1:
					return testsrv.Fail(codes.Internal, "broken")
				case r < 5:
					return testsrv.Do(testsrv.Delay(time.Second), testsrv.Echo())
				}
				return testsrv.Echo()
			},
			0.05, policy.Policy{}, policy.Policy{Timeout: 300 * time.Millisecond},
			regov1.RolloutState_ROLLOUT_STATE_REJECTED, 3648,
		},
		{
			"five attempts where most calls fail for all alike", 60, 200 * time.Millisecond,
			func() testsrv.Step {
				if rand.IntN(100) < 60 {
					return testsrv.Fail(codes.Internal, "broken")
				}
				return testsrv.Echo()
			},
			0.2, policy.Policy{}, policy.Policy{Retry: policy.Retry{Codes: []codes.Code{codes.Internal}, MaxAttempts: 5, Backoff: policy.Backoff{Initial: time.Millisecond}}, Budget: "much"},
			regov1.RolloutState_ROLLOUT_STATE_REJECTED, 0,
		},
		{
			"no harm", 60, 200 * time.Millisecond,
			testsrv.Echo,
			0.2, policy.Policy{}, policy.Policy{Name: "another"},
			regov1.RolloutState_ROLLOUT_STATE_PROMOTED, 0,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serving(t, "--report-every", "1s")
			admin := regov1.NewPolicyAdminServiceClient(s.dial(insecure.NewCredentials()))
			_, err := admin.PutPolicies(t.Context(), &regov1.PutPoliciesRequest{Set: oneRule("0", tt.before), Overwrite: true})
			require.NoError(t, err)
			c := calling(t, tt.size, []string{s.addr}, backend(t, tt.backend), tt.rest)
			c.all(has("0"))
			var sum int64
			for i := range *trials {
				version := string(rune('A' + i))
				put := &regov1.PutPoliciesRequest{Set: oneRule(version, tt.tried), Base: c.stores[0].Status().Revision, Rollout: &regov1.RolloutPlan{
					Steps: []float64{tt.share, 0.5}, Bake: durationpb.New(2 * time.Second), MinCalls: 200,
				}}
				put.Set.Budgets = []*regov1.Budget{{Name: "much", Kind: &regov1.Budget_TokenBucket{TokenBucket: &regov1.TokenBucket{PerSecond: 1000}}}}
				_, err := admin.PutPolicies(t.Context(), put)
				require.NoError(t, err)
				ro := decided(t, admin)
				n := ro.GetCanary().GetCalls() + ro.GetRest().GetCalls()
				sum += n
				t.Logf("%s: %v after %d calls (%d in the canary: %d clients): %s", version, ro.GetState(), n, ro.GetCanary().GetCalls(), ro.GetCanaryClients(), ro.GetReason())
				assert.Equal(t, tt.state, ro.GetState(), ro.GetReason())
				now, err := admin.GetPolicies(t.Context(), new(regov1.GetPoliciesRequest))
				require.NoError(t, err)
				c.all(newest(now.GetRevision().GetRevision()))
			}
			t.Logf("on average after %d calls; a simulation took %d", sum/int64(*trials), tt.most)
			c.end()
			assert.Zero(t, c.back.Load(), "a client went back to an earlier revision")
		})
	}
}
