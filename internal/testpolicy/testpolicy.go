// Package testpolicy makes policies for tests.
package testpolicy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

// names are those of policies, with what formats may take for something else.
var names = []string{
	"", "a", "users", "ü ☃", "null", "~", "true", "no", "7", "1e3", "0x1", ".inf", "2026-01-02", "[a]", "{a}", "*a", "&a",
	"!a", "- a", "a: b", "a #b", "#", " a ", "'a'", `"a"`, `\\`, "a\nb\n", "\n a", "\t", "\r\n", "\x00\x7f", "\u0085\u2028", "\ufeffa", "😀",
}

// Random returns a set in which every field takes every kind of value that is valid:
// its zero, its bounds, something between.
func Random(r *rand.Rand) policy.Set {
	flip := func() bool { return r.IntN(2) == 0 }
	name := func() string { return names[r.IntN(len(names))] }
	span := func(least, most time.Duration) time.Duration {
		return []time.Duration{0, max(least, 1), least + time.Duration(r.Int64N(int64(most-least)+1)), most}[r.IntN(4)]
	}
	s := policy.Set{Version: name(), Epoch: r.Uint64N(policy.MaxEpoch+1) >> r.IntN(20), Revision: r.Uint64() >> r.IntN(65), RetriesOff: flip(), HedgesOff: flip()}
	for i := range r.IntN(5) {
		p := policy.Policy{
			Name: name(), Idempotency: classify.Idempotency(r.IntN(4)), WaitForReady: flip(),
			Timeout: span(0, policy.MaxDuration), Budget: name(), AsGRPC: flip(),
			Retry: policy.Retry{Off: flip(), StopChain: flip(), Reconnect: span(0, policy.MaxDuration), MaxAttempts: r.IntN(policy.MaxAttempts + 1), Backoff: policy.Backoff{
				Initial: span(0, policy.MaxDuration), Multiplier: []float64{0, 0.5, 1, math.Pi, policy.MaxMultiplier}[r.IntN(5)],
				Jitter: policy.Jitter(r.IntN(4)),
			}},
			Hedge: policy.Hedge{Off: flip(), MinDelay: span(0, time.Hour), MaxDelay: span(2*time.Hour, 3*time.Hour)},
		}
		if p.Timeout == 0 || flip() {
			p.AttemptTimeout = span(0, max(p.Timeout, 1))
		}
		if flip() {
			p.Retry.Backoff.Max = max(p.Retry.Backoff.Initial, span(0, policy.MaxDuration))
		}
		if r.IntN(8) == 0 {
			p.Retry.Backoff.Initial = policy.NoWait
		}
		if r.IntN(4) == 0 {
			p.Retry.Reconnect = policy.NoWait
		}
		switch r.IntN(6) {
		case 0:
			p.Hedge.MaxExtraLoad = r.Float64()
		case 3:
			p.Hedge.Trigger, p.Hedge.MaxExtraLoad = "mine", r.Float64()
		case 4:
			p.Hedge.Trigger = "mine"
		case 1:
			p.Hedge.Percentile = r.Float64()
		case 2:
			p.Hedge.Delay = []time.Duration{policy.NoWait, 1, time.Second, policy.MaxDuration}[r.IntN(4)]
		}
		if flip() {
			p.Classifier = []string{"", "mine", policy.ClassifierNone}[r.IntN(3)]
		} else {
			for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
				if flip() {
					p.Retry.Codes = append(p.Retry.Codes, c)
				}
			}
		}
		rule := policy.Rule{Methods: []string{fmt.Sprintf("/a.B/M%d", i)}, Policy: p}
		if flip() {
			rule.Methods = append(rule.Methods, fmt.Sprintf("/a.B%d/*", i))
		}
		s.Rules = append(s.Rules, rule)
	}
	for i := range r.IntN(4) {
		b := policy.NamedBudget{Name: fmt.Sprint("budget ", i)}
		switch r.IntN(4) {
		case 0:
			b.Ratio = &budget.RatioConfig{Ratio: r.Float64(), MinPerSecond: float64(r.IntN(3))}
		case 1:
			b.TokenBucket = &budget.TokenBucketConfig{PerSecond: 1 + r.Float64(), Burst: float64(r.IntN(9))}
		case 2:
			b.Throttle = &budget.ThrottleConfig{MaxTokens: float64(1 + r.IntN(1000)), TokenRatio: 0.001 + r.Float64()}
		case 3:
			b.Concurrency = &budget.ConcurrencyConfig{Share: r.Float64(), Min: r.IntN(10)}
		}
		s.Budgets = append(s.Budgets, b)
	}
	return s
}
