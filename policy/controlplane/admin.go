package controlplane

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rego-go/rego/internal/wirebound"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/repository"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// admin is a Replica as those see it who change policies.
type admin struct {
	regov1.UnimplementedPolicyAdminServiceServer
	*Replica
}

// Admin returns what changes policies. Register it with regov1.RegisterPolicyAdminServiceServer.
// [AuthorizeChange] says who may.
func (r *Replica) Admin() regov1.PolicyAdminServiceServer { return &admin{Replica: r} }

func (a *admin) may(ctx context.Context, method, service string, write bool) error {
	allow := a.config.authorizeChange
	if allow == nil {
		return nil
	}
	if err := allow(ctx, service, write); err != nil {
		return a.config.deny(ctx, method, &regov1.Node{Service: service}, err)
	}
	return nil
}

// GetPolicies tells what is in force, and what is tried out.
func (a *admin) GetPolicies(ctx context.Context, r *regov1.GetPoliciesRequest) (*regov1.GetPoliciesResponse, error) {
	if err := a.may(ctx, regov1.PolicyAdminService_GetPolicies_FullMethodName, r.GetService(), false); err != nil {
		return nil, err
	}
	p, err := a.repo.Get(ctx, r.GetService())
	if err != nil {
		return nil, answerTo(err)
	}
	m := &regov1.GetPoliciesResponse{Set: p.Set.Proto(), Revision: p.Revision, Durable: a.repo.Durable()}
	if m.Rollout, err = a.repo.Progress(ctx, p); err != nil {
		return nil, answerTo(err)
	}
	if p.Trying() {
		m.Candidate = p.Candidate.Proto()
	}
	if of := r.GetRevision(); of != 0 && of != p.Set.Revision {
		set, revision, err := a.repo.At(ctx, r.GetService(), of)
		if err != nil {
			return nil, answerTo(err)
		}
		m.Set, m.Revision = set.Proto(), revision
	}
	return m, nil
}

// PutPolicies puts a set in force: for all clients, or for some at first.
func (a *admin) PutPolicies(ctx context.Context, r *regov1.PutPoliciesRequest) (*regov1.PutPoliciesResponse, error) {
	const method = regov1.PolicyAdminService_PutPolicies_FullMethodName
	if err := a.may(ctx, method, r.GetService(), true); err != nil {
		return nil, err
	}
	set, err := setIn(r)
	if err != nil {
		return nil, answerTo(err)
	}
	_, after, err := a.change(ctx, method, r.GetService(), r.GetDryRun(), func(by repository.By) (repository.Policies, error) {
		by.Message, by.ChangeID = r.GetMessage(), r.GetChangeId()
		return a.repo.Put(ctx, repository.Put{
			By: by, Service: r.GetService(), Set: set, Base: r.GetBase(), Overwrite: r.GetOverwrite(),
			Plan: repository.PlanFromProto(r.GetRollout()), DryRun: r.GetDryRun(),
		})
	})
	if err != nil {
		return nil, err
	}
	m := &regov1.PutPoliciesResponse{Revision: after.Revision, Durable: a.repo.Durable()}
	if after.Trying() {
		m.Revision, m.Rollout = after.Rollout.GetCandidate(), after.Rollout
	}
	return m, nil
}

// setIn returns the set of a request, packed or not. It is looked at before it is decoded, since few
// bytes can be much in memory.
func setIn(r *regov1.PutPoliciesRequest) (policy.Set, error) {
	m := r.GetSet()
	if r.GetPacked() != nil {
		z, err := gzip.NewReader(bytes.NewReader(r.GetPacked()))
		if err != nil {
			return policy.Set{}, fmt.Errorf("%w: packed: %w", repository.ErrInvalid, err)
		}
		plain, err := io.ReadAll(io.LimitReader(z, policy.MaxSize+1))
		switch {
		case err != nil:
			return policy.Set{}, fmt.Errorf("%w: packed: %w", repository.ErrInvalid, err)
		case len(plain) > policy.MaxSize:
			return policy.Set{}, fmt.Errorf("%w: packed: it has more than %d bytes", repository.ErrInvalid, policy.MaxSize)
		}
		if err := wirebound.Check(plain); err != nil {
			return policy.Set{}, fmt.Errorf("%w: packed: %w", repository.ErrInvalid, err)
		}
		m = new(regov1.Set)
		if err := proto.Unmarshal(plain, m); err != nil {
			return policy.Set{}, fmt.Errorf("%w: packed: %w", repository.ErrInvalid, err)
		}
	}
	if m == nil {
		return policy.Set{}, fmt.Errorf("%w: there is no set", repository.ErrInvalid)
	}
	return policy.FromProto(m)
}

// ListRevisions tells what was in force before.
func (a *admin) ListRevisions(ctx context.Context, r *regov1.ListRevisionsRequest) (*regov1.ListRevisionsResponse, error) {
	if err := a.may(ctx, regov1.PolicyAdminService_ListRevisions_FullMethodName, r.GetService(), false); err != nil {
		return nil, err
	}
	p, err := a.repo.Get(ctx, r.GetService())
	if err != nil {
		return nil, answerTo(err)
	}
	n := int(r.GetPageSize())
	if n <= 0 || n > maxRevisions {
		n = maxRevisions
	}
	m := &regov1.ListRevisionsResponse{InForce: p.Set.Revision}
	if m.Rollout, err = a.repo.Progress(ctx, p); err != nil {
		return nil, answerTo(err)
	}
	if m.Revisions, m.More, err = a.repo.Log(ctx, r.GetService(), r.GetBefore(), n); err != nil {
		return nil, answerTo(err)
	}
	return m, nil
}

// maxRevisions is how many a response may have.
const maxRevisions = 100

// RollBackPolicies takes a change back.
func (a *admin) RollBackPolicies(ctx context.Context, r *regov1.RollBackPoliciesRequest) (*regov1.RollBackPoliciesResponse, error) {
	const method = regov1.PolicyAdminService_RollBackPolicies_FullMethodName
	if err := a.may(ctx, method, r.GetService(), true); err != nil {
		return nil, err
	}
	before, after, err := a.change(ctx, method, r.GetService(), false, func(by repository.By) (repository.Policies, error) {
		by.Message, by.ChangeID = r.GetMessage(), r.GetChangeId()
		return a.repo.RollBack(ctx, repository.RollBack{By: by, Service: r.GetService(), Base: r.GetBase(), To: r.GetTo()})
	})
	if err != nil {
		return nil, err
	}
	m := &regov1.RollBackPoliciesResponse{Revision: after.Revision}
	if before.Trying() {
		m.Rollout = after.Rollout
	}
	return m, nil
}

// PromoteRollout puts the set that is tried out in force for all.
func (a *admin) PromoteRollout(ctx context.Context, r *regov1.PromoteRolloutRequest) (*regov1.PromoteRolloutResponse, error) {
	const method = regov1.PolicyAdminService_PromoteRollout_FullMethodName
	if err := a.may(ctx, method, r.GetService(), true); err != nil {
		return nil, err
	}
	_, after, err := a.change(ctx, method, r.GetService(), false, func(by repository.By) (repository.Policies, error) {
		by.Message, by.ChangeID = r.GetMessage(), r.GetChangeId()
		return a.repo.Promote(ctx, repository.Promotion{By: by, Service: r.GetService(), Candidate: r.GetCandidate()})
	})
	if err != nil {
		return nil, err
	}
	return &regov1.PromoteRolloutResponse{Revision: after.Revision, Rollout: after.Rollout}, nil
}

// ListServices tells which services have policies of their own. It is for those who may see all.
func (a *admin) ListServices(ctx context.Context, _ *regov1.ListServicesRequest) (*regov1.ListServicesResponse, error) {
	if err := a.may(ctx, regov1.PolicyAdminService_ListServices_FullMethodName, "", false); err != nil {
		return nil, err
	}
	all, err := a.repo.Services(ctx)
	if err != nil {
		return nil, answerTo(err)
	}
	m := new(regov1.ListServicesResponse)
	for _, p := range all {
		ro, err := a.repo.Progress(ctx, p)
		if err != nil {
			return nil, answerTo(err)
		}
		m.Services = append(m.Services, &regov1.ServicePolicies{Service: p.Service, InForce: p.Revision, Rollout: ro})
	}
	return m, nil
}

// change has somebody change something, and whoever keeps a log told.
func (a *admin) change(ctx context.Context, method, service string, dry bool, do func(repository.By) (repository.Policies, error)) (before, after repository.Policies, err error) {
	by := strings.Join(Identities(ctx), " ")
	if by == "" { // without a certificate there is only the address
		by = peerOf(ctx)
		if host, _, err := net.SplitHostPort(by); err == nil {
			by = host
		}
	}
	before, err = a.repo.Get(ctx, service)
	if err != nil && !errors.Is(err, repository.ErrNotFound) {
		return before, after, answerTo(err)
	}
	after, err = do(repository.By{Author: by[:min(len(by), maxAuthor)]})
	if err != nil {
		return before, after, answerTo(err)
	}
	if told := a.config.onChange; told != nil && !dry && !after.Same(before) {
		told(Made{Time: time.Now(), Method: method, Peer: peerOf(ctx), Identities: Identities(ctx), Before: before, After: after})
	}
	return before, after, nil
}

// maxAuthor is how many bytes of identities are kept as who made a change.
const maxAuthor = 500

// answerTo returns the status that an error of the repository becomes. The faults of a set are in
// its details.
func answerTo(err error) error {
	code := codes.Unavailable
	switch faults := policy.Faults(nil); {
	case errors.As(err, &faults):
		s := status.New(codes.InvalidArgument, short(err.Error()))
		details := new(regov1.Refusal)
		details.Time, details.Faults = timestamppb.Now(), bounded(faultsOf(faults), keptFaults)
		if with, e := s.WithDetails(details); e == nil {
			s = with
		}
		return s.Err()
	case errors.Is(err, repository.ErrConflict):
		code = codes.Aborted
	case errors.Is(err, repository.ErrNotFound):
		code = codes.NotFound
	case errors.Is(err, repository.ErrInvalid):
		code = codes.InvalidArgument
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code = status.FromContextError(err).Code()
	}
	return status.Error(code, short(err.Error()))
}
