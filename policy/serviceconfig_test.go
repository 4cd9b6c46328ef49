package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

// entry returns a service config with one methodConfig for a.B/C, which has these fields.
func entry(fields string) string {
	return `{"methodConfig": [{"name": [{"service": "a.B", "method": "C"}]` + strings.TrimSuffix(", "+fields, ", ") + `}]}`
}

// named returns a service config with one methodConfig of these names.
func named(names string) string { return `{"methodConfig": [{"name": ` + names + `}]}` }

// retry returns a service config with a retryPolicy in which field stands for the one of
// that name.
func retry(field string) string {
	fields := []string{`"maxAttempts": 3`, `"initialBackoff": "0.1s"`, `"maxBackoff": "1s"`, `"backoffMultiplier": 2`, `"retryableStatusCodes": ["UNAVAILABLE"]`}
	key, _, _ := strings.Cut(field, ":")
	for i, f := range fields {
		if before, _, _ := strings.Cut(f, ":"); before == key {
			fields[i] = field
		}
	}
	return entry(`"retryPolicy": {` + strings.Join(fields, ", ") + `}`)
}

// without places, faults are easier to list.
func texts(fs []policy.Fault) []string {
	list := []string{}
	for _, f := range fs {
		f.Line = 0
		list = append(list, f.Error())
	}
	return list
}

// TestFromServiceConfig has the policy that each config gives to /a.B/C, where it differs
// from one attempt.
func TestFromServiceConfig(t *testing.T) {
	t.Parallel()
	once := policy.Policy{Name: "methodConfig[0]", Retry: policy.Retry{MaxAttempts: 1}}
	thrice := once
	thrice.AsGRPC = true
	thrice.Retry = policy.Retry{
		MaxAttempts: 3, Codes: []codes.Code{codes.Unavailable},
		Backoff: policy.Backoff{Initial: 100 * time.Millisecond, Multiplier: 2, Max: time.Second, Jitter: policy.JitterProportional},
	}
	hedged := policy.Policy{
		Name: "methodConfig[0]", Idempotency: classify.Idempotent, Classifier: policy.ClassifierNone,
		Retry: policy.Retry{Off: true, MaxAttempts: 3}, Hedge: policy.Hedge{Delay: policy.NoWait}, AsGRPC: true,
	}
	for _, r := range []struct {
		config string
		from   policy.Policy
		change func(p *policy.Policy)
	}{
		{entry(``), once, nil},
		{entry(`"timeout": "1.5s"`), once, func(p *policy.Policy) { p.Timeout = 1500 * time.Millisecond }},
		{entry(`"timeout": "86400s"`), once, func(p *policy.Policy) { p.Timeout = policy.MaxDuration }},
		{entry(`"timeout": null`), once, nil},
		{entry(`"TimeOut": ".000000001s"`), once, func(p *policy.Policy) { p.Timeout = 1 }},
		{entry(`"waitForReady": true`), once, func(p *policy.Policy) { p.WaitForReady = true }},
		{entry(`"waitForReady": false`), once, nil},

		{retry(``), thrice, nil},
		// as encoding/json has it
		{strings.ToUpper(`{"methodConfig": [{"name": [{}], "retryPolicy": `) + strings.SplitN(retry(``), `"retryPolicy": `, 2)[1], thrice,
			nil},
		{retry(`"maxAttempts": 2`), thrice, func(p *policy.Policy) { p.Retry.MaxAttempts = 2 }},
		{retry(`"maxAttempts": 5`), thrice, func(p *policy.Policy) { p.Retry.MaxAttempts = 5 }},
		{retry(`"maxBackoff": "0.1s"`), thrice, func(p *policy.Policy) { p.Retry.Backoff.Max = 100 * time.Millisecond }},
		{retry(`"initialBackoff": "2s"`), thrice, func(p *policy.Policy) { p.Retry.Backoff.Initial = time.Second }},       // more than maxBackoff
		{retry(`"maxBackoff": "99999999s"`), thrice, func(p *policy.Policy) { p.Retry.Backoff.Max = policy.MaxDuration }}, // which it does not come to
		{retry(`"backoffMultiplier": 0.5`), thrice, func(p *policy.Policy) { p.Retry.Backoff.Multiplier = 0.5 }},
		// 2 s and 1 s, cut
		{strings.Replace(retry(`"backoffMultiplier": 0.5`), `"0.1s"`, `"2s"`, 1), thrice,
			func(p *policy.Policy) { p.Retry.Backoff.Initial, p.Retry.Backoff.Multiplier = time.Second, 1 }},
		// all beyond maxBackoff
		{retry(`"backoffMultiplier": 1e9`), thrice,
			func(p *policy.Policy) { p.Retry.Backoff.Multiplier = 100 }},
		{retry(`"retryableStatusCodes": [10, "CANCELLED", "ABORTED", 1]`), thrice,
			func(p *policy.Policy) { p.Retry.Codes = []codes.Code{codes.Aborted, codes.Canceled} }},

		{entry(`"hedgingPolicy": {"maxAttempts": 3}`), hedged, nil},
		{entry(`"hedgingPolicy": {"maxAttempts": 3, "hedgingDelay": "0s", "nonFatalStatusCodes": []}`), hedged, nil},
		{entry(`"hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "0.25s"}`), hedged,
			func(p *policy.Policy) { p.Retry.MaxAttempts, p.Hedge.Delay = 2, 250*time.Millisecond }},
		{entry(`"hedgingPolicy": {"maxAttempts": 3, "nonFatalStatusCodes": ["INTERNAL"]}`), hedged,
			func(p *policy.Policy) { p.Classifier, p.Retry.Codes = "", []codes.Code{codes.Internal} }},
	} {
		s, warnings, err := policy.FromServiceConfig([]byte(r.config))
		require.NoError(t, err, r.config)
		assert.Empty(t, warnings, r.config)
		want := r.from
		if r.change != nil {
			r.change(&want)
		}
		assert.Equal(t, want, s.Rules[0].Policy, r.config)
		_, err = s.Compile()
		require.NoError(t, err, r.config)
	}
}

// TestServiceConfigRules has the names of the policies, by method.
func TestServiceConfigRules(t *testing.T) {
	t.Parallel()
	noRetries := policy.Rule{Methods: []string{"*"}, Policy: policy.Policy{Name: "no retries", Retry: policy.Retry{MaxAttempts: 1}}}
	for _, r := range []struct {
		config string
		want   string // selectors of each rule that is not for what the config leaves
	}{
		{`{}`, ``},
		{`null`, ``},
		{`{"methodConfig": []}`, ``},
		{named(`[{"service": "a.B"}]`), `methodConfig[0]: /a.B/*`},
		{named(`[{"service": "a.B", "method": ""}]`), `methodConfig[0]: /a.B/*`},
		{named(`[{"service": "a.B", "method": "C"}, {"service": "B", "method": "C"}]`), `methodConfig[0]: /a.B/C /B/C`},
		{`{"methodConfig": [{"name": [{"service": "a.B"}]}, {}, {"name": [{"service": "a.B", "method": "C"}]}]}`, `methodConfig[0]: /a.B/*; methodConfig[2]: /a.B/C`},
		{named(`[{}]`), `methodConfig[0]: *`},
		{named(`[null]`), `methodConfig[0]: *`},
		{named(`[{"service": "", "method": null}, {"service": "a.B"}]`), `methodConfig[0]: * /a.B/*`},
	} {
		s, _, err := policy.FromServiceConfig([]byte(r.config))
		require.NoError(t, err, r.config)
		if !strings.Contains(r.want, ": *") {
			assert.Equal(t, noRetries, s.Rules[len(s.Rules)-1], r.config)
			s.Rules = s.Rules[:len(s.Rules)-1]
		}
		var got []string
		for _, rule := range s.Rules {
			got = append(got, rule.Policy.Name+": "+strings.Join(rule.Methods, " "))
		}
		assert.Equal(t, r.want, strings.Join(got, "; "), r.config)
	}
}

func TestServiceConfigThrottling(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		throttling string
		want       budget.ThrottleConfig
	}{
		{`{"maxTokens": 10, "tokenRatio": 0.1}`, budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 0.1}},
		{`{"maxTokens": 1000, "tokenRatio": 0.001}`, budget.ThrottleConfig{MaxTokens: 1000, TokenRatio: 0.001}},
		{`{"maxTokens": 10, "tokenRatio": 1e6}`, budget.ThrottleConfig{MaxTokens: 10, TokenRatio: 1000}}, // a success fills it either way
	} {
		config := strings.TrimSuffix(entry(`"timeout": "1s"`), "}") + `, "retryThrottling": ` + r.throttling + `}`
		s, warnings, err := policy.FromServiceConfig([]byte(config))
		require.NoError(t, err, config)
		assert.Empty(t, warnings, config)
		assert.Equal(t, []policy.NamedBudget{{Name: "retryThrottling", Throttle: &r.want}}, s.Budgets, config)
		require.Len(t, s.Rules, 2)
		for _, rule := range s.Rules {
			assert.Equal(t, "retryThrottling", rule.Policy.Budget, "every call counts: %s", config)
		}
	}
}

// TestServiceConfigFaults has all faults of each config.
func TestServiceConfigFaults(t *testing.T) {
	t.Parallel()
	const (
		duration = `must be a duration such as "1.5s", got `
		code     = `must be the name or number of a status code, got `
		waits    = `has waits that no policy can have: they are at most 24h0m0s, backoffMultiplier at most 100, and if it is below 1 initialBackoff must not exceed maxBackoff`
		required = `is required (gRFC A6)`
	)
	in, hedging, throttling := `methodConfig[0].retryPolicy`, `methodConfig[0].hedgingPolicy`, `retryThrottling`
	for _, r := range []struct {
		config string
		want   []string
	}{
		{`[]`, []string{`must be an object, got an array`}},
		{`7`, []string{`must be an object, got 7`}},
		{`{"methodConfig": {}}`, []string{`methodConfig: must be an array, got an object`}},
		{`{"methodConfig": ["` + strings.Repeat("x", 99) + `"]}`, []string{`methodConfig[0]: must be an object, got "` + strings.Repeat("x", 63) + `…`}},
		{named(`{"service": "a.B"}`), []string{`methodConfig[0].name: must be an array, got an object`}},
		{named(`["a.B"]`), []string{`methodConfig[0].name[0]: must be an object, got "a.B"`}},
		{named(`[{"service": 1, "method": []}]`),
			[]string{`methodConfig[0].name[0].service: must be a string, got 1`, `methodConfig[0].name[0].method: must be a string, got an array`}},
		{named(`[{"method": "C"}]`), []string{`methodConfig[0].name[0]: must name the service of method "C"`}},
		{named(`[{"service": "a.B"}, {"service": "a.B", "method": ""}]`), []string{`methodConfig[0].name[1]: is the same as methodConfig[0].name[0]`}},
		{`{"methodConfig": [{"name": [{}]}, {"name": [{"service": "a.B", "method": "C"}]}, {"name": [{"service": "a.B", "method": "C"}, {}]}]}`, []string{
			`methodConfig[2].name[0]: is the same as methodConfig[1].name[0]`, `methodConfig[2].name[1]: is the same as methodConfig[0].name[0]`,
		}},
		{entry(`"waitForReady": "true"`), []string{`methodConfig[0].waitForReady: must be true or false, got "true"`}},
		{entry(`"timeout": "1s", "Timeout": "1s"`), []string{`methodConfig[0].timeout: is given twice`}},

		{entry(`"timeout": 5`), []string{`methodConfig[0].timeout: ` + duration + `5`}},
		{entry(`"timeout": "1"`), []string{`methodConfig[0].timeout: ` + duration + `"1"`}},
		{entry(`"timeout": "1m"`), []string{`methodConfig[0].timeout: ` + duration + `"1m"`}},
		{entry(`"timeout": ".s"`), []string{`methodConfig[0].timeout: ` + duration + `".s"`}},
		{entry(`"timeout": "0.0000000001s"`), []string{`methodConfig[0].timeout: ` + duration + `"0.0000000001s"`}},
		{entry(`"timeout": "315576000001s"`), []string{`methodConfig[0].timeout: ` + duration + `"315576000001s"`}},

		{entry(`"retryPolicy": {}, "hedgingPolicy": {}`), []string{hedging + `: must not stand beside retryPolicy (gRFC A6)`}},
		{entry(`"retryPolicy": []`), []string{in + `: must be an object, got an array`}},
		{entry(`"retryPolicy": {}`), []string{
			in + `.initialBackoff: ` + required, in + `.maxBackoff: ` + required,
			in + `.backoffMultiplier: ` + required,
		}},
		{retry(`"maxAttempts": 1`), []string{in + `.maxAttempts: must be at least 2, got 1`}},
		{retry(`"maxAttempts": "3"`), []string{in + `.maxAttempts: must be a whole number, got "3"`}},
		{retry(`"maxAttempts": 3.0`), []string{in + `.maxAttempts: must be a whole number, got 3.0`}},
		{retry(`"initialBackoff": "0s"`), []string{in + `.initialBackoff: must be above 0, got "0s"`}},
		{retry(`"maxBackoff": "-1s"`), []string{in + `.maxBackoff: must be above 0, got "-1s"`}},
		{retry(`"backoffMultiplier": 0`), []string{in + `.backoffMultiplier: must be above 0, got 0`}},
		{retry(`"backoffMultiplier": "2"`), []string{in + `.backoffMultiplier: must be a number, got "2"`}},
		{retry(`"backoffMultiplier": 1e400`), []string{in + `.backoffMultiplier: must be a number, got 1e400`}},
		{retry(`"retryableStatusCodes": "UNAVAILABLE"`), []string{in + `.retryableStatusCodes: must be an array, got "UNAVAILABLE"`}},
		{retry(`"retryableStatusCodes": ["unavailable", 17, "CANCELED", {}]`), []string{
			in + `.retryableStatusCodes[0]: ` + code + `"unavailable"`, in + `.retryableStatusCodes[1]: ` + code + `17`,
			in + `.retryableStatusCodes[2]: ` + code + `"CANCELED"`, in + `.retryableStatusCodes[3]: ` + code + `an object`,
		}},
		{strings.Replace(retry(`"maxBackoff": "99999999s"`), `"0.1s"`, `"86401s"`, 1), []string{in + `: ` + waits}},
		{strings.Replace(retry(`"maxBackoff": "99999999s"`), `: 2,`, `: 101,`, 1), []string{in + `: ` + waits}},
		{strings.Replace(retry(`"initialBackoff": "1.1s"`), `: 2,`, `: 0.5,`, 1), []string{in + `: ` + waits}},

		{entry(`"hedgingPolicy": {}`), []string{hedging + `.maxAttempts: ` + required}},
		{entry(`"hedgingPolicy": {"maxAttempts": 1, "hedgingDelay": "-1s", "nonFatalStatusCodes": {}}`), []string{
			hedging + `.maxAttempts: must be at least 2, got 1`, hedging + `.nonFatalStatusCodes: must be an array, got an object`, hedging + `.hedgingDelay: must be between 0 and 24h0m0s, got "-1s"`,
		}},
		{entry(`"hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "86401s"}`), []string{hedging + `.hedgingDelay: must be between 0 and 24h0m0s, got "86401s"`}},

		{`{"retryThrottling": {}}`, []string{throttling + `.maxTokens: ` + required, throttling + `.tokenRatio: ` + required}},
		{`{"retryThrottling": {"maxTokens": 0, "tokenRatio": -1}}`,
			[]string{throttling + `.maxTokens: must be above 0, got 0`, throttling + `.tokenRatio: must be above 0, got -1`}},
		{`{"retryThrottling": {"maxTokens": 1001, "tokenRatio": 0.0005}}`, []string{
			throttling + `.tokenRatio: must be at least 0.001, since decimals after the third are ignored (gRFC A6), got 0.0005`, throttling + `.maxTokens: must be at most 1000, got 1001`,
		}},
	} {
		s, _, err := policy.FromServiceConfig([]byte(r.config))
		require.Error(t, err, r.config)
		assert.Equal(t, r.want, texts(faults(t, err)), r.config)
		assert.Empty(t, s, r.config)
	}
}

// TestServiceConfigWarnings has all warnings of each config, all of which are taken.
func TestServiceConfigWarnings(t *testing.T) {
	t.Parallel()
	const own, unknown, noMethod = `is gRPC's own, and not taken over`, `is not known, and ignored`, `has no names, and applies to no method`
	for _, r := range []struct {
		config string
		want   []string
	}{
		{`{"loadBalancingPolicy": "x", "loadBalancingConfig": [{"y": {}}], "healthCheckConfig": {}}`,
			[]string{`loadBalancingPolicy: ` + own, `loadBalancingConfig: ` + own, `healthCheckConfig: ` + own}},
		{`{"loadBalancingConfig": null}`, []string{}},
		{entry(`"maxRequestMessageBytes": 1, "maxResponseMessageBytes": 1`),
			[]string{`methodConfig[0].maxRequestMessageBytes: ` + own, `methodConfig[0].maxResponseMessageBytes: ` + own}},
		{`{"": 1, "methodConfigs": []}`, []string{unknown, `methodConfigs: ` + unknown + `: did you mean methodConfig?`}},
		{entry(`"comment": null`), []string{`methodConfig[0].comment: ` + unknown}},
		{named(`[{"service": "a.B", "package": "a"}]`), []string{`methodConfig[0].name[0].package: ` + unknown}},
		{retry(`"maxAttempts": 2, "perAttemptRecvTimeout": "1s"`), []string{`methodConfig[0].retryPolicy.perAttemptRecvTimeout: ` + unknown}},
		{entry(`"hedgingPolicy": {"maxAttempts": 2, "retryableStatusCodes": []}`),
			[]string{`methodConfig[0].hedgingPolicy.retryableStatusCodes: belongs in retryPolicy, and is ignored here`}},
		{`{"retryThrottling": {"maxTokens": 1, "tokenRatio": 1, "x": 1}}`, []string{`retryThrottling.x: ` + unknown}},
		{`{"retryPolicy": {"x": 1}, "HedgingPolicy": {}, "timeout": "1s"}`, []string{
			`retryPolicy: belongs in methodConfig[], and is ignored here`, `HedgingPolicy: belongs in methodConfig[], and is ignored here`, `timeout: belongs in methodConfig[], and is ignored here`,
		}},
		{entry(`"retryThrottling": {}, "maxAttempts": 3`),
			[]string{`methodConfig[0].retryThrottling: belongs at the top level, and is ignored here`, `methodConfig[0].maxAttempts: belongs in retryPolicy or hedgingPolicy, and is ignored here`}},
		{`{"methodConfig": [{"timeout": "1s"}, {"name": []}, null]}`,
			[]string{`methodConfig[0]: ` + noMethod, `methodConfig[1]: ` + noMethod, `methodConfig[2]: ` + noMethod}},
		{named(`[{"service": "a.B", "method": "*"}, {"service": "a.*"}, {"service": "/a.B"}, {"service": "a.B", "method": " C"}, {"service": "a.B", "method": "x/C"}]`), []string{
			`methodConfig[0].name[0].method: is not the name of a method, and has no effect: "*"`, `methodConfig[0].name[1].service: is not the full name of a service, and has no effect: "a.*"`,
			`methodConfig[0].name[2].service: is not the full name of a service, and has no effect: "/a.B"`, `methodConfig[0].name[3].method: is not the name of a method, and has no effect: " C"`,
			`methodConfig[0].name[4].method: is not the name of a method, and has no effect: "x/C"`,
		}},
		{entry(`"timeout": "0s"`), []string{`methodConfig[0].timeout: is zero, with which gRPC fails every call, and is not taken over: there is no timeout`}},
		{entry(`"timeout": "-0.1s"`), []string{`methodConfig[0].timeout: is below zero, which grpc-go ignores: there is no timeout`}},
		{entry(`"timeout": "86400.000000001s"`), []string{`methodConfig[0].timeout: is above 24h0m0s, and is not taken over: there is no timeout`}},
		// 0.29 s, if it ran over
		{entry(`"timeout": "18446744074s"`),
			[]string{`methodConfig[0].timeout: is above 24h0m0s, and is not taken over: there is no timeout`}},
		{entry(`"timeout": "-18446744074s"`), []string{`methodConfig[0].timeout: is below zero, which grpc-go ignores: there is no timeout`}},
		{entry(`"timeout": "-9999999999s"`), []string{`methodConfig[0].timeout: is below zero, which grpc-go ignores: there is no timeout`}},
		{retry(`"maxAttempts": 6`), []string{`methodConfig[0].retryPolicy.maxAttempts: counts as 5, as in gRPC, got 6`}},
		{retry(`"retryableStatusCodes": ["OK", 0, null, 14]`), []string{
			`methodConfig[0].retryPolicy.retryableStatusCodes[0]: is no failure, and has no effect`, `methodConfig[0].retryPolicy.retryableStatusCodes[1]: is no failure, and has no effect`,
			`methodConfig[0].retryPolicy.retryableStatusCodes[2]: is no failure, and has no effect`,
		}},
		{entry(`"hedgingPolicy": {"maxAttempts": 99, "nonFatalStatusCodes": ["OK"]}`), []string{
			`methodConfig[0].hedgingPolicy.maxAttempts: counts as 5, as in gRPC, got 99`, `methodConfig[0].hedgingPolicy.nonFatalStatusCodes[0]: is no failure, and has no effect`,
		}},
	} {
		s, warnings, err := policy.FromServiceConfig([]byte(r.config))
		require.NoError(t, err, r.config)
		assert.Equal(t, r.want, texts(warnings), r.config)
		for _, rule := range s.Rules {
			assert.Zero(t, rule.Policy.Timeout, r.config)
		}
	}
}

// TestServiceConfigOKAlone: no codes would mean that classify.GRPC decides.
func TestServiceConfigOKAlone(t *testing.T) {
	t.Parallel()
	s, _, err := policy.FromServiceConfig([]byte(retry(`"retryableStatusCodes": ["OK"]`)))
	require.NoError(t, err)
	assert.Equal(t, policy.Retry{MaxAttempts: 1}, s.Rules[0].Policy.Retry)
	s, _, err = policy.FromServiceConfig([]byte(entry(`"hedgingPolicy": {"maxAttempts": 2, "nonFatalStatusCodes": ["OK"]}`)))
	require.NoError(t, err)
	assert.Equal(t, policy.ClassifierNone, s.Rules[0].Policy.Classifier)
}

// TestServiceConfigPlaces has the first fault or warning of each config, with its place.
func TestServiceConfigPlaces(t *testing.T) {
	t.Parallel()
	for _, r := range []struct{ config, want string }{
		{``, `1:1: is empty: a service config without methods is {}`},
		{" \n", `1:1: is empty: a service config without methods is {}`},
		{"\ufeff{}", `1:1: begins with a byte order mark, which gRPC refuses: save the file without it`},
		{"\xff\xfe{\x00", `1:1: is UTF-16: save the file as UTF-8`},
		{"{\n\"☃\": \"f\xfcr\"}", `2:8: is not UTF-8, because of the byte 0xfc (is it Latin-1?): save the file as UTF-8`},
		{"{\n\"x\": \"\\ud800\"}", `2:7: "\\ud800" is half of a surrogate pair, and no character`},
		{"{\n\"method_config\": []}", `2:1: method_config: must be spelt methodConfig: gRPC would ignore it`},
		{named(`[{}], "retry_policy": {}`), `1:34: methodConfig[0].retry_policy: must be spelt retryPolicy: gRPC would ignore it`},
		{`{"Retry-Policy": {}}`, `1:2: Retry-Policy: must be spelt retryPolicy, and belongs in methodConfig[]: gRPC would ignore it`},
		{`{"methodConfig": [}`, `1:19: invalid character '}' looking for beginning of value`},
		{"{\n  \"ü\": tru\n}", `2:11: invalid character '\n' in literal true (expecting 'e')`},
		{`{} {}`, `1:4: invalid character '{' after top-level value`},
		{"\n\t 7", `2:3: must be an object, got 7`},
		{"\n {\"methodConfig\": [7]}", `2:20: methodConfig[0]: must be an object, got 7`},
		{"{\r\n  \"methodConfig\" :\r\n  {}}", `2:3: methodConfig: must be an array, got an object`}, // where the key is
		{"{\"☃\":1}", `1:2: ☃: is not known, and ignored`},
		{`{"a\"]":["]}",{"\\":[]}],"timeout":1}`, `1:2: a"]: is not known, and ignored`},
		{"{\"methodConfig\": [\n{\"name\": [{}], \"timeout\" : 1},\n null]}", `2:16: methodConfig[0].timeout: must be a duration such as "1.5s", got 1`},
		// where it belongs
		{"{\"methodConfig\": [\n{\"name\": [{}], \"retryPolicy\":\n{\"maxAttempts\": 3, \"initialBackoff\": \"1s\"}}]}",
			`2:16: methodConfig[0].retryPolicy.maxBackoff: is required (gRFC A6)`},
		{"{\"methodConfig\": [\n{\"name\": [{}, \n  {}]}]}", `3:3: methodConfig[0].name[1]: is the same as methodConfig[0].name[0]`},
		{"{\"methodConfig\": [\n  {}, {\"x\":-0.5e1 }]}", `2:3: methodConfig[0]: has no names, and applies to no method`},
	} {
		_, warnings, err := policy.FromServiceConfig([]byte(r.config))
		if err != nil {
			warnings = faults(t, err)
		}
		require.NotEmpty(t, warnings, r.config)
		assert.Equal(t, r.want, warnings[0].Error(), r.config)
	}
}

func TestServiceConfigBounds(t *testing.T) {
	t.Parallel()
	_, _, err := policy.FromServiceConfig(make([]byte, policy.MaxSize+1))
	require.EqualError(t, err, `must have at most 16777216 bytes, got 16777217`)

	_, _, err = policy.FromServiceConfig([]byte(`{"methodConfig": [` + strings.Repeat(`{},`, policy.MaxRules) + `{}]}`))
	require.EqualError(t, err, `1:2: methodConfig: must have at most 100000 entries and as many names`)

	var names []string
	for i := range policy.MaxRules {
		names = append(names, fmt.Sprintf(`{"service":"a.B","method":"M%d"}`, i))
	}
	_, _, err = policy.FromServiceConfig([]byte(named("[" + strings.Join(names, ",") + "]"))) // and the rule for all others
	require.EqualError(t, err, `rules: must be at most 100000 with as many methods, got 100001`)
	_, _, err = policy.FromServiceConfig([]byte(named("[" + strings.Join(names, ",") + ",{}]")))
	require.EqualError(t, err, `1:20: methodConfig[0].name: must have at most 100000 entries`)

	_, warnings, err := policy.FromServiceConfig([]byte(`{"methodConfig": [` + strings.Repeat(`{},`, 100) + `{}]}`))
	require.NoError(t, err)
	require.Len(t, warnings, 101)
	assert.Equal(t, "and there is more", warnings[100].Error())
	_, _, err = policy.FromServiceConfig([]byte(`{"methodConfig": [` + strings.Repeat(`7,`, 99) + `7]}`))
	assert.Len(t, faults(t, err), 100)
	_, _, err = policy.FromServiceConfig([]byte(`{"methodConfig": [` + strings.Repeat(`7,`, 500) + `7]}`))
	assert.Len(t, faults(t, err), 101)
}
