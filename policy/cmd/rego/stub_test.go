package main

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// stub is a server that says what a test wants it to. Each function is given which request it is,
// from 0. Those that are nil are not implemented.
type stub struct {
	regov1.UnimplementedPolicyAdminServiceServer
	regov1.UnimplementedFleetServiceServer

	policies  func(n int) (*regov1.GetPoliciesResponse, error)
	put       func(n int, r *regov1.PutPoliciesRequest) (*regov1.PutPoliciesResponse, error)
	revisions func(r *regov1.ListRevisionsRequest) (*regov1.ListRevisionsResponse, error)
	services  *regov1.ListServicesResponse
	clients   func(r *regov1.ListClientsRequest) *regov1.ListClientsResponse
	summary   *regov1.SummarizeClientsResponse
	traffic   func(n int) (*regov1.ListTrafficResponse, error)

	mu    sync.Mutex
	calls map[string]int
}

// serve starts the server, whose commands are called as those of a control plane.
func (s *stub) serve(t *testing.T) *controlled {
	t.Helper()
	g := grpc.NewServer(controlplane.ServerOptions()...)
	regov1.RegisterFleetServiceServer(g, s)
	regov1.RegisterPolicyAdminServiceServer(g, s)
	return &controlled{addr: listening(t, g)}
}

// count returns how often something was asked before.
func (s *stub) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		s.calls = make(map[string]int)
	}
	s.calls[what]++
	return s.calls[what] - 1
}

var errNone = status.Error(codes.Unimplemented, "the stub has none")

func (s *stub) GetPolicies(context.Context, *regov1.GetPoliciesRequest) (*regov1.GetPoliciesResponse, error) {
	if s.policies == nil {
		return nil, errNone
	}
	return s.policies(s.count("get"))
}

func (s *stub) PutPolicies(_ context.Context, r *regov1.PutPoliciesRequest) (*regov1.PutPoliciesResponse, error) {
	if s.put == nil {
		return nil, errNone
	}
	return s.put(s.count("put"), r)
}

func (s *stub) ListRevisions(_ context.Context, r *regov1.ListRevisionsRequest) (*regov1.ListRevisionsResponse, error) {
	if s.revisions == nil {
		return nil, errNone
	}
	return s.revisions(r)
}

func (s *stub) ListServices(context.Context, *regov1.ListServicesRequest) (*regov1.ListServicesResponse, error) {
	return s.services, nil
}

func (s *stub) ListClients(_ context.Context, r *regov1.ListClientsRequest) (*regov1.ListClientsResponse, error) {
	if s.clients == nil {
		return nil, errNone
	}
	return s.clients(r), nil
}

func (s *stub) SummarizeClients(context.Context, *regov1.SummarizeClientsRequest) (*regov1.SummarizeClientsResponse, error) {
	return s.summary, nil
}

func (s *stub) ListTraffic(context.Context, *regov1.ListTrafficRequest) (*regov1.ListTrafficResponse, error) {
	if s.traffic == nil {
		return nil, errNone
	}
	return s.traffic(s.count("traffic"))
}

var someTime = timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))

// inForce is what a stub has, with the names that a test wants it to have.
func inForce(name string) *regov1.Revision {
	return &regov1.Revision{Revision: 7, Version: name, Time: someTime, Author: name, Message: name, Base: 6, ChangeId: name, Sha256: []byte{0xab}}
}

// trying is a rollout that is under way, or has ended.
func trying(name string, state regov1.RolloutState) *regov1.Rollout {
	ro := &regov1.Rollout{
		Candidate:   &regov1.Revision{Revision: 8, Version: name, Time: someTime, Author: name, Message: name, Base: 7, Canary: true},
		Plan:        &regov1.RolloutPlan{Steps: []float64{0.05, 0.25}, Bake: durationpb.New(10 * time.Minute), Alpha: 0.01, MinCalls: 1000, MaxExtra: 0.1},
		State:       state,
		Share:       0.05,
		StepStarted: someTime,
		Canary:      &regov1.ArmCounts{Calls: 1203, Failed: 61, Extra: 60},
		Rest:        &regov1.ArmCounts{Calls: 24000, Failed: 48, Extra: 240},

		FailedEvidence: 3.21, ExtraEvidence: 0.5, Reason: name, CanaryClients: 2, Clients: 40, Refusing: 1,
	}
	if state != regov1.RolloutState_ROLLOUT_STATE_BAKING {
		ro.Ended = someTime
	}
	return ro
}
