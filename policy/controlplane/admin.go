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

// Admin returns the service that changes policies. Register it with
// regov1.RegisterPolicyAdminServiceServer. [AuthorizeChange] says who may use it: without
// it, everybody who can reach the service may change policies.
func (r *Replica) Admin() regov1.PolicyAdminServiceServer { return &admin{Replica: r} }

// answersWithin is how long a call waits for the storage: longer than a member of etcd that is silent, or
// an election, takes. Who asks waits longer, and so is told what it is that does not answer.
const answersWithin = 15 * time.Second

// enter returns a context for a call of somebody who may make it, which done ends.
func (a *admin) enter(ctx context.Context, method, service string, write bool) (within context.Context, done context.CancelFunc, err error) {
	if allow := a.config.authorizeChange; allow != nil {
		if err := allow(ctx, service, write); err != nil {
			return nil, nil, a.config.deny(ctx, method, &regov1.Node{Service: service}, err)
		}
	}
	wait := answersWithin
	if end, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(end)*9/10)
	}
	within, done = context.WithTimeout(ctx, wait)
	return within, done, nil
}

// GetPolicies tells what is in force, and what is tried out.
func (a *admin) GetPolicies(ctx context.Context, r *regov1.GetPoliciesRequest) (*regov1.GetPoliciesResponse, error) {
	ctx, done, err := a.enter(ctx, regov1.PolicyAdminService_GetPolicies_FullMethodName, r.GetService(), false)
	if err != nil {
		return nil, err
	}
	defer done()
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
	ctx, done, err := a.enter(ctx, method, r.GetService(), true)
	if err != nil {
		return nil, err
	}
	defer done()
	set, err := setIn(r)
	if err != nil {
		return nil, answerTo(err)
	}
	_, after, err := a.change(ctx, method, r, r.GetDryRun(), func(by repository.By) (repository.Policies, error) {
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
	ctx, done, err := a.enter(ctx, regov1.PolicyAdminService_ListRevisions_FullMethodName, r.GetService(), false)
	if err != nil {
		return nil, err
	}
	defer done()
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
	ctx, done, err := a.enter(ctx, method, r.GetService(), true)
	if err != nil {
		return nil, err
	}
	defer done()
	before, after, err := a.change(ctx, method, r, false, func(by repository.By) (repository.Policies, error) {
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
	ctx, done, err := a.enter(ctx, method, r.GetService(), true)
	if err != nil {
		return nil, err
	}
	defer done()
	_, after, err := a.change(ctx, method, r, false, func(by repository.By) (repository.Policies, error) {
		return a.repo.Promote(ctx, repository.Promotion{By: by, Service: r.GetService(), Candidate: r.GetCandidate()})
	})
	if err != nil {
		return nil, err
	}
	return &regov1.PromoteRolloutResponse{Revision: after.Revision, Rollout: after.Rollout}, nil
}

// ListServices tells which services have policies of their own. It is for those who may see all.
func (a *admin) ListServices(ctx context.Context, _ *regov1.ListServicesRequest) (*regov1.ListServicesResponse, error) {
	ctx, done, err := a.enter(ctx, regov1.PolicyAdminService_ListServices_FullMethodName, "", false)
	if err != nil {
		return nil, err
	}
	defer done()
	all, more, err := a.repo.Services(ctx, maxServices)
	if err != nil {
		return nil, answerTo(err)
	}
	m := &regov1.ListServicesResponse{LeftOut: uint64(more)}
	for _, o := range all {
		m.Services = append(m.Services, &regov1.ServicePolicies{Service: o.Service, InForce: o.InForce, Rollout: o.Rollout})
	}
	return m, nil
}

// maxServices is how many a response may have.
const maxServices = 1000

// changeRequest is what all requests for changes have.
type changeRequest interface {
	GetService() string
	GetMessage() string
	GetChangeId() string
}

// change has somebody change something, and whoever keeps a log told.
func (a *admin) change(ctx context.Context, method string, r changeRequest, dry bool, do func(repository.By) (repository.Policies, error)) (before, after repository.Policies, err error) {
	before, err = a.repo.Get(ctx, r.GetService())
	if err != nil && !errors.Is(err, repository.ErrNotFound) {
		return before, after, answerTo(err)
	}
	after, err = do(repository.By{Author: authorOf(ctx), Message: r.GetMessage(), ChangeID: r.GetChangeId()})
	if err != nil {
		return before, after, answerTo(err)
	}
	if told := a.config.onChange; told != nil && !dry && !after.Same(before) {
		told(Made{
			Time: time.Now(), Method: method, Peer: peerOf(ctx), Identities: Identities(ctx), Message: r.GetMessage(), Before: before, After: after,
		})
	}
	return before, after, nil
}

// authorOf returns who makes a change: without a certificate there is only the address.
func authorOf(ctx context.Context) string {
	by := strings.Join(Identities(ctx), " ")
	if by == "" {
		by = peerOf(ctx)
		if host, _, err := net.SplitHostPort(by); err == nil {
			by = host
		}
	}
	return strings.ToValidUTF8(by[:min(len(by), maxAuthor)], "")
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
	case errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded:
		err = fmt.Errorf("the storage of policies does not answer: %w", err)
	case errors.Is(err, repository.ErrDamaged):
		code = codes.DataLoss
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	return status.Error(code, short(err.Error()))
}
