package policy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// ServiceConfig returns s as a gRPC service config in JSON. missing says what of s the
// config cannot express, each with its path as in the faults of [Set.Compile]. For a set
// from [FromServiceConfig] nothing is missing, and the config has the same meaning as the
// one that the set was made from.
//
// If a service config can express a part, the part is written: maxAttempts is 5 at most, and
// the backoff has A6's jitter. There is no retryPolicy if codes are not listed, because
// classify.GRPC is more than a list. There is no hedgingPolicy if the policy also retries,
// if the delay is not a fixed one, or if the policy does not declare its methods idempotent,
// because gRPC would hedge all methods.
//
// What is off, or has no effect because there is one attempt, is left out and does not count
// as missing: without either policy gRPC makes one attempt.
//
// The error is the error of Compile.
func (s Set) ServiceConfig() (data []byte, missing []Fault, err error) {
	t, err := s.Compile()
	if err != nil {
		return nil, nil, err
	}
	ex := &exporter{set: s, faults: &faults{list: new(Faults)}}
	if s.Version != "" {
		ex.add("version", none)
	}
	if s.Epoch != 0 {
		ex.add("epoch", none)
	}
	if s.Revision != 0 {
		ex.add("revision", none)
	}
	var c serviceConfig
	throttling := s.throttling(t)
	if b := throttling.Throttle; b != nil {
		c.RetryThrottling = &retryThrottling{b.MaxTokens, b.TokenRatio}
	}
	for i, r := range s.Rules {
		in := ex.below(fmt.Sprintf("rules[%d].policy.", i))
		in.policy = r.Policy.Name
		if r.Policy.Budget != throttling.Name {
			in.add("budget", noOtherBudget)
		}
		if m := ex.methodConfig(r, in); len(m.Name) > 0 {
			c.MethodConfig = append(c.MethodConfig, m)
		}
	}
	for i, b := range s.Budgets {
		switch at := fmt.Sprintf("budgets[%d]", i); {
		case b.Name != throttling.Name:
			ex.add(at, noOtherBudget)
		case b.Name != RetryThrottling:
			ex.add(at+".name", none)
		}
	}
	if t.fallback == nil && !s.RetriesOff {
		ex.add("rules", "none is for every method: rego makes up to %d attempts of a method without a rule, and gRPC one", DefaultMaxAttempts)
	}
	data, err = json.MarshalIndent(c, "", "  ")
	return data, *ex.list, err
}

// serviceConfig is what of grpc's service_config.proto a set can say.
type serviceConfig struct {
	MethodConfig    []methodConfig   `json:"methodConfig,omitempty"`
	RetryThrottling *retryThrottling `json:"retryThrottling,omitempty"`
}

type methodConfig struct {
	Name          []methodName   `json:"name"`
	Timeout       jsonDuration   `json:"timeout,omitempty"`
	WaitForReady  bool           `json:"waitForReady,omitempty"`
	RetryPolicy   *retryPolicy   `json:"retryPolicy,omitempty"`
	HedgingPolicy *hedgingPolicy `json:"hedgingPolicy,omitempty"`
}

type methodName struct {
	Service string `json:"service,omitempty"`
	Method  string `json:"method,omitempty"`
}

type retryPolicy struct {
	MaxAttempts          int          `json:"maxAttempts"`
	InitialBackoff       jsonDuration `json:"initialBackoff"`
	MaxBackoff           jsonDuration `json:"maxBackoff"`
	BackoffMultiplier    float64      `json:"backoffMultiplier"`
	RetryableStatusCodes []jsonCode   `json:"retryableStatusCodes"`
}

type hedgingPolicy struct {
	MaxAttempts         int          `json:"maxAttempts"`
	HedgingDelay        jsonDuration `json:"hedgingDelay"`
	NonFatalStatusCodes []jsonCode   `json:"nonFatalStatusCodes,omitempty"`
}

type retryThrottling struct {
	MaxTokens  float64 `json:"maxTokens"`
	TokenRatio float64 `json:"tokenRatio"`
}

// jsonDuration is seconds with up to nine decimals, as in the JSON of protobuf.
type jsonDuration time.Duration

func (d jsonDuration) MarshalText() ([]byte, error) {
	s := fmt.Sprintf("%d.%09d", time.Duration(d)/time.Second, time.Duration(d)%time.Second)
	return []byte(strings.TrimRight(strings.TrimRight(s, "0"), ".") + "s"), nil
}

type jsonCode codes.Code

func (c jsonCode) MarshalText() ([]byte, error) { return []byte(regov1.Code(c).String()), nil }

const (
	none          = "a service config has none"
	noOtherBudget = "a service config has none but a retryThrottling of all methods"
)

type exporter struct {
	*faults
	set Set
}

// throttling returns the budget that every rule names if it is a Throttle.
func (s Set) throttling(t *Table) NamedBudget {
	if len(s.Rules) == 0 {
		return NamedBudget{}
	}
	name := s.Rules[0].Policy.Budget
	for _, r := range s.Rules {
		if r.Policy.Budget != name {
			return NamedBudget{}
		}
	}
	if b, _ := t.Budget(name); b.Throttle != nil {
		return b
	}
	return NamedBudget{}
}

func (ex *exporter) methodConfig(r Rule, f *faults) methodConfig {
	p := r.Policy
	m := methodConfig{Timeout: jsonDuration(p.Timeout), WaitForReady: p.WaitForReady}
	ex.attempts(p, &m, f)
	if !p.AsGRPC && (m.RetryPolicy != nil || m.HedgingPolicy != nil) {
		f.add("as_grpc", "is what a service config always means")
	}
	if p.Name != "" && !importedName.MatchString(p.Name) {
		f.add("name", none)
	}
	if i := p.Idempotency; i != classify.IdempotencyUnknown && (m.HedgingPolicy == nil || i != classify.Idempotent) {
		f.add("idempotency", none)
	}
	if p.AttemptTimeout != 0 {
		f.add("attempt_timeout", none)
	}
	if p.Classifier != "" && p.Classifier != ClassifierNone {
		f.add("classifier", none)
	}
	says := m.Timeout != 0 || m.WaitForReady || m.RetryPolicy != nil || m.HedgingPolicy != nil
	for _, selector := range r.Methods {
		if selector == "*" {
			if says {
				m.Name = append(m.Name, methodName{})
			}
			continue
		}
		service, method, _ := split(selector)
		m.Name = append(m.Name, methodName{strings.Trim(service, "/"), strings.TrimPrefix(method, "*")})
	}
	return m
}

// importedName matches the names that FromServiceConfig gives to policies.
var importedName = regexp.MustCompile(`^(methodConfig\[\d+\]|` + NoRetries + `)$`)

// attempts gives m what p says of attempts after the first.
func (ex *exporter) attempts(p Policy, m *methodConfig, f *faults) {
	r := p.withDefaults().Retry
	several := r.MaxAttempts > 1
	retries := several && !r.Off && !ex.set.RetriesOff && p.Classifier != ClassifierNone
	hedges := several && p.Hedge.Asked() && !p.Hedge.Off && !ex.set.HedgesOff
	if several && p.Retry.Reconnect > 0 {
		f.add("retry.reconnect", none)
	}
	if several && r.StopChain {
		f.add("retry.stop_chain", none)
	}
	if (retries || hedges) && p.Classifier == "" && len(r.Codes) == 0 {
		f.add("retry.codes", "lists none: classify.GRPC, which decides, is more than a list of codes")
	}
	if retries && len(r.Codes) > 0 {
		m.RetryPolicy = retryPolicyOf(r, f.in("retry"))
	}
	switch hedge := f.in("hedge"); {
	case !hedges:
	case retries:
		hedge.add("", "a service config has retries or hedging")
	case !p.Idempotency.AllowsRetry():
		hedge.add("", "a service config would hedge methods that are not idempotent, too")
	case p.Hedge.Trigger != "":
		hedge.add("trigger", "a service config has none but a fixed hedgingDelay")
	case p.Hedge.MaxExtraLoad > 0:
		hedge.add("max_extra_load", "a service config has none but a fixed hedgingDelay")
	case p.Hedge.Percentile > 0:
		hedge.add("percentile", "a service config has none but a fixed hedgingDelay")
	case len(r.Codes) > 0 || p.Classifier == ClassifierNone:
		m.HedgingPolicy = hedgingPolicyOf(p, f)
	}
}

func retryPolicyOf(r Retry, f *faults) *retryPolicy {
	b, in := r.Backoff, f.in("backoff")
	switch {
	case b.Initial == NoWait:
		in.add("initial", "a service config has no retries without a wait")
		b.Initial, b.Max, b.Multiplier = 1, 1, 1
	case b.Jitter != JitterProportional:
		in.add("jitter", "a service config has none but the proportional, got %v", b.Jitter)
	}
	return &retryPolicy{
		MaxAttempts:          attemptsOf(r, f),
		InitialBackoff:       jsonDuration(b.Initial),
		MaxBackoff:           jsonDuration(b.Max),
		BackoffMultiplier:    b.Multiplier,
		RetryableStatusCodes: jsonCodes(r.Codes),
	}
}

func hedgingPolicyOf(p Policy, f *faults) *hedgingPolicy {
	if p.Hedge.MinDelay != 0 {
		f.add("hedge.min_delay", none)
	}
	if p.Hedge.MaxDelay != 0 {
		f.add("hedge.max_delay", none)
	}
	return &hedgingPolicy{
		MaxAttempts:         attemptsOf(p.withDefaults().Retry, f.in("retry")),
		HedgingDelay:        jsonDuration(max(p.Hedge.Delay, 0)), // NoWait is below
		NonFatalStatusCodes: jsonCodes(p.Retry.Codes),
	}
}

func attemptsOf(r Retry, f *faults) int {
	if r.MaxAttempts > grpcMaxAttempts {
		f.add("max_attempts", "gRPC makes at most %d, got %d", grpcMaxAttempts, r.MaxAttempts)
	}
	return min(r.MaxAttempts, grpcMaxAttempts)
}

func jsonCodes(list []codes.Code) []jsonCode {
	var names []jsonCode
	for _, c := range list {
		names = append(names, jsonCode(c))
	}
	return names
}
