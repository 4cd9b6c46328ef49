package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy/controlplane"
	"github.com/rego-go/rego/policy/file"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// TestSentAgain: a change whose fate is not known is sent again with the same id.
func TestSentAgain(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var ids []string
	s := &stub{
		policies: func(int) (*regov1.GetPoliciesResponse, error) { return nil, status.Error(codes.NotFound, "not found") },
		put: func(n int, r *regov1.PutPoliciesRequest) (*regov1.PutPoliciesResponse, error) {
			mu.Lock()
			defer mu.Unlock()
			ids = append(ids, r.GetChangeId())
			if r.GetService() == "down" || n == 0 {
				return nil, status.Error(codes.Unavailable, "the storage is away")
			}
			return &regov1.PutPoliciesResponse{Revision: &regov1.Revision{Revision: 1, ChangeId: r.GetChangeId()}, Durable: true}, nil
		},
	}
	c := s.serve(t)
	code, out, errs := c.call("{}", "put", "-")
	assert.Equal(t, exitOK, code, errs)
	assert.Contains(t, errs, "rego: it is not known whether the change was made, the request is sent again: server "+c.addr+" does not answer: the storage is away\n")
	assert.Contains(t, out, "put as revision 1, in force for all clients\n")
	require.Len(t, ids, 2)
	assert.Equal(t, ids[0], ids[1])
	assert.NotEmpty(t, ids[0])

	code, _, errs = c.call("{}", "put", "-", "--service", "down")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, errs, "rego: the change may have been made: look with rego log: server "+c.addr+" does not answer: the storage is away\n")
	require.Len(t, ids, 2+sends)
	assert.NotEqual(t, ids[0], ids[2])
	assert.Equal(t, ids[2], ids[4])
}

// TestTwoOperators: of changes that are based on the same revision one is made, and the others are
// told what is in force.
func TestTwoOperators(t *testing.T) {
	t.Parallel()
	c := control(t)
	c.ok(t, basket, "put", "-")
	const operators = 4
	codes := make([]int, operators)
	texts := make([]string, operators)
	var all sync.WaitGroup
	for i := range operators {
		all.Go(func() {
			text := fmt.Sprintf("{version: %q, revision: 1}", fmt.Sprint("by ", i))
			codes[i], _, texts[i] = c.call(text, "put", "-", "-m", fmt.Sprint("operator ", i))
		})
	}
	all.Wait()
	winner := -1
	for i, code := range codes {
		if code == exitOK {
			require.Equal(t, -1, winner, "two of them")
			winner = i
		}
	}
	require.NotEqual(t, -1, winner)
	for i, code := range codes {
		if i != winner {
			assert.Equal(t, exitFaults, code)
			assert.Contains(t, texts[i], fmt.Sprintf(`rego: in force: revision 2 (version "by %d"), put by `, winner))
			assert.Contains(t, texts[i], fmt.Sprintf(`: "operator %d"`, winner))
		}
	}
	assert.Contains(t, c.ok(t, "", "get"), fmt.Sprintf("version: by %d\n", winner))
}

func TestDenied(t *testing.T) {
	t.Parallel()
	c := control(t,
		controlplane.AuthorizeChange(func(_ context.Context, _ string, write bool) error {
			if write {
				return errors.New("operators only read here")
			}
			return nil
		}),
		controlplane.AuthorizeFleet(func(context.Context) error { return status.Error(codes.Unauthenticated, "no certificate") }))
	for _, r := range []struct{ args, want string }{
		{"put -", "rego: not allowed: operators only read here"},
		{"rollback", "rego: not allowed: operators only read here"},
		{"promote", "rego: not allowed: operators only read here"},
		{"clients", "rego: the server does not know who asks: no certificate: --cert and --key show it a certificate"},
		{"top --once", "rego: the server does not know who asks"},
	} {
		code, _, errs := c.call("{}", strings.Fields(r.args)...)
		assert.Equal(t, exitFaults, code, r.args)
		assert.Contains(t, errs, r.want, r.args)
	}
	code, _, errs := (&stub{}).serve(t).call("", "log")
	assert.Equal(t, exitFaults, code)
	assert.Contains(t, errs, "cannot do that: the stub has none: it may be older than this command")
}

// TestGetAndPut: what get writes is put again, whatever the format.
func TestGetAndPut(t *testing.T) {
	t.Parallel()
	c := control(t)
	c.ok(t, "{epoch: 2, version: \"1\", hedges_off: true}", "put", "-")
	for i, f := range []string{"yaml", "json", "binary"} {
		got := c.ok(t, "", "get", "--to", f)
		format, err := formatOf(f, "")
		require.NoError(t, err)
		set, err := file.Parse([]byte(got), format)
		require.NoError(t, err, got)
		assert.EqualValues(t, 1+i, set.Revision)
		assert.EqualValues(t, 2, set.Epoch)
		set.Version += "x"
		data, err := file.Marshal(set, format)
		require.NoError(t, err)
		assert.Contains(t, c.ok(t, string(data), "put", "--from", f, "-"), fmt.Sprintf("put as revision %d of epoch 2 (version %q)", 2+i, set.Version))
	}
	code, _, errs := c.call("{version: y}", "put", "-", "--overwrite")
	assert.Equal(t, exitFaults, code)
	assert.Contains(t, errs, "epoch: must not be below 2")
}

func TestDiff(t *testing.T) {
	t.Parallel()
	s := session{controlled: control(t)}
	path := filepath.Join(t.TempDir(), "policies.yaml")
	write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	do := func(args ...string) {
		code, out, errs := s.call("", args...)
		fmt.Fprintf(&s.text, "$ rego %s\n%s%s", strings.ReplaceAll(strings.Join(args, " "), path, "FILE"), errs, out)
		fmt.Fprintf(&s.text, "exit code %d\n\n", code)
	}
	write(basket)
	do("diff", path)
	do("put", path)
	do("diff", path)
	do("diff")
	write(strings.NewReplacer(`"1"`, `"2"`, "max_attempts: 3", "max_attempts: 5").Replace(basket) + "hedges_off: true\n")
	do("diff", path)
	do("diff", "--exit-code", path)
	do("put", path, "--base", "1", "--canary", "10%")
	do("diff")
	do("diff", "--revision", "2", path)
	do("promote")
	do("diff", "--revision", "1")
	do("diff", "--revision", "1,2", "--output", "json")
	do("diff", "--revision", "1", "--revision", "2", path)
	do("diff", "--revision", "9")
	do("diff", "--revision", "x")
	write("rules: 1")
	do("diff", path)
	golden(t, "diff.txt", strings.ReplaceAll(plain(s.text.String()), path, "FILE"))
}

// TestHostileServer: what is in the answers of a server, and was put there by anybody, is printed
// harmless.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	for _, name := range hostile {
		s := crowd(name)
		s.policies = func(int) (*regov1.GetPoliciesResponse, error) {
			set := &regov1.Set{Version: name, Budgets: []*regov1.Budget{{Name: name + "x", Kind: &regov1.Budget_Ratio{Ratio: &regov1.Ratio{Ratio: 0.1}}}}}
			return &regov1.GetPoliciesResponse{Set: set, Revision: inForce(name), Candidate: &regov1.Set{Version: name + name}, Rollout: trying(name, baking)}, nil
		}
		s.put = func(_ int, r *regov1.PutPoliciesRequest) (*regov1.PutPoliciesResponse, error) {
			if r.GetOverwrite() {
				with, _ := status.New(codes.InvalidArgument, name).WithDetails(&regov1.Refusal{Faults: []*regov1.Fault{{Path: name, Text: name}}})
				return nil, with.Err()
			}
			return nil, status.Error(codes.Aborted, name)
		}
		s.revisions = func(*regov1.ListRevisionsRequest) (*regov1.ListRevisionsResponse, error) {
			return &regov1.ListRevisionsResponse{Revisions: []*regov1.Revision{inForce(name), trying(name, rejected).GetCandidate()}, Rollout: trying(name, rejected)}, nil
		}
		s.traffic = func(int) (*regov1.ListTrafficResponse, error) { return busy(name), nil }
		c := s.serve(t)
		for _, args := range []string{
			"put -", "put - --overwrite", "get", "get --candidate", "get --to json", "diff", "diff --output json", "diff -", "log", "log --output json",
			"rollout", "rollout --output json", "services", "services --output json", "clients", "clients --output json", "top --once", "top --once --output json",
		} {
			_, out, errs := c.call("{}", strings.Fields(args)...)
			about := fmt.Sprintf("%s %q", args, name)
			checkPrinted(t, out, about)
			checkPrinted(t, errs, about)
			assert.NotEmpty(t, out+errs, about)
		}
		for _, args := range [][]string{
			{"log", "--service", name}, {"clients", "--service", name}, {"put", "-", "--service", name}, {"top", "--sort", name},
			{"put", "-", "--canary", name}, {"diff", "--revision", name}, {"get", "--to", name}, {"log", "--ca", name},
		} {
			_, out, errs := c.call("{}", args...)
			checkPrinted(t, out, fmt.Sprintf("%q", args))
			checkPrinted(t, errs, fmt.Sprintf("%q", args))
		}
		_, out, errs := call("", "log", "--server", name)
		checkPrinted(t, out+errs, fmt.Sprintf("--server %q", name))
	}
}
