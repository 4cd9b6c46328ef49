package main

import (
	"strings"
	"time"

	_ "google.golang.org/grpc/balancer/leastrequest" // registers it
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor/spread"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/policy"
)

const (
	ms = time.Millisecond

	callsPerSecond = 500
)

// A balancing is how a channel chooses among replicas.
type balancing struct {
	name, serviceConfig string
	spreads             bool
}

// plain is a policy of grpc by itself.
func plain(name string) string { return `{"loadBalancingConfig":[{"` + name + `":{}}]}` }

var balancings = []balancing{
	{"pick_first", plain("pick_first"), false},
	{"round_robin", plain("round_robin"), false},
	{"least request", plain("least_request_experimental"), false},
	{"rego_spread, round_robin", spread.ServiceConfig("round_robin"), true},
	{"rego_spread, least request", spread.ServiceConfig("least_request_experimental"), true},
	{"rego_round_robin", spread.ServiceConfig(spread.RoundRobin), true},
}

// healthy is what an attempt takes at a replica that is well.
var healthy = testsrv.Delay(5 * ms)

// A scenario is how the bad replica is bad.
type scenario struct {
	name, about string
	bad         testsrv.Step
	policy      policy.Policy
	targets     []target // of balancings that spread
}

// A target is what a run should reach.
type target struct {
	text string
	met  func(balancing, result) bool
}

func (sc scenario) verdicts(b balancing, r result) string {
	if !b.spreads {
		return ""
	}
	var texts []string
	for _, t := range sc.targets {
		verdict := "ok"
		if !t.met(b, r) {
			verdict = "MISSED"
		}
		texts = append(texts, t.text+": "+verdict)
	}
	return strings.Join(texts, ", ")
}

// leastRequestMisses is the share of calls that may fail with rego_spread over least request.
// That is random, and one in 60 times it picks nothing but the replica that fails.
const leastRequestMisses = 0.013

var scenarios = []scenario{
	{
		"slow", "one of three replicas takes 1 s, and a hedge is sent after 10 ms", testsrv.Delay(time.Second),
		policy.Policy{Retry: policy.Retry{MaxAttempts: 2}, Hedge: policy.Hedge{Delay: 10 * ms}},
		[]target{
			{"none above 200 ms", func(_ balancing, r result) bool { return r.slow() == 0 }},
			{"none fails", func(_ balancing, r result) bool { return r.failed == 0 }},
		},
	},
	{
		"fails", "one of three replicas answers UNAVAILABLE at once, and a retry is sent after 10 ms",
		testsrv.Fail(codes.Unavailable, "replica is ill"),
		policy.Policy{Retry: policy.Retry{MaxAttempts: 2, Backoff: policy.Backoff{Initial: 10 * ms, Jitter: policy.JitterNone}}},
		[]target{{"none fails, ≤ 1.3 % with least request", func(b balancing, r result) bool {
			return r.failed == 0 || strings.Contains(b.name, "least request") && r.failed <= leastRequestMisses
		}}},
	},
}
