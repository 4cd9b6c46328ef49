package policy_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

// meaning is what a service config comes to for one method.
type meaning struct {
	Timeout  time.Duration // zero for none that rego can say
	Wait     bool
	Attempts int
	Hedging  bool
	Delay    time.Duration   // between hedges
	Waits    []time.Duration // before each retry, without jitter
	Codes    []codes.Code    // that are retried, or not fatal to hedging
	Tokens   float64
	Ratio    float64
}

// withRetries sets what a retryPolicy or its like says. OK among the codes says nothing,
// and a retryPolicy of no other codes nothing at all.
func (m meaning) withRetries(attempts int, initial, most time.Duration, multiplier float64, list []codes.Code) meaning {
	m.Codes = failures(list)
	if m.Attempts = min(attempts, 5); len(m.Codes) == 0 {
		m.Attempts = 1
	}
	for n := range m.Attempts - 1 {
		m.Waits = append(m.Waits, time.Duration(min(float64(initial)*math.Pow(multiplier, float64(n)), float64(most))))
	}
	return m
}

func failures(list []codes.Code) []codes.Code {
	var sorted []codes.Code
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		if slices.Contains(list, c) {
			sorted = append(sorted, c)
		}
	}
	return sorted
}

func sayable(d time.Duration) time.Duration {
	if d < 0 || d > policy.MaxDuration {
		return 0
	}
	return d
}

// model is a service config as this test reads it.
type model struct {
	MethodConfig []struct {
		Name         []struct{ Service, Method string }
		Timeout      string
		WaitForReady bool
		RetryPolicy  *struct {
			MaxAttempts                int
			InitialBackoff, MaxBackoff string
			BackoffMultiplier          float64
			RetryableStatusCodes       []codes.Code
		}
		HedgingPolicy *struct {
			MaxAttempts         int
			HedgingDelay        string
			NonFatalStatusCodes []codes.Code
		}
	}
	RetryThrottling struct{ MaxTokens, TokenRatio float64 }
}

func read(t *testing.T, config []byte) model {
	t.Helper()
	var m model
	require.NoError(t, json.Unmarshal(config, &m))
	return m
}

// methods returns the methods that m names, and for each service and for all services one
// that it does not.
func (m model) methods() []string {
	list := []string{"/not.Listed/NotListed"}
	for _, c := range m.MethodConfig {
		for _, n := range c.Name {
			if n.Service != "" && !strings.Contains(n.Method, " ") { // which no method can have
				list = append(list, "/"+n.Service+"/NotListed", "/"+n.Service+"/"+n.Method)
			}
		}
	}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(m string) bool { return strings.HasSuffix(m, "/") })
}

// of says what m means for a method: what is written for it by name, else for its
// service, else for all.
func (m model) of(t *testing.T, method string) meaning {
	t.Helper()
	duration := func(s string) time.Duration {
		if s == "" {
			return 0
		}
		d, err := time.ParseDuration(s)
		require.NoError(t, err)
		return d
	}
	said := meaning{Attempts: 1, Tokens: m.RetryThrottling.MaxTokens, Ratio: m.RetryThrottling.TokenRatio}
	service := method[1:strings.LastIndexByte(method, '/')]
	for _, want := range []struct{ Service, Method string }{{service, method[len(service)+2:]}, {service, ""}, {"", ""}} {
		for _, c := range m.MethodConfig {
			if !slices.Contains(c.Name, want) {
				continue
			}
			said.Timeout, said.Wait = sayable(duration(c.Timeout)), c.WaitForReady
			if p := c.RetryPolicy; p != nil && len(p.RetryableStatusCodes) > 0 {
				said = said.withRetries(cmp.Or(p.MaxAttempts, 5), duration(p.InitialBackoff), duration(p.MaxBackoff), p.BackoffMultiplier, p.RetryableStatusCodes)
			}
			if p := c.HedgingPolicy; p != nil {
				said.Hedging, said.Attempts, said.Delay, said.Codes = true, min(p.MaxAttempts, 5), duration(p.HedgingDelay), failures(p.NonFatalStatusCodes)
			}
			return said
		}
	}
	return said
}

// ofSet says what a set means for a method.
func ofSet(t *testing.T, table *policy.Table, method string) meaning {
	t.Helper()
	p := table.Lookup(method)
	require.NotNil(t, p, method)
	m := meaning{Timeout: p.Timeout, Wait: p.WaitForReady, Attempts: 1}
	assert.Zero(t, p.AttemptTimeout)
	if p.Budget != "" {
		b, ok := table.Budget(p.Budget)
		require.True(t, ok, p.Budget)
		m.Tokens, m.Ratio = b.Throttle.MaxTokens, b.Throttle.TokenRatio
	}
	switch r := p.Retry; {
	case p.Hedge.Asked():
		require.True(t, r.Off)
		require.True(t, p.Idempotency.AllowsRetry())
		require.Equal(t, len(r.Codes) == 0, p.Classifier == policy.ClassifierNone)
		m.Hedging, m.Attempts, m.Delay, m.Codes = true, r.MaxAttempts, max(p.Hedge.Delay, 0), failures(r.Codes)
	case r.MaxAttempts > 1:
		require.NotEmpty(t, r.Codes)
		require.Equal(t, policy.JitterProportional, r.Backoff.Jitter)
		m.Attempts, m.Codes = r.MaxAttempts, failures(r.Codes)
		r.Backoff.Jitter = policy.JitterNone
		for n := range r.MaxAttempts - 1 {
			m.Waits = append(m.Waits, r.Backoff.Delay(n, nil))
		}
	}
	return m
}

// dial returns a client whose service config is config, or why grpc-go refuses it. The
// client has it from the start, and never has a connection.
func dial(config []byte) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///nowhere",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("nowhere") }),
		grpc.WithDefaultServiceConfig(string(config)))
	if err == nil {
		conn.Connect()
	}
	return conn, err
}

// ofGRPC says what the service config of conn means to grpc-go for a method, which leaves
// out hedging and throttling.
func ofGRPC(conn *grpc.ClientConn, method string) meaning {
	c := conn.GetMethodConfig(method)
	m := meaning{Attempts: 1}
	if c.Timeout != nil {
		m.Timeout = sayable(*c.Timeout)
	}
	m.Wait = c.WaitForReady != nil && *c.WaitForReady
	if p := c.RetryPolicy; p != nil {
		var list []codes.Code
		for code := range p.RetryableStatusCodes {
			list = append(list, code)
		}
		m = m.withRetries(p.MaxAttempts, p.InitialBackoff, p.MaxBackoff, p.BackoffMultiplier, list)
	}
	return m
}

func (m meaning) toGRPC() meaning {
	if m.Hedging {
		m.Hedging, m.Attempts, m.Delay, m.Codes = false, 1, 0, nil
	}
	m.Tokens, m.Ratio = 0, 0
	return m
}

// refusedByGRPC is what a warning says of a config that gRPC does not take.
const refusedByGRPC = "gRPC refuses such a config"

// TestCorpus: the service configs that Google publishes are imported, mean the same as a
// set, and as the service config that the set is written as. What is left out is told, and
// so is what grpc-go refuses them for.
func TestCorpus(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("..", "..", "shared", "serviceconfigs", "*.json"))
	require.NoError(t, err)
	if len(files) == 0 {
		t.Skip("there is no shared/serviceconfigs beside the repository")
	}
	texts, taken, methods := map[string]int{}, 0, 0
	for _, file := range files {
		config, err := os.ReadFile(file)
		require.NoError(t, err)
		s, warnings, err := policy.FromServiceConfig(config)
		conn, refused := dial(config)
		require.NoError(t, err, file)
		assert.Equal(t, refused != nil, strings.Contains(policy.Faults(warnings).Error(), refusedByGRPC), "%s: %v", file, refused)
		for _, w := range warnings {
			texts["warning: "+bare(w)]++
		}
		assert.Subset(t, paths(warnings), unsaid(t, config), file)

		table, err := s.Compile()
		require.NoError(t, err, file)
		back, missing, err := s.ServiceConfig()
		require.NoError(t, err, file)
		require.Empty(t, missing, file)
		backConn, err := dial(back)
		require.NoError(t, err, file)
		defer backConn.Close()
		was, is := read(t, config), read(t, back)
		for _, method := range was.methods() {
			want := was.of(t, method)
			require.Equal(t, want, ofSet(t, table, method), "%s: %s", file, method)
			require.Equal(t, want, is.of(t, method), "%s: %s", file, method)
			if refused == nil {
				require.Equal(t, want.toGRPC(), ofGRPC(conn, method), "%s: %s", file, method)
			}
			require.Equal(t, want.toGRPC(), ofGRPC(backConn, method), "%s: %s", file, method)
			methods++
		}
		again, warnings, err := policy.FromServiceConfig(back)
		require.NoError(t, err, file)
		require.Empty(t, warnings, file)
		require.Equal(t, byMethod(s), byMethod(again), file)
		if refused == nil {
			taken++
			require.NoError(t, conn.Close())
		}
	}
	t.Logf("%d configs, %d of them taken by grpc-go, %d methods compared", len(files), taken, methods)
	for text, n := range texts {
		t.Logf("%4d × %s", n, text)
	}
	assert.Positive(t, taken)
}

func faults(t *testing.T, err error) policy.Faults {
	t.Helper()
	var fs policy.Faults
	require.ErrorAs(t, err, &fs)
	return fs
}

func paths(fs []policy.Fault) []string {
	var list []string
	for _, f := range fs {
		list = append(list, f.Path)
	}
	return list
}

var numbers = regexp.MustCompile(`\d+`)

// bare is a fault without numbers and place.
func bare(f policy.Fault) string {
	f.Line = 0
	return numbers.ReplaceAllString(f.Error(), "N")
}

// said matches the paths of what a set can say.
var said = regexp.MustCompile(`^(methodConfig(\[\d+\](\.(name(\[\d+\](\.(service|method))?)?|timeout|waitForReady` +
	`|retryPolicy(\.(maxAttempts|initialBackoff|maxBackoff|backoffMultiplier|retryableStatusCodes(\[\d+\])?))?` +
	`|hedgingPolicy(\.(maxAttempts|hedgingDelay|nonFatalStatusCodes(\[\d+\])?))?))?)?` +
	`|retryThrottling(\.(maxTokens|tokenRatio))?)$`)

// unsaid returns the paths of what there is in a config that a set cannot say.
func unsaid(t *testing.T, config []byte) []string {
	t.Helper()
	var list []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, below := range v {
				walk(strings.TrimPrefix(path+"."+key, "."), below)
			}
		case []any:
			for i, below := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), below)
			}
		case string:
			if strings.HasSuffix(path, ".timeout") && v == "0s" || strings.HasSuffix(path, ".method") && strings.Contains(v, " ") {
				list = append(list, path)
			}
		case float64:
			if strings.HasSuffix(path, ".maxAttempts") && v > 5 {
				list = append(list, path)
			}
		}
		if path != "" && !said.MatchString(path) {
			list = append(list, path)
		}
	}
	var v any
	require.NoError(t, json.Unmarshal(config, &v))
	walk("", v)
	return list
}

// byMethod is a set without the names that depend on where things stood.
func byMethod(s policy.Set) map[string]policy.Policy {
	m := map[string]policy.Policy{}
	for _, r := range s.Rules {
		r.Policy.Name = ""
		for _, method := range r.Methods {
			m[method] = r.Policy
		}
	}
	for _, b := range s.Budgets {
		m[b.Name] = policy.Policy{Name: fmt.Sprintf("%+v", *b.Throttle)}
	}
	return m
}

// TestServiceConfigRoundTrip: a set that a service config can say comes back from it.
func TestServiceConfigRoundTrip(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 1000 {
		s := sayableSet(r)
		config, missing, err := s.ServiceConfig()
		require.NoError(t, err, "seed %d: %+v", seed, s)
		require.Empty(t, missing, "seed %d: %+v", seed, s)
		got, warnings, err := policy.FromServiceConfig(config)
		require.NoError(t, err, "seed %d: %s", seed, config)
		require.Empty(t, warnings, "seed %d: %s", seed, config)
		require.Equal(t, byMethod(s), byMethod(got), "seed %d: %s", seed, config)
	}
}

// sayableSet returns a set of which nothing is missing in a service config.
func sayableSet(r *rand.Rand) policy.Set {
	flip := func() bool { return r.IntN(2) == 0 }
	span := func() time.Duration {
		return []time.Duration{1, 1000, 50 * time.Millisecond, time.Second + 1, 1 + time.Duration(r.Int64N(int64(policy.MaxDuration))), policy.MaxDuration}[r.IntN(6)]
	}
	list := func() (list []codes.Code) {
		for _, i := range r.Perm(16)[:1+r.IntN(16)] {
			list = append(list, codes.Code(i+1))
		}
		return list
	}
	s := policy.Set{}
	if flip() {
		s.Budgets = []policy.NamedBudget{{Name: policy.RetryThrottling, Throttle: &budget.ThrottleConfig{MaxTokens: 0.001 + float64(r.IntN(1000)), TokenRatio: 0.001 + r.Float64()}}}
	}
	for i := range 1 + r.IntN(6) {
		p := policy.Policy{WaitForReady: flip(), Retry: policy.Retry{MaxAttempts: 1}}
		if flip() {
			p.Timeout = span()
		}
		switch r.IntN(3) {
		case 0:
			p.Retry = policy.Retry{
				MaxAttempts: 2 + r.IntN(4),
				Backoff:     policy.Backoff{Initial: span(), Multiplier: []float64{0.1, 1, 1.3, math.Pi, policy.MaxMultiplier}[r.IntN(5)], Jitter: policy.JitterProportional},
				Codes:       list(),
			}
			p.Retry.Backoff.Max = max(p.Retry.Backoff.Initial, span())
		case 1:
			p.Retry = policy.Retry{Off: true, MaxAttempts: 2 + r.IntN(4)}
			p.Hedge.Delay = []time.Duration{policy.NoWait, span()}[r.IntN(2)]
			p.Idempotency = classify.Idempotent
			if p.Classifier = policy.ClassifierNone; flip() {
				p.Classifier, p.Retry.Codes = "", list()
			}
		}
		p.AsGRPC = p.Retry.MaxAttempts > 1
		rule := policy.Rule{Policy: p, Methods: []string{fmt.Sprintf("/a.B/M%d", i), fmt.Sprintf("/a.B%d/*", i)}[r.IntN(2):]}
		if i == 0 {
			rule.Methods = append(rule.Methods, "*")
		}
		if len(s.Budgets) > 0 {
			rule.Policy.Budget = policy.RetryThrottling
		}
		s.Rules = append(s.Rules, rule)
	}
	return s
}

// TestServiceConfigsAsInGRPC: odd service configs are taken if grpc-go takes them, and mean
// the same.
func TestServiceConfigsAsInGRPC(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	refusedBoth, taken := 0, 0
	for range 2000 {
		config := oddConfig(r)
		s, warnings, err := policy.FromServiceConfig([]byte(config))
		conn, refused := dial([]byte(config))
		switch {
		case refused != nil && err != nil:
			refusedBoth++
			continue
		case refused != nil:
			// grpc-go reads the types of what applies to no method.
			require.Regexp(t, "applies to no method|"+refusedByGRPC, policy.Faults(warnings).Error(), "seed %d: %s: %v", seed, config, refused)
			continue
		}
		if err != nil {
			for _, f := range faults(t, err) {
				require.Regexp(t, "has waits that no policy can have|decimals after the third", f.Text, "seed %d: %s", seed, config)
			}
			require.NoError(t, conn.Close())
			continue
		}
		table, err := s.Compile()
		require.NoError(t, err)
		for _, m := range []string{"/a.B/C", "/a.B/D", "/a.E/C"} {
			require.Equal(t, ofGRPC(conn, m), ofSet(t, table, m).toGRPC(), "seed %d: %s: %s", seed, config, m)
		}
		require.NoError(t, conn.Close())
		taken++
	}
	assert.Greater(t, refusedBoth, 200)
	assert.Greater(t, taken, 200)
}

// oddConfig returns a service config without hedging, most fields of which are as they
// should be.
func oddConfig(r *rand.Rand) string {
	field := func(name, usual string, odd ...string) string {
		v := usual
		switch r.IntN(8) {
		case 0:
			v = odd[r.IntN(len(odd))]
		case 1:
			name = strings.ToUpper(name)
		}
		if v == "" {
			return ""
		}
		return fmt.Sprintf("%q: %s", name, v)
	}
	object := func(fields ...string) string {
		r.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
		return "{" + strings.Join(slices.DeleteFunc(fields, func(s string) bool { return s == "" }), ", ") + "}"
	}
	durations := []string{
		`"0s"`, `"-1s"`, `".5s"`, `"5.s"`, `"1"`, `5`, `"+1s"`, `"--1s"`, `"1.-5s"`, `"1.+5s"`, `"1.+s"`, `"1.0000000001s"`, `"1.000000001s"`,
		`"315576000000s"`, `"315576000001s"`, `"-999999999999s"`, `"100000s"`, `"86400s"`, `"86400.1s"`, `"s"`, `".s"`, `"-s"`, `""`, `"1m"`, `"1_0s"`,
		`"1.2.3s"`, `"\u0031s"`, `null`, `""`, `[]`, `true`, ``,
	}
	var entries []string
	for _, name := range [][]string{
		{`{"service": "a.B"}`, `{"service": "a.B", "method": ""}`, `{"service": "a.B", "method": null}`},
		{`{"service": "a.B", "method": "C"}`, `{"service": "a.B", "method": "*"}`, `{"service": "a.B", "method": " C"}`, `{"service": "a.B", "METHOD": "C"}`},
		{`{}`, `null`, `{"method": "C"}`, `{"service": "", "method": ""}`, `{"service": "a.B"}`, `{"service": 5}`, `{"service": "a.*"}`, `{"service": "/a.B"}`, `[]`},
	} {
		retry := object(
			field("maxAttempts", "3", `1`, `2`, `5`, `6`, `"3"`, `3.0`, `3e0`, `-1`, `99999999999999999999`, `null`, ``),
			field("initialBackoff", `"1s"`, durations...),
			field("maxBackoff", `"10s"`, durations...),
			field("backoffMultiplier", "2", `0`, `0.5`, `1`, `99.5`, `1000`, `1e300`, `1e-300`, `1e400`, `1e-400`, `-1`, `"2"`, `null`, ``),
			field("retryableStatusCodes", `["UNAVAILABLE"]`, `[]`, `["unavailable"]`, `[14]`, `[16]`, `[17]`, `[0]`, `["OK", 4]`, `[null]`, `["CANCELLED", 1]`, `["CANCELED"]`,
				`[14.0]`, `["\u0055NAVAILABLE"]`, `"UNAVAILABLE"`, `{}`, `null`, ``),
		)
		entries = append(entries, object(
			field("name", "["+name[0]+"]", "["+name[r.IntN(len(name))]+"]", "["+strings.Join(name[:2], ", ")+"]", `[]`, `{}`, `null`, `"a.B"`, ``),
			field("timeout", `"3s"`, durations...),
			field("waitForReady", "true", `false`, `null`, `"true"`, `1`),
			field("retryPolicy", retry, `{}`, `[]`, `null`, ``),
		))
	}
	tokens := []string{`0`, `-1`, `0.0005`, `0.001`, `1000`, `1000.5`, `1e9`, `"5"`, `null`, ``}
	// Without methodConfig grpc-go does not look at retryThrottling.
	return object(
		field("methodConfig", "["+strings.Join(entries[:1+r.IntN(3)], ", ")+"]", `[]`, `[null]`, `{}`, `[5]`),
		field("retryThrottling", object(field("maxTokens", "10", tokens...), field("tokenRatio", "0.1", tokens...)), `null`, `[]`, `{}`, ``),
	)
}

// FuzzFromServiceConfig: what is taken is a valid set, means what grpc-go makes of it,
// and comes back from the service config that it is written as.
func FuzzFromServiceConfig(f *testing.F) {
	for _, config := range seeds {
		f.Add([]byte(config))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		s, warnings, err := policy.FromServiceConfig(config)
		if err != nil {
			require.NotEmpty(t, faults(t, err))
			return
		}
		table, err := s.Compile()
		require.NoError(t, err)
		back, missing, err := s.ServiceConfig()
		require.NoError(t, err)
		require.Empty(t, missing)
		again, none, err := policy.FromServiceConfig(back)
		require.NoError(t, err, "%s", back)
		require.Empty(t, none, "%s", back)
		require.Equal(t, byMethod(s), byMethod(again), "%s", back)

		backConn, err := dial(back)
		require.NoError(t, err, "%s", back)
		defer backConn.Close()
		conn, refused := dial(config)
		if refused != nil {
			// It may be for what is not looked at.
			require.Regexp(t, "gRPC's own|applies to no method|"+refusedByGRPC, policy.Faults(warnings).Error(), refused)
			return
		}
		defer conn.Close()
		for _, r := range s.Rules {
			for _, m := range r.Methods {
				m = strings.Replace(m, "*", "NotListed", 1)
				if m == "NotListed" {
					m = "/not.Listed/NotListed"
				}
				said := ofSet(t, table, m)
				require.Equal(t, read(t, back).of(t, m), said, "%s", m)
				require.Equal(t, ofGRPC(backConn, m), said.toGRPC(), "%s", m)
				require.Equal(t, ofGRPC(conn, m), said.toGRPC(), "%s", m)
			}
		}
	})
}

// seeds are service configs, some of which are wrong.
var seeds = []string{
	`{"methodConfig": [{"name": [{"service": "a.B"}], "retryPolicy": {"initialBackoff": "10s", "maxBackoff": "1s", "backoffMultiplier": 0.9}}]}`,
	``, `{}`, `null`, `[]`, `{"methodConfig":[{}]}`, `{"methodConfig":[{"name":[]}]}`,
	`{"methodConfig":[{"name":[{}]}]}`,
	`{"methodConfig":[{"name":[null],"timeout":null,"retryPolicy":null,"waitForReady":true}]}`,
	`{"methodConfig":[{"name":[{"service":"a.B"},{"service":"a.B","method":"C"}],"timeout":"1.5s"}]}`,
	`{"methodConfig":[{"name":[{"service":"a.B","method":"*"},{"service":"a/B"},{"service":"a.B","method":" C"}],"timeout":"-1s"}]}`,
	`{"methodConfig":[{"name":[{"service":"a.B"}],"retryPolicy":{"maxAttempts":9,"initialBackoff":".1s","maxBackoff":"100000s","backoffMultiplier":2e0,"retryableStatusCodes":["UNAVAILABLE",4,4,"OK"]}}]}`,
	`{"methodConfig":[{"name":[{"service":"a.B"}],"RETRYPOLICY":{"MaxAttempts":4,"initialBackoff":"10s","maxBackoff":"1s","backoffMultiplier":0.9,"retryableStatusCodes":["CANCELLED"]}}]}`,
	`{"methodConfig":[{"name":[{"service":"a.B"}],"retryPolicy":{"maxAttempts":2,"initialBackoff":"1s","maxBackoff":"1s","backoffMultiplier":1e-300,"retryableStatusCodes":[0]}}]}`,
	`{"methodConfig":[{"name":[{"service":"a.B"}],"hedgingPolicy":{"maxAttempts":3,"hedgingDelay":"0.25s","nonFatalStatusCodes":["UNAVAILABLE"]}}],"retryThrottling":{"maxTokens":10,"tokenRatio":0.1}}`,
	`{"methodConfig":[{"name":[{"service":"a.B"}],"hedgingPolicy":{"maxAttempts":3}}],"retryThrottling":{"maxTokens":1e3,"tokenRatio":1e9}}`,
	"{\"methodConfig\":[{\"name\":[{\"service\":\"\xb0\u00a0\"},{\"service\":\"\xb1\u00a0\"},{\"service\":\"00\",\"method\":\"\\u0020\"}]}]}",
	`{"loadBalancingConfig":[{"round_robin":{}}],"methodConfig":[{"name":[{"service":"a\u002eB"}],"maxRequestMessageBytes":1,"x":{"y":["]",{"\"":1}]}}]}`,
}
