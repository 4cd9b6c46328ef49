package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/rollout"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

const (
	baking   = regov1.RolloutState_ROLLOUT_STATE_BAKING
	promoted = regov1.RolloutState_ROLLOUT_STATE_PROMOTED
	rejected = regov1.RolloutState_ROLLOUT_STATE_REJECTED
	endedBy  = regov1.RolloutState_ROLLOUT_STATE_ENDED
)

func TestRolloutIsTold(t *testing.T) {
	t.Parallel()
	s := &stub{policies: func(int) (*regov1.GetPoliciesResponse, error) {
		return &regov1.GetPoliciesResponse{Revision: inForce("1"), Rollout: trying("531 of 1,000 calls", baking)}, nil
	}}
	c := s.serve(t)
	text := c.ok(t, "", "rollout", "--service", "shop")
	for _, line := range []string{
		"candidate  revision 8 (version \"531 of 1,000 calls\")\n",
		"state      baking, step 1 of 2: 5 % of the clients, since 2026-01-02 03:04:05Z (",
		"reason     531 of 1,000 calls\n",
		"clients    2 of 40, 1 refuse it\n",
		"canary     1,203 calls, 5.07 % failed, 0.0499 extra attempts per call\n",
		"rest       24,000 calls, 0.2 % failed, 0.01 extra attempts per call\n",
		"evidence   1:3.21 that more calls fail, 1:0.5 that there are too many extra attempts (rejected from 1:100, together)\n",
	} {
		assert.Contains(t, text, line)
	}
	golden(t, "rollout.json", c.ok(t, "", "rollout", "--service", "shop", "--output", "json"))
}

// TestFollow: --watch and --wait print what changes but for numbers, and say by the exit code how it
// ended.
func TestFollow(t *testing.T) {
	t.Parallel()
	step := func(n int32, reason string, state regov1.RolloutState) *regov1.GetPoliciesResponse {
		ro := trying(reason, state)
		ro.Step, ro.Share = n, ro.GetPlan().GetSteps()[n]
		return &regov1.GetPoliciesResponse{Set: &regov1.Set{}, Revision: inForce("1"), Candidate: &regov1.Set{}, Rollout: ro}
	}
	for _, r := range []struct {
		why  string
		says []any // answers and errors, one for each request
		code int
		want []string // without times
		errs string
	}{
		{
			"promoted", []any{
				step(0, "531 of 1,000 calls; bakes for another 9m58s", baking), step(0, "931 of 1,000 calls; bakes for another 50s", baking),
				step(0, "bakes for another 10s", baking), step(1, "bakes for another 10m", baking), step(1, "no harm", promoted),
			},
			exitOK, []string{
				"step 1 of 2, 5 % of the clients (2 of 40): 531 of 1,000 calls; bakes for another 9m58s",
				"step 1 of 2, 5 % of the clients (2 of 40): bakes for another 10s",
				"step 2 of 2, 25 % of the clients (2 of 40): bakes for another 10m",
				"promoted: no harm",
			}, "",
		},
		{"rejected", []any{step(0, "a", baking), step(0, "failed calls", rejected)}, exitFaults, []string{"step 1 of 2, 5 % of the clients (2 of 40): a", "rejected: failed calls"}, ""},
		{"ended", []any{step(0, "ended by alice", endedBy)}, exitFaults, []string{"ended: ended by alice"}, ""},
		{
			"a server that is away for a while", []any{step(0, "a", baking), codes.Unavailable, codes.Unavailable, step(0, "no harm", promoted)},
			exitOK, []string{"step 1 of 2, 5 % of the clients (2 of 40): a", "promoted: no harm"}, "rego: server X does not answer: away: it is asked again, for a minute at most\n",
		},
		{"who may not look any more", []any{codes.PermissionDenied}, exitFaults, nil, "rego: not allowed: away\n"},
		{"another one", []any{&regov1.GetPoliciesResponse{Revision: inForce("1")}}, exitFaults, nil, "rego: this rollout is not the last one any more: rego log says what became of it\n"},
		{
			"promoted, and another one", []any{&regov1.GetPoliciesResponse{Revision: trying("2", baking).GetCandidate()}},
			exitOK, []string{`promoted: revision 8 (version "2") is in force for all clients`}, "",
		},
	} {
		s := &stub{
			policies: func(n int) (*regov1.GetPoliciesResponse, error) {
				switch says := r.says[max(0, min(n-1, len(r.says)-1))].(type) {
				case codes.Code:
					if n > 0 {
						return nil, status.Error(says, "away")
					}
				case *regov1.GetPoliciesResponse:
					if n > 0 {
						return says, nil
					}
				}
				return step(0, "a", baking), nil // before it is put
			},
			put: func(_ int, r *regov1.PutPoliciesRequest) (*regov1.PutPoliciesResponse, error) {
				ro := trying("2", baking)
				ro.Candidate.ChangeId = r.GetChangeId()
				return &regov1.PutPoliciesResponse{Revision: ro.GetCandidate(), Rollout: ro, Durable: true}, nil
			},
		}
		c := s.serve(t)
		code, out, errs := c.call("{revision: 7}", "put", "-", "--canary", "5%", "--wait", "--every", "10ms")
		assert.Equal(t, r.code, code, r.why+errs)
		_, out, _ = strings.Cut(out, "put as revision 8")
		_, out, _ = strings.Cut(out, "\n")
		var got []string
		for line := range strings.Lines(out) {
			_, text, _ := strings.Cut(line, "Z  ")
			got = append(got, strings.TrimSuffix(text, "\n"))
		}
		assert.Equal(t, r.want, got, r.why)
		assert.Equal(t, r.errs, strings.ReplaceAll(errs, c.addr, "X"), r.why)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	s := &stub{policies: func(n int) (*regov1.GetPoliciesResponse, error) {
		state := baking
		if n > 1 {
			state = rejected
		}
		return &regov1.GetPoliciesResponse{Revision: inForce("1"), Rollout: trying("why", state)}, nil
	}}
	code, out, errs := s.serve(t).call("", "rollout", "--watch", "--every", "10ms")
	assert.Equal(t, exitFaults, code)
	assert.Empty(t, errs)
	assert.Contains(t, out, "candidate  revision 8")
	assert.Contains(t, out, "Z  rejected: why\n")
	code, _, errs = control(t).call("", "rollout", "--watch")
	assert.Equal(t, exitFaults, code)
	assert.Contains(t, errs, "no set was tried out")
}

// TestBecame: what became of a revision is said by the one after it.
func TestBecame(t *testing.T) {
	t.Parallel()
	c := control(t)
	set := func(version string) string { return fmt.Sprintf("version: %q", version) }
	c.ok(t, set("1"), "put", "-")
	c.ok(t, set("2"), "put", "-", "--base", "1", "--canary", "5%")
	c.ok(t, set("3"), "put", "-", "--overwrite", "--canary", "5%") // ends 2, as 3, and is 4
	c.ok(t, "", "promote")
	c.ok(t, set("4"), "put", "-", "--base", "4", "--canary", "5%")
	c.ok(t, "", "rollback") // ends 5, as 6
	c.ok(t, "", "rollback") // takes 6 back, as 7
	c.ok(t, set("7"), "put", "-", "--overwrite", "--canary", "25%")
	var m struct {
		InForce   uint64 `json:"in_force"`
		Revisions []struct {
			Revision uint64 `json:"revision"`
			Became   string `json:"became"`
		} `json:"revisions"`
	}
	require.NoError(t, json.Unmarshal([]byte(c.ok(t, "", "log", "--output", "json")), &m))
	got := make(map[uint64]string)
	for _, r := range m.Revisions {
		got[r.Revision] = plain(r.Became)
	}
	assert.Equal(t, map[uint64]string{
		1: "", 2: "ended by 127.0.0.1", 3: "restores 1", 4: "", 5: "ended by 127.0.0.1", 6: "restores 4", 7: "restores 3, in force", 8: "tried out on 25 %",
	}, got)
	assert.EqualValues(t, 7, m.InForce)

	for _, r := range []struct {
		next *regov1.Revision
		want string
	}{
		{&regov1.Revision{Revision: 9, Restores: 7, Base: 6, Replaces: 7, Author: controlPlane, Message: "failed calls"}, "rejected (failed calls)"},
		{&regov1.Revision{Revision: 9, Restores: 7, Base: 6, Replaces: 7, Author: "alice"}, "ended by alice"}, // a rollback
		{&regov1.Revision{Revision: 9, Base: 7, Replaces: 7, Author: "alice"}, "ended by alice"},              // another set
		{&regov1.Revision{Revision: 9, Base: 8, Replaces: 8, Author: "alice"}, ""},                            // it was promoted
		{&regov1.Revision{Revision: 9, Base: 6, Restores: 7, Replaces: 8, Author: "alice"}, ""},               // and taken back later
	} {
		all := &regov1.ListRevisionsResponse{InForce: 9, Revisions: []*regov1.Revision{r.next, {Revision: 8, Base: 7, Canary: true}}}
		assert.Equal(t, r.want, became(all, 1), "%v", r.next)
		all.Rollout = trying("more calls fail", rejected)
		assert.Equal(t, "rejected (more calls fail)", became(all, 1))
	}
}

// TestCanary: the command says of how many clients a set is tried out on what becomes of them.
func TestCanary(t *testing.T) {
	t.Parallel()
	c := control(t)
	c.ok(t, `version: "1"`, "put", "-")
	c.ok(t, `version: "own"`, "put", "-", "--service", "pay")
	const n = 8
	stores := make(map[string]*policy.Store)
	among := 0
	for i := range n {
		instance := fmt.Sprint("host ", i)
		stores[instance] = c.client(t, "shop", instance)
		if rollout.Includes("2", instance, 0.5) {
			among++
		}
	}
	require.Positive(t, among)
	require.Less(t, among, n)
	for _, st := range stores {
		arrives(t, st, "1")
	}
	arrives(t, c.client(t, "pay", "host 0"), "own") // which has nothing to do with it

	got := c.ok(t, `version: "2"`, "put", "-", "--base", "1", "--canary", "50%")
	assert.Contains(t, got, fmt.Sprintf("tried out on 50 %% of the clients (by a hash of version and instance): %d of %d clients that are connected now\n", among, n))
	for instance, st := range stores {
		if rollout.Includes("2", instance, 0.5) {
			arrives(t, st, "2")
		}
	}
	var m struct {
		Clients []struct {
			Node   struct{ Service, Instance string }
			Canary bool
		}
	}
	require.NoError(t, json.Unmarshal([]byte(c.ok(t, "", "clients", "--output", "json")), &m))
	require.Len(t, m.Clients, n+1)
	for _, of := range m.Clients {
		assert.Equal(t, of.Node.Service == "shop" && rollout.Includes("2", of.Node.Instance, 0.5), of.Canary, of.Node.Instance)
	}

	c.ok(t, "", "rollback")
	for _, st := range stores {
		arrives(t, st, "1")
	}
	got = c.ok(t, `version: "3"`, "put", "-", "--base", "3", "--canary", "0.0001%")
	assert.Contains(t, got, "none of 8 clients that are connected now, so nothing is seen until others come. A larger share reaches some")
	c.ok(t, "", "promote")
	for _, st := range stores {
		arrives(t, st, "3")
	}
}

func TestSeesWithoutTime(t *testing.T) {
	t.Parallel()
	ro := trying("x", rejected)
	ro.Ended = nil
	assert.Equal(t, "rejected", stateOf(ro, someTime.AsTime()))
	ro.Ended = timestamppb.New(someTime.AsTime())
	assert.Equal(t, "rejected at 2026-01-02 03:04:05Z (0s ago)", stateOf(ro, someTime.AsTime()))
}
