package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// messageFlag adds the flag --message.
func messageFlag(cmd *cobra.Command, message *string) {
	cmd.Flags().StringVarP(message, "message", "m", "", "`WHY` you change it, for rego log; at most 1 KiB")
}

// A change whose fate is not known is sent again with the same id, which makes it once.
const (
	sends     = 3
	sendAgain = 500 * time.Millisecond
)

func newChangeID() string { return rand.Text() }

// changed makes a change: a request that has an id.
func changed[Q, A any](ctx context.Context, r *remote, request Q, call func(context.Context, Q, ...grpc.CallOption) (A, error)) (answer A, err error) {
	for n := range sends {
		if n > 0 {
			r.err.line(fmt.Sprintf("rego: it is not known whether the change was made, the request is sent again: %v", r.told(err)))
			if waited := pause(ctx, sendAgain); waited != nil {
				return answer, waited
			}
		}
		answer, err = asked(ctx, r, request, call)
		switch codeOf(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Unknown:
		default:
			return answer, err
		}
	}
	return answer, errors.New("the change may have been made: look with rego log: " + r.told(err).Error())
}

// pause waits, unless ctx is done before.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// policies returns what the service has; nothing if it has no policies of its own.
func (r *remote) policies(ctx context.Context) (*regov1.GetPoliciesResponse, error) {
	m, err := r.policiesOf(ctx, 0)
	if codeOf(err) == codes.NotFound {
		return new(regov1.GetPoliciesResponse), nil
	}
	return m, err
}

// policiesOf returns what the service has, with the set of a revision; 0 is what is in force.
func (r *remote) policiesOf(ctx context.Context, revision uint64) (*regov1.GetPoliciesResponse, error) {
	return asked(ctx, r, &regov1.GetPoliciesRequest{Service: r.service, Revision: revision}, r.admin.GetPolicies)
}

// setOf returns a set that the server has sent.
func setOf(m *regov1.Set) (policy.Set, error) {
	s, err := policy.FromProto(m)
	if err != nil {
		return s, failure{fmt.Errorf("the set of the server is none that this command knows, which may be older: %w", err)}
	}
	return s, nil
}
