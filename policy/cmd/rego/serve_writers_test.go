package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// TestServeWriters: who may change and read which policies, by certificate, and what the audit log
// has of it.
func TestServeWriters(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	log := filepath.Join(t.TempDir(), "audit")
	s := serving(t, append(a.server(), "--audit", log, "--clients", "spiffe://shop.example/sa/{service}",
		"--operators", "spiffe://shop.example/operators/*", "--writers", "spiffe://shop.example/release", "--writers", "spiffe://shop.example/teams/{service}")...)
	for _, tt := range []struct {
		id, service       string
		read, write, list codes.Code
	}{
		{"spiffe://shop.example/release", "", codes.OK, codes.OK, codes.OK},
		{"spiffe://shop.example/release", "cart", codes.OK, codes.OK, codes.OK},
		{"spiffe://shop.example/teams/cart", "cart", codes.OK, codes.OK, codes.PermissionDenied},
		{"spiffe://shop.example/teams/cart", "search", codes.PermissionDenied, codes.PermissionDenied, codes.PermissionDenied},
		{"spiffe://shop.example/teams/cart", "", codes.PermissionDenied, codes.PermissionDenied, codes.PermissionDenied},
		{"spiffe://shop.example/operators/ann", "cart", codes.OK, codes.PermissionDenied, codes.OK},
		{"spiffe://shop.example/sa/cart", "cart", codes.PermissionDenied, codes.PermissionDenied, codes.PermissionDenied},
	} {
		admin := regov1.NewPolicyAdminServiceClient(s.dial(a.client(tt.id)))
		put := func() error {
			_, err := admin.PutPolicies(t.Context(), &regov1.PutPoliciesRequest{Service: tt.service, Set: oneRule(tt.id, policy.Policy{}), Overwrite: true, Message: "why"})
			return err
		}
		assert.Equal(t, tt.write, status.Code(put()), "%s writes %q", tt.id, tt.service)
		_, err := admin.GetPolicies(t.Context(), &regov1.GetPoliciesRequest{Service: tt.service})
		assert.Equal(t, tt.read, status.Code(err), "%s reads %q: %v", tt.id, tt.service, err)
		_, err = admin.ListRevisions(t.Context(), &regov1.ListRevisionsRequest{Service: tt.service})
		assert.Equal(t, tt.read, status.Code(err), "%s reads the log of %q: %v", tt.id, tt.service, err)
		_, err = admin.ListServices(t.Context(), new(regov1.ListServicesRequest))
		assert.Equal(t, tt.list, status.Code(err), "%s lists services: %v", tt.id, err)
		if tt.write != codes.OK {
			_, err = admin.RollBackPolicies(t.Context(), &regov1.RollBackPoliciesRequest{Service: tt.service})
			assert.Equal(t, tt.write, status.Code(err))
			_, err = admin.PromoteRollout(t.Context(), &regov1.PromoteRolloutRequest{Service: tt.service})
			assert.Equal(t, tt.write, status.Code(err))
		}
	}
	b, err := os.ReadFile(log)
	require.NoError(t, err)
	var made, denied int
	for line := range strings.Lines(string(b)) {
		switch {
		case strings.Contains(line, `"event":"made"`):
			made++
			assert.Contains(t, line, `"message":"why"`)
			assert.Contains(t, line, `"identities":["spiffe://shop.example/`)
		case strings.Contains(line, `"event":"denied"`) && strings.Contains(line, "PutPolicies"):
			denied++
		}
	}
	assert.Equal(t, 3, made)
	assert.Equal(t, 3, denied, "one for each identity, within ten seconds")
}

// TestWhyIsAudited: the audit log has the words of whoever made each change.
func TestWhyIsAudited(t *testing.T) {
	t.Parallel()
	s := serving(t)
	admin := regov1.NewPolicyAdminServiceClient(s.dial(insecure.NewCredentials()))
	_, err := admin.PutPolicies(t.Context(), &regov1.PutPoliciesRequest{Set: oneRule("1", policy.Policy{}), Overwrite: true, Message: "begin"})
	require.NoError(t, err)
	_, err = admin.PutPolicies(t.Context(), &regov1.PutPoliciesRequest{
		Set: oneRule("2", policy.Policy{}), Overwrite: true, Message: "try", Rollout: &regov1.RolloutPlan{Steps: []float64{0.5}},
	})
	require.NoError(t, err)
	_, err = admin.PromoteRollout(t.Context(), &regov1.PromoteRolloutRequest{Message: "looks well"})
	require.NoError(t, err)
	_, err = admin.RollBackPolicies(t.Context(), &regov1.RollBackPoliciesRequest{Message: "it did not"})
	require.NoError(t, err)
	for _, want := range []string{"begin", "try", "looks well", "it did not"} {
		assert.Equal(t, want, s.until("rego: audit", "event", "made")["message"])
	}
}

// TestNobodyMayWrite on a server with certificates that does not say who may.
func TestNobodyMayWrite(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	s := serving(t, append(a.server(), "--clients", "spiffe://shop.example/sa/{service}", "--operators", "spiffe://shop.example/operators/*")...)
	admin := regov1.NewPolicyAdminServiceClient(s.dial(a.client("spiffe://shop.example/operators/ann")))
	_, err := admin.PutPolicies(t.Context(), &regov1.PutPoliciesRequest{Set: oneRule("x", policy.Policy{}), Overwrite: true})
	assert.Equal(t, codes.PermissionDenied, status.Code(err))
	assert.ErrorContains(t, err, "--writers")
}
