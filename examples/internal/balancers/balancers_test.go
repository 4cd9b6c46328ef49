// Package balancers_test has rego's load-balancing policies work together with those of grpc
// that need more modules than rego does: weighted round robin, and outlier detection, which
// comes with xDS.
package balancers_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/leastrequest"
	_ "google.golang.org/grpc/balancer/weightedroundrobin"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/orca"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	_ "google.golang.org/grpc/xds" // registers outlier detection

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	_ "github.com/rego-go/rego/interceptor/spread"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// newCluster returns three servers, of which the first fails, and a connection to all of
// them.
func newCluster(t *testing.T, balancing string, attempts int, opts ...grpc.ServerOption) (*testsrv.Server, testv1.TestServiceClient) {
	t.Helper()
	it, err := interceptor.New(
		interceptor.WithPolicy(policy.Policy{Retry: policy.Retry{MaxAttempts: attempts, Backoff: policy.Backoff{Initial: policy.NoWait}}}),
		interceptor.WithTargetBudget(func(string) budget.Budget { return nil }))
	require.NoError(t, err)
	var servers []*testsrv.Server
	var state resolver.State
	for range 3 {
		s := testsrv.Start(t, testsrv.TCP(""), testsrv.ServerOptions(opts...))
		servers = append(servers, s)
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: s.Addr()}}})
	}
	found := manual.NewBuilderWithScheme("cluster")
	found.InitialState(state)
	conn, err := grpc.NewClient("cluster:///servers", append(it.DialOptions(), grpc.WithResolvers(found),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[`+balancing+`]}`))...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	client := testv1.NewTestServiceClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, s := range servers {
		for s.Count(testsrv.Put) == 0 {
			_, err := client.Put(ctx, &testv1.PutRequest{}, grpc.WaitForReady(true))
			require.NoError(t, err)
		}
	}
	servers[0].Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "ill"))
	return servers[0], client
}

func get(t *testing.T, client testv1.TestServiceClient) (*interceptor.Timeline, error) {
	t.Helper()
	var tl interceptor.Timeline
	_, err := client.Get(t.Context(), &testv1.GetRequest{}, interceptor.WithTimeline(&tl))
	used := map[string]bool{}
	for _, a := range tl.Attempts {
		assert.Equal(t, a.NoOtherBackend, used[a.Backend], "%v", &tl)
		assert.NotNil(t, a.Peer, "%v", &tl)
		assert.Equal(t, a.Peer.String(), a.Backend, "%v", &tl)
		used[a.Backend] = true
	}
	return &tl, err
}

// TestWeightedRoundRobin, with loads that servers report.
func TestWeightedRoundRobin(t *testing.T) {
	t.Parallel()
	metrics := orca.NewServerMetricsRecorder()
	metrics.SetQPS(100)
	metrics.SetCPUUtilization(0.5)
	ill, client := newCluster(t, `{"rego_spread":{"childPolicy":[{"weighted_round_robin":{"blackoutPeriod":"0s","weightUpdatePeriod":"0.1s"}}]}}`, 3,
		orca.CallMetricsServerOption(metrics))
	for range 300 {
		tl, err := get(t, client)
		require.NoError(t, err, "%v", tl)
	}
	assert.Positive(t, ill.Count(testsrv.Get))
}

// ejecting is outlier detection that ejects a server of which most requests fail.
func ejecting(child string) string {
	return `{"outlier_detection_experimental":{"interval":"0.5s","baseEjectionTime":"300s","maxEjectionPercent":50,` +
		`"failurePercentageEjection":{"threshold":90,"enforcementPercentage":100,"minimumHosts":3,"requestVolume":30},"childPolicy":[` + child + `]}}`
}

// TestOutlierDetection: a server that fails is ejected, whichever policy stands above. Below
// rego_spread picks that are rejected count as what becomes of them, and that is no success.
func TestOutlierDetection(t *testing.T) {
	t.Parallel()
	for name, balancing := range map[string]string{
		"above rego_round_robin":     ejecting(`{"rego_round_robin":{}}`),
		"above spread least request": ejecting(`{"rego_spread":{"childPolicy":[{"least_request_experimental":{}}]}}`),
		"above spread round robin":   ejecting(`{"rego_spread":{"childPolicy":[{"round_robin":{}}]}}`),
		"below":                      `{"rego_spread":{"childPolicy":[` + ejecting(`{"least_request_experimental":{}}`) + `]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ill, client := newCluster(t, balancing, 4)
			end := time.Now().Add(time.Minute)
			for without := 0; without < 100; without++ { // calls in a row that do not meet it
				require.True(t, time.Now().Before(end), "it is not ejected")
				before := ill.Count(testsrv.Get)
				tl, err := get(t, client)
				require.NoError(t, err, "%v", tl)
				if ill.Count(testsrv.Get) > before {
					without = 0
				}
			}
		})
	}
}
