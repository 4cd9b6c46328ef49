package policy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/internal/testpolicy"
	"github.com/rego-go/rego/policy"
)

// TestServiceConfig is one set of which all can be said, and one of which little can.
func TestServiceConfig(t *testing.T) {
	t.Parallel()
	const want = `{
  "methodConfig": [
    {
      "name": [
        {
          "service": "a.B",
          "method": "C"
        },
        {
          "service": "a.D"
        }
      ],
      "timeout": "1.5s",
      "waitForReady": true,
      "retryPolicy": {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "60s",
        "backoffMultiplier": 1.5,
        "retryableStatusCodes": [
          "UNAVAILABLE",
          "CANCELLED"
        ]
      }
    },
    {
      "name": [
        {
          "service": "a.B"
        }
      ],
      "hedgingPolicy": {
        "maxAttempts": 3,
        "hedgingDelay": "0s"
      }
    },
    {
      "name": [
        {}
      ],
      "timeout": "3600s"
    }
  ],
  "retryThrottling": {
    "maxTokens": 10,
    "tokenRatio": 0.1
  }
}`
	throttle := &budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 0.1}
	backoff := policy.Backoff{Initial: 100 * time.Millisecond, Multiplier: 1.5, Max: time.Minute, Jitter: policy.JitterProportional}
	s := policy.Set{
		Budgets: []policy.NamedBudget{{Name: policy.RetryThrottling, Throttle: throttle}},
		Rules: []policy.Rule{
			{
				Methods: []string{"/a.B/C", "/a.D/*"},
				Policy: policy.Policy{
					Timeout: 1500 * time.Millisecond, WaitForReady: true, Budget: policy.RetryThrottling, AsGRPC: true,
					Retry: policy.Retry{MaxAttempts: 4, Backoff: backoff, Codes: []codes.Code{codes.Unavailable, codes.Canceled}},
				},
			},
			{
				Methods: []string{"/a.B/*"},
				Policy: policy.Policy{
					Idempotency: classify.Idempotent, Budget: policy.RetryThrottling, Classifier: policy.ClassifierNone,
					Hedge: policy.Hedge{Delay: policy.NoWait}, Retry: policy.Retry{Off: true}, AsGRPC: true,
				},
			},
			{Methods: []string{"*"}, Policy: policy.Policy{Timeout: time.Hour, Budget: policy.RetryThrottling, Retry: policy.Retry{MaxAttempts: 1}}},
		},
	}
	data, missing, err := s.ServiceConfig()
	require.NoError(t, err)
	assert.Empty(t, missing)
	assert.Equal(t, strings.Split(want, "\n"), strings.Split(string(data), "\n"))

	data, missing, err = policy.Set{Version: "7", Epoch: 1, Revision: 7}.ServiceConfig()
	require.NoError(t, err)
	assert.Equal(t, `{}`, string(data))
	assert.Equal(t, []string{
		`version: a service config has none`, `epoch: a service config has none`, `revision: a service config has none`,
		`rules: none is for every method: rego makes up to 3 attempts of a method without a rule, and gRPC one`,
	}, texts(missing))

	_, _, err = policy.Set{Rules: []policy.Rule{{}}}.ServiceConfig()
	require.EqualError(t, err, `rules[0].methods: must name at least one method`)
}

// TestServiceConfigMissing has what is missing of a policy, and what there is of its
// attempts after the first.
func TestServiceConfigMissing(t *testing.T) {
	t.Parallel()
	const (
		none    = `a service config has none`
		fixed   = `a service config has none but a fixed hedgingDelay`
		all     = `a service config has none but a retryThrottling of all methods`
		both    = `a service config has retries or hedging`
		unsafe  = `a service config would hedge methods that are not idempotent, too`
		always  = `is what a service config always means`
		noCodes = `lists none: classify.GRPC, which decides, is more than a list of codes`

		retries = `"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.05s","maxBackoff":"5s","backoffMultiplier":2,"retryableStatusCodes":["ABORTED"]}`
		hedging = `"hedgingPolicy":{"maxAttempts":3,"hedgingDelay":"1s","nonFatalStatusCodes":["ABORTED"]}`
	)
	p := func(change func(p *policy.Policy)) policy.Policy {
		p := policy.Policy{AsGRPC: true, Retry: policy.Retry{Codes: []codes.Code{codes.Aborted}, Backoff: policy.Backoff{Jitter: policy.JitterProportional}}}
		change(&p)
		return p
	}
	hedged := func(change func(p *policy.Policy)) policy.Policy {
		return p(func(p *policy.Policy) {
			p.Retry.Off, p.Idempotency, p.Hedge.Delay = true, classify.Idempotent, time.Second
			change(p)
		})
	}
	for _, r := range []struct {
		policy  policy.Policy
		missing []string // below rules[0].policy
		want    string   // the policies in the methodConfig
	}{
		{policy.Policy{}, []string{`retry.codes: ` + noCodes}, ``}, // the default
		{policy.Policy{Retry: policy.Retry{MaxAttempts: 1}}, nil, ``},
		{policy.Policy{Retry: policy.Retry{Off: true}}, nil, ``},
		{p(func(*policy.Policy) {}), nil, retries},
		{p(func(p *policy.Policy) { p.Name = "users" }), []string{`name: ` + none}, retries},
		{p(func(p *policy.Policy) { p.Name = "methodConfig[12]" }), nil, retries},
		{p(func(p *policy.Policy) { p.Name = policy.NoRetries }), nil, retries},
		{p(func(p *policy.Policy) { p.Name = "methodConfig[x]" }), []string{`name: ` + none}, retries},
		{p(func(p *policy.Policy) { p.AttemptTimeout = 1 }), []string{`attempt_timeout: ` + none}, retries},
		{p(func(p *policy.Policy) { p.Idempotency = classify.NotIdempotent }), []string{`idempotency: ` + none}, retries},
		{p(func(p *policy.Policy) { p.Idempotency = classify.Idempotent }), []string{`idempotency: ` + none}, retries},
		{p(func(p *policy.Policy) { p.AsGRPC = false }), []string{`as_grpc: ` + always}, retries},
		{p(func(p *policy.Policy) { p.Budget = "code's" }), []string{`budget: ` + all}, retries},
		{p(func(p *policy.Policy) { p.Retry.Codes = nil }), []string{`retry.codes: ` + noCodes}, ``},
		{p(func(p *policy.Policy) { p.Retry.Codes, p.Classifier = nil, "mine" }), []string{`classifier: ` + none}, ``},
		{p(func(p *policy.Policy) { p.Retry.Codes, p.Classifier = nil, policy.ClassifierNone }), nil, ``}, // every failure is final
		{p(func(p *policy.Policy) { p.Retry.MaxAttempts = 6 }), []string{`retry.max_attempts: gRPC makes at most 5, got 6`}, strings.Replace(retries, `:3`, `:5`, 1)},
		{p(func(p *policy.Policy) { p.Retry.Backoff.Jitter = policy.JitterFull }), []string{`retry.backoff.jitter: a service config has none but the proportional, got full`},
			retries},
		{
			p(func(p *policy.Policy) { p.Retry.Backoff.Initial = policy.NoWait }),
			[]string{`retry.backoff.initial: a service config has no retries without a wait`},
			strings.NewReplacer(`"0.05s"`, `"0.000000001s"`, `"5s"`, `"0.000000001s"`, `:2`, `:1`).Replace(retries),
		},
		{p(func(p *policy.Policy) { p.Retry.MaxAttempts = 1 }), nil, ``},
		{p(func(p *policy.Policy) { p.Retry.Off = true }), nil, ``},

		{hedged(func(*policy.Policy) {}), nil, hedging},
		{hedged(func(p *policy.Policy) { p.Retry.Codes, p.Classifier = nil, policy.ClassifierNone }), nil,
			strings.Replace(hedging, `,"nonFatalStatusCodes":["ABORTED"]`, ``, 1)},
		// nothing is retried either
		{hedged(func(p *policy.Policy) { p.Retry = policy.Retry{}; p.Classifier = policy.ClassifierNone }), nil,
			strings.Replace(hedging, `,"nonFatalStatusCodes":["ABORTED"]`, ``, 1)},
		{hedged(func(p *policy.Policy) { p.Retry.Codes = nil }), []string{`retry.codes: ` + noCodes, `idempotency: ` + none}, ``},
		{hedged(func(p *policy.Policy) { p.Retry.Codes, p.Classifier = nil, "mine" }), []string{`idempotency: ` + none, `classifier: ` + none}, ``},
		{hedged(func(p *policy.Policy) { p.AsGRPC = false }), []string{`as_grpc: ` + always}, hedging},
		{hedged(func(p *policy.Policy) { p.Retry.MaxAttempts = 100 }), []string{`retry.max_attempts: gRPC makes at most 5, got 100`},
			strings.Replace(hedging, `:3`, `:5`, 1)},
		{hedged(func(p *policy.Policy) { p.Retry.MaxAttempts = 1 }), []string{`idempotency: ` + none}, ``},
		{hedged(func(p *policy.Policy) { p.Hedge.Off = true }), []string{`idempotency: ` + none}, ``},
		{hedged(func(p *policy.Policy) { p.Hedge.MinDelay, p.Hedge.MaxDelay = 1, 2 }), []string{`hedge.min_delay: ` + none, `hedge.max_delay: ` + none}, hedging},
		{hedged(func(p *policy.Policy) { p.Hedge = policy.Hedge{MaxExtraLoad: 0.02} }), []string{`hedge.max_extra_load: ` + fixed, `idempotency: ` + none}, ``},
		{hedged(func(p *policy.Policy) { p.Hedge = policy.Hedge{Percentile: 0.9} }), []string{`hedge.percentile: ` + fixed, `idempotency: ` + none}, ``},
		{hedged(func(p *policy.Policy) { p.Hedge = policy.Hedge{Trigger: "mine", MaxExtraLoad: 0.02} }), []string{`hedge.trigger: ` + fixed, `idempotency: ` + none},
			``},
		{hedged(func(p *policy.Policy) { p.Idempotency = classify.NoSideEffects }), []string{`idempotency: ` + none}, hedging},
		{hedged(func(p *policy.Policy) { p.Idempotency = classify.IdempotencyUnknown }), []string{`hedge: ` + unsafe}, ``},
		{hedged(func(p *policy.Policy) { p.Idempotency = classify.NotIdempotent }), []string{`hedge: ` + unsafe, `idempotency: ` + none}, ``},
		{hedged(func(p *policy.Policy) { p.Retry.Off = false }), []string{`hedge: ` + both, `idempotency: ` + none}, retries},
		{policy.Policy{Hedge: policy.Hedge{MaxExtraLoad: 0.02}}, []string{`retry.codes: ` + noCodes, `hedge: ` + both}, ``},
	} {
		data, missing, err := rules(policy.Rule{Methods: []string{"/a.B/C"}, Policy: r.policy}, rule("no retries", "*")).ServiceConfig()
		require.NoError(t, err, "%+v", r.policy)
		var got []string
		for _, m := range missing {
			if path, below := strings.CutPrefix(m.Path, "rules[0].policy."); below {
				assert.Equal(t, r.policy.Name, m.Policy)
				got = append(got, path+": "+m.Text)
			}
		}
		assert.Equal(t, r.missing, got, "%+v", r.policy)
		config := strings.NewReplacer(" ", "", "\n", "").Replace(string(data))
		want := `{"methodConfig":[{"name":[{"service":"a.B","method":"C"}],` + r.want
		assert.Equal(t, strings.TrimSuffix(want, ",")+`}]}`, config, "%+v", r.policy)
	}
}

// TestServiceConfigSwitches: what is off can be said, by leaving it out.
func TestServiceConfigSwitches(t *testing.T) {
	t.Parallel()
	listed := policy.Retry{Codes: []codes.Code{codes.Aborted}, Backoff: policy.Backoff{Jitter: policy.JitterProportional}}
	hedged := policy.Policy{Idempotency: classify.Idempotent, Retry: listed, Hedge: policy.Hedge{Delay: 1}, AsGRPC: true}
	hedged.Retry.Off = true
	s := rules(policy.Rule{Methods: []string{"/a.B/C"}, Policy: policy.Policy{Retry: listed, AsGRPC: true}}, policy.Rule{Methods: []string{"/a.B/D"}, Policy: hedged})
	uncovered := `rules: none is for every method: rego makes up to 3 attempts of a method without a rule, and gRPC one`
	for _, r := range []struct {
		retriesOff, hedgesOff bool
		missing               []string
		retries, hedging      bool
	}{
		{false, false, []string{uncovered}, true, true},
		{true, false, []string{}, false, true},
		{false, true, []string{`rules[1].policy.idempotency: a service config has none`, uncovered}, true, false},
		{true, true, []string{`rules[1].policy.idempotency: a service config has none`}, false, false},
	} {
		s.RetriesOff, s.HedgesOff = r.retriesOff, r.hedgesOff
		data, missing, err := s.ServiceConfig()
		require.NoError(t, err)
		assert.Equal(t, r.missing, texts(missing), "%+v", r)
		assert.Equal(t, r.retries, strings.Contains(string(data), "retryPolicy"), "%+v", r)
		assert.Equal(t, r.hedging, strings.Contains(string(data), "hedgingPolicy"), "%+v", r)
		for _, m := range []string{"C", "D"} { // or they would get what others do
			assert.Contains(t, string(data), `"method": "`+m+`"`, "%+v", r)
		}
	}
}

// TestServiceConfigBudgets: a service config has one for all methods, or none.
func TestServiceConfigBudgets(t *testing.T) {
	t.Parallel()
	const all = `: a service config has none but a retryThrottling of all methods`
	throttle := func(name string) policy.NamedBudget {
		return policy.NamedBudget{Name: name, Throttle: &budget.ThrottleConfig{MaxTokens: 3, TokenRatio: 0.5}}
	}
	ratio := policy.NamedBudget{Name: "ratio", Ratio: &budget.RatioConfig{Ratio: 0.1}}
	for _, r := range []struct {
		budgets []policy.NamedBudget
		named   [2]string // by a rule for a.B, and by one for every method
		missing []string
		written bool
	}{
		{nil, [2]string{}, []string{}, false},
		{[]policy.NamedBudget{throttle("retryThrottling")}, [2]string{"retryThrottling", "retryThrottling"}, []string{}, true},
		{[]policy.NamedBudget{throttle("mine")}, [2]string{"mine", "mine"}, []string{`budgets[0].name: a service config has none`}, true},
		{[]policy.NamedBudget{throttle("mine")}, [2]string{"mine", ""}, []string{`rules[0].policy.budget` + all, `budgets[0]` + all}, false},
		{[]policy.NamedBudget{throttle("mine")}, [2]string{"", "mine"}, []string{`rules[1].policy.budget` + all, `budgets[0]` + all}, false},
		{[]policy.NamedBudget{throttle("mine")}, [2]string{}, []string{`budgets[0]` + all}, false},
		{[]policy.NamedBudget{throttle("a"), throttle("b")}, [2]string{"a", "b"}, []string{`rules[0].policy.budget` + all, `rules[1].policy.budget` + all, `budgets[0]` + all, `budgets[1]` + all},
			false},
		{[]policy.NamedBudget{ratio, throttle("retryThrottling")}, [2]string{"retryThrottling", "retryThrottling"}, []string{`budgets[0]` + all}, true},
		{[]policy.NamedBudget{ratio}, [2]string{"ratio", "ratio"}, []string{`rules[0].policy.budget` + all, `rules[1].policy.budget` + all, `budgets[0]` + all},
			false},
		{nil, [2]string{"code's", "code's"}, []string{`rules[0].policy.budget` + all, `rules[1].policy.budget` + all}, false},
	} {
		s := policy.Set{Budgets: r.budgets}
		for i, methods := range []string{"/a.B/*", "*"} {
			s.Rules = append(s.Rules, policy.Rule{Methods: []string{methods}, Policy: policy.Policy{Budget: r.named[i], Retry: policy.Retry{Off: true}}})
		}
		data, missing, err := s.ServiceConfig()
		require.NoError(t, err)
		assert.Equal(t, r.missing, texts(missing), "%+v", r)
		assert.Equal(t, r.written, strings.Contains(string(data), `"maxTokens": 3,`), "%+v", r)
	}
}

// TestServiceConfigOfAnySet: whatever the set, grpc-go and FromServiceConfig take the
// service config, and where it does not mean the same, that is among what is missing.
func TestServiceConfigOfAnySet(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 500 {
		s := testpolicy.Random(r)
		data, missing, err := s.ServiceConfig()
		require.NoError(t, err, "seed %d", seed)
		conn, err := dial(data)
		require.NoError(t, err, "seed %d: %s", seed, data)
		require.NoError(t, conn.Close())
		back, warnings, err := policy.FromServiceConfig(data)
		require.NoError(t, err, "seed %d: %s", seed, data)
		require.Empty(t, warnings, "seed %d: %s", seed, data)
		_, again, err := back.ServiceConfig()
		require.NoError(t, err)
		require.Empty(t, again, "seed %d: %s", seed, data)

		was, is := compile(t, s), compile(t, back)
		for i, rule := range s.Rules {
			told := map[string]bool{}
			for _, m := range missing {
				if path, below := strings.CutPrefix(m.Path, fmt.Sprintf("rules[%d].policy.", i)); below {
					told[path] = true
				}
			}
			for _, m := range rule.Methods {
				for _, lost := range lost(s, was.Lookup(m), back, is.Lookup(m)) {
					require.True(t, slices.ContainsFunc(lost, func(path string) bool { return told[path] }), "seed %d: none of %q is told for %+v: %s", seed, lost, rule, data)
				}
			}
		}
	}
}

// lost returns how is differs from was in effect, as paths of which one has to be told.
func lost(s policy.Set, was *policy.Policy, back policy.Set, is *policy.Policy) (lost [][]string) {
	differs := func(differ bool, paths ...string) bool {
		if differ {
			lost = append(lost, paths)
		}
		return differ
	}
	retries := func(s policy.Set, p *policy.Policy) bool {
		return !s.RetriesOff && !p.Retry.Off && p.Retry.MaxAttempts > 1 && p.Classifier != policy.ClassifierNone
	}
	hedges := func(s policy.Set, p *policy.Policy) bool {
		return !s.HedgesOff && !p.Hedge.Off && p.Retry.MaxAttempts > 1 && p.Hedge.Asked()
	}
	differs(was.Timeout != is.Timeout)
	differs(was.WaitForReady != is.WaitForReady)
	differs(was.AttemptTimeout != is.AttemptTimeout, "attempt_timeout")
	differs(was.Idempotency != is.Idempotency, "idempotency", "hedge") // it is declared for the sake of hedging
	differs(was.Budget != is.Budget, "budget")
	differs(was.Classifier != is.Classifier && was.Classifier != policy.ClassifierNone && is.Classifier != policy.ClassifierNone, "classifier")
	if !differs(retries(s, was) != retries(back, is), "retry.codes", "classifier") && retries(s, was) {
		a, b := was.Retry, is.Retry
		differs(a.MaxAttempts != b.MaxAttempts, "retry.max_attempts")
		differs(!slices.Equal(a.Codes, b.Codes), "retry.codes")
		differs(a.Backoff.Initial != b.Backoff.Initial, "retry.backoff.initial")
		differs(a.Backoff.Jitter != b.Backoff.Jitter, "retry.backoff.jitter", "retry.backoff.initial")
		differs(a.Backoff.Multiplier != b.Backoff.Multiplier, "retry.backoff.initial")
		differs(a.Backoff.Max != b.Backoff.Max, "retry.backoff.initial")
		differs(a.Reconnect != b.Reconnect, "retry.reconnect", "as_grpc") // whose default it is
		differs(a.StopChain != b.StopChain, "retry.stop_chain")
		differs(was.AsGRPC != is.AsGRPC, "as_grpc")
	}
	if !differs(hedges(s, was) != hedges(back, is), "hedge", "hedge.max_extra_load", "hedge.percentile", "hedge.trigger", "retry.codes", "classifier") && hedges(s, was) {
		differs(was.Retry.MaxAttempts != is.Retry.MaxAttempts, "retry.max_attempts")
		differs(!slices.Equal(was.Retry.Codes, is.Retry.Codes), "retry.codes")
		differs(was.Retry.StopChain != is.Retry.StopChain, "retry.stop_chain")
		differs(was.AsGRPC != is.AsGRPC, "as_grpc")
		differs(was.Hedge.Delay != is.Hedge.Delay)
		differs(was.Hedge.MinDelay != is.Hedge.MinDelay, "hedge.min_delay")
		differs(was.Hedge.MaxDelay != is.Hedge.MaxDelay, "hedge.max_delay")
	}
	return lost
}
