package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

func busy(name string) *regov1.ListTrafficResponse {
	return &regov1.ListTrafficResponse{
		Over: durationpb.New(time.Minute), Reporting: 1203, LeftOut: 2,
		Traffic: []*regov1.Traffic{
			{Service: "shop", Method: "/shop.v1.Basket/Get", Ends: []*regov1.EndCount{{Code: regov1.Code_OK, Reason: "succeeded", Calls: 60000}}},
			{
				Service: "shop", Method: "/shop.v1.Search/Suggest", Retries: 60, Hedges: 600,
				Ends: []*regov1.EndCount{
					{Code: regov1.Code_OK, Reason: "succeeded", Calls: 5400},
					{Code: regov1.Code_CANCELLED, Reason: callerCancelled, Calls: 400},
					{Code: regov1.Code_UNAVAILABLE, Reason: "budget-denied", Calls: 150},
					{Code: regov1.Code_UNAVAILABLE, Reason: "attempts-exhausted", Calls: 50},
				},
				Denials: []*regov1.DenialCount{{Kind: "hedge", Reason: "too-slow", Count: 1}, {Kind: "retry", Reason: "budget-denied", Count: 150}},
			},
			{Service: name, Ends: []*regov1.EndCount{{Code: regov1.Code_INTERNAL, Reason: name, Calls: 10}}, Retries: 20, Denials: []*regov1.DenialCount{{Kind: name, Reason: name, Count: 3}}},
		},
	}
}

func TestTop(t *testing.T) {
	t.Parallel()
	s := &stub{traffic: func(int) (*regov1.ListTrafficResponse, error) { return busy("pay"), nil }}
	c := s.serve(t)
	golden(t, "top.txt", c.ok(t, "", "top", "--once"))
	golden(t, "top.json", c.ok(t, "", "top", "--once", "--output", "json"))

	first := func(args ...string) string {
		return strings.Join(strings.Fields(strings.Split(c.ok(t, "", append([]string{"top", "--once", "-n", "1"}, args...)...), "\n")[2])[:2], " ")
	}
	assert.Equal(t, "shop /shop.v1.Search/Suggest", first())
	assert.Equal(t, "shop /shop.v1.Search/Suggest", first("--sort", "extra"))
	assert.Equal(t, "shop /shop.v1.Search/Suggest", first("--sort", "failed"))
	assert.Equal(t, "shop /shop.v1.Basket/Get", first("--sort", "calls"))
	assert.Equal(t, "pay (others)", first("--sort", "amplification"))
	assert.Contains(t, c.ok(t, "", "top", "--once", "-n", "1"), "and 4 methods more", "two of them are left out by the server")
}

// TestTopGoesOn: it prints again and again, also when the server is away for a while.
func TestTopGoesOn(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s := &stub{traffic: func(n int) (*regov1.ListTrafficResponse, error) {
		switch n {
		case 1, 2:
			return nil, status.Error(codes.Unavailable, "away")
		case 4:
			stop()
		}
		return busy("pay"), nil
	}}
	c := s.serve(t)
	var out, errs bytes.Buffer
	code := runIn(ctx, []string{"top", "--every", "10ms", "--server", c.addr}, strings.NewReader(""), &out, &errs)
	assert.Equal(t, exitOK, code)
	assert.Equal(t, "rego: server "+c.addr+" does not answer: away: it is asked again, for a minute at most\n", errs.String())
	frames := strings.Split(out.String(), "\n\n")
	require.GreaterOrEqual(t, len(frames), 2)
	assert.Equal(t, strings.TrimSuffix(frames[1], "\n"), frames[0])
}

func TestTopOfNothing(t *testing.T) {
	t.Parallel()
	c := control(t)
	got := c.ok(t, "", "top", "--once")
	assert.Contains(t, got, "no client has reported a call within ")
	assert.Contains(t, got, "controlplane.WithReports")
	assert.NotContains(t, got, "SERVICE")
	var m map[string]any
	require.NoError(t, json.Unmarshal([]byte(c.ok(t, "", "top", "--once", "--output", "json")), &m))
	assert.Equal(t, []any{}, m["methods"])
	for _, r := range []struct{ args, want string }{
		{"top --output json", "--output json goes with --once"},
		{"top --sort size", "must be one of extra, calls, amplification, failed"},
		{"top -n 0", "--number must be at least 1"},
		{"top --every 1ms", "--every must be at least 10ms"},
	} {
		code, _, errs := c.call("", strings.Fields(r.args)...)
		assert.Equal(t, exitUsage, code, r.args)
		assert.Contains(t, errs, r.want, r.args)
	}
}
