package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/internal/surrogate"
)

// Names that [FromServiceConfig] gives. All other policies have their place in the config as
// their name, such as methodConfig[2].
const (
	// NoRetries is the policy of methods that the config does not cover.
	NoRetries = "no retries"
	// RetryThrottling is the budget made from the config's retryThrottling.
	RetryThrottling = "retryThrottling"
)

// grpcMaxAttempts is what a greater maxAttempts counts as (gRFC A6).
const grpcMaxAttempts = 5

// FromServiceConfig returns the set with the same meaning as a gRPC service config in JSON
// (gRFC A6; grpc's service_config.proto):
//
//   - retryPolicy: Retry with the codes that it lists and proportional jitter.
//   - hedgingPolicy: Hedge.Delay, which is NoWait if hedgingDelay is zero or absent. Its
//     nonFatalStatusCodes become Retry.Codes; without any, Classifier is ClassifierNone.
//     Retry is off, and Idempotency is Idempotent, because a config that asks for copies
//     declares this. grpc-go ignores hedgingPolicy, rego does not.
//   - neither: one attempt. The same holds for methods that the config does not cover: the
//     policy NoRetries is for every method, unless the config has a default (name: [{}]).
//     With it, policies in proto files have no effect.
//   - maxAttempts above 5, or missing in a retryPolicy: 5, with a warning. A retryPolicy
//     without codes retries nothing. gRPC refuses a retryPolicy without either, but configs
//     that are published for client generators have such policies (AIP-4221).
//   - timeout and waitForReady: Timeout and WaitForReady.
//   - AsGRPC is set if there is more than one attempt.
//   - retryThrottling: the budget RetryThrottling, which every policy names.
//
// Two things of rego hold here, too. Without retryThrottling, extra attempts are taken from
// the target's shared budget. After RESOURCE_EXHAUSTED the waits begin with a second; in A6
// they begin with initialBackoff.
//
// Upper and lower case in keys make no difference, and null means absent, as in grpc-go.
// Everything else that grpc-go refuses is an error. These are errors, too: a known key in
// another spelling, such as retry_policy; text that is not UTF-8; a key given twice;
// retryPolicy and hedgingPolicy in one methodConfig; and what a policy cannot express: a
// wait before a retry or a hedge of more than [MaxDuration], a backoffMultiplier above
// [MaxMultiplier] if it makes a difference, a maxTokens or tokenRatio below 0.001, where A6
// has no decimals. The error is a [Faults] with every fault, by its path in the config and
// its place. Then the set is empty.
//
// The warnings say what the set does not contain: unknown keys; names that no method can
// have, and a methodConfig without names; loadBalancingConfig, loadBalancingPolicy,
// healthCheckConfig, maxRequestMessageBytes and maxResponseMessageBytes, which are for gRPC
// and are ignored; OK among codes; and a timeout that rego cannot express. Such a timeout is
// left out: zero, with which gRPC fails every call, below zero, which grpc-go ignores, or
// above [MaxDuration].
//
// At most a hundred faults, and a hundred warnings, are listed, and then one that says that
// there are more.
func FromServiceConfig(data []byte) (s Set, warnings []Fault, err error) {
	if len(data) > MaxSize {
		return Set{}, nil, Faults{{Text: fmt.Sprintf("must have at most %d bytes, got %d", MaxSize, len(data))}}
	}
	im := &importer{document: data, named: make(map[string]string)}
	if !im.isText() {
		return Set{}, nil, im.errs
	}
	if err := json.Unmarshal(data, new(json.RawMessage)); err != nil {
		im.syntax(err)
		return Set{}, nil, im.errs
	}
	if at := surrogate.Lone(data); at >= 0 {
		im.bad(value{at: at}, "%q is half of a surrogate pair, and no character", data[at:at+6])
		return Set{}, nil, im.errs
	}
	begin := len(data) - len(bytes.TrimLeft(data, space))
	im.config(value{at: begin, from: begin, raw: strings.Trim(string(data), space)})
	if len(im.errs) > 0 {
		return Set{}, im.warnings, im.errs
	}
	if _, err := im.set.Compile(); err != nil { // each rule is valid, but they may be too many
		return Set{}, im.warnings, err
	}
	return im.set, im.warnings, nil
}

type importer struct {
	document []byte
	set      Set
	named    map[string]string // "/service/method": path of the name
	warnings Faults
	errs     Faults
}

func (im *importer) config(v value) {
	f, _ := im.fields(v, "methodConfig", "retryThrottling", "loadBalancingPolicy", "loadBalancingConfig", "healthCheckConfig")
	im.leave(f, "loadBalancingPolicy", "loadBalancingConfig", "healthCheckConfig")
	for i, m := range im.elements(f["methodConfig"]) {
		if i >= MaxRules || len(im.named) > MaxRules {
			im.bad(f["methodConfig"], "must have at most %d entries and as many names", MaxRules)
			break
		}
		im.methodConfig(m)
	}
	if _, ok := im.named["//"]; !ok {
		im.set.Rules = append(im.set.Rules, Rule{Methods: []string{"*"}, Policy: Policy{Name: NoRetries, Retry: Retry{MaxAttempts: 1}}})
	}
	if v := f["retryThrottling"]; v.given() {
		im.throttling(v)
	}
}

func (im *importer) methodConfig(v value) {
	f, ok := im.fields(v, "name", "timeout", "waitForReady", "retryPolicy", "hedgingPolicy", "maxRequestMessageBytes", "maxResponseMessageBytes")
	if !ok {
		return
	}
	im.leave(f, "maxRequestMessageBytes", "maxResponseMessageBytes")
	names := f["name"]
	if !names.given() {
		im.warn(v, "has no names, and applies to no method")
		return
	}
	r := Rule{Methods: im.selectors(names), Policy: Policy{Name: v.path, Timeout: im.timeout(f["timeout"])}}
	p := &r.Policy
	im.optional(f["waitForReady"], &p.WaitForReady, "true or false")
	switch retry, hedging := f["retryPolicy"], f["hedgingPolicy"]; {
	case retry.given() && hedging.given():
		im.bad(hedging, "must not stand beside retryPolicy (gRFC A6)")
	case retry.given():
		p.Retry = im.retryPolicy(retry)
	case hedging.given():
		im.hedgingPolicy(hedging, p)
	default:
		p.Retry.MaxAttempts = 1
	}
	p.AsGRPC = p.Retry.MaxAttempts > 1
	switch {
	case names.empty():
		im.warn(v, "has no names, and applies to no method")
	case len(r.Methods) > 0:
		im.set.Rules = append(im.set.Rules, r)
	}
}

func (im *importer) selectors(names value) (list []string) {
	for i, n := range im.elements(names) {
		if i == MaxRules {
			im.bad(names, "must have at most %d entries", MaxRules)
			break
		}
		if s := im.selector(n); s != "" {
			list = append(list, s)
		}
	}
	return list
}

// selector returns what a name is in a rule, empty if it is nothing there.
func (im *importer) selector(v value) string {
	var service, method string
	f, ok := im.fields(v, "service", "method")
	ok = im.optional(f["service"], &service, "a string") && ok
	ok = im.optional(f["method"], &method, "a string") && ok
	path := "/" + service + "/" + method
	switch before, taken := im.named[path]; {
	case !ok:
		return ""
	case service == "" && method != "":
		im.bad(v, "must name the service of method %s", quote(method))
		return ""
	case taken:
		im.bad(v, "is the same as %s", before)
		return ""
	}
	im.named[path] = v.path
	switch {
	case service == "":
		return "*"
	case !isService(service):
		im.warn(f["service"], "is not the full name of a service, and has no effect: %s", quote(service))
		return ""
	case method == "":
		return path + "*"
	case !isMethod(method):
		im.warn(f["method"], "is not the name of a method, and has no effect: %s", quote(method))
		return ""
	}
	return path
}

func isService(s string) bool {
	_, _, ok := split("/" + s + "/M")
	return ok && !strings.Contains(s, "*")
}

func isMethod(s string) bool {
	service, _, ok := split("/S/" + s)
	return ok && service == "/S/" && !strings.Contains(s, "*")
}

func (im *importer) timeout(v value) time.Duration {
	if !v.given() {
		return 0
	}
	d, ok := im.duration(v)
	switch {
	case !ok:
		return 0
	case d < 0:
		im.warn(v, "is below zero, which grpc-go ignores: there is no timeout")
		return 0
	case d == 0:
		im.warn(v, "is zero, with which gRPC fails every call, and is not taken over: there is no timeout")
		return 0
	case d > MaxDuration:
		im.warn(v, "is above %v, and is not taken over: there is no timeout", MaxDuration)
		return 0
	}
	return d
}

func (im *importer) retryPolicy(v value) Retry {
	f, ok := im.fields(v, "maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes")
	if !ok {
		return Retry{}
	}
	var r Retry
	if v := f["maxAttempts"]; v.given() {
		r.MaxAttempts = im.attempts(v)
	} else {
		im.warn(v, "is missing, and counts as %d; gRPC refuses such a config", grpcMaxAttempts)
		r.MaxAttempts = grpcMaxAttempts
	}
	initial, most := im.backoff(f["initialBackoff"]), im.backoff(f["maxBackoff"])
	multiplier := im.above(f["backoffMultiplier"], 0)
	list := f["retryableStatusCodes"]
	r.Codes = im.codes(list)
	if !list.given() || list.empty() {
		im.warn(list, "has no code, so nothing is retried; gRPC refuses such a config")
	}
	if r.MaxAttempts == 0 || initial == 0 || most == 0 || multiplier == 0 {
		return Retry{}
	}
	if len(r.Codes) == 0 { // which would mean classify.GRPC
		return Retry{MaxAttempts: 1}
	}
	if r.Backoff, ok = sameWaits(initial, most, multiplier, r.MaxAttempts-1); !ok {
		im.bad(v, "has waits that no policy can have: they are at most %v, backoffMultiplier at most %d, and if it is below 1 initialBackoff must not exceed maxBackoff", MaxDuration, MaxMultiplier)
	}
	return r
}

// sameWaits returns a backoff whose first n waits are min(initial·multiplier^n, most),
// as it is given if a policy can have it.
func sameWaits(initial, most time.Duration, multiplier float64, n int) (Backoff, bool) {
	for _, m := range []float64{min(multiplier, MaxMultiplier), 1} {
		b := Backoff{Initial: min(initial, most, MaxDuration), Multiplier: m, Max: min(most, MaxDuration), Jitter: JitterNone}
		same := true
		for i := range n {
			wait := min(float64(initial)*math.Pow(multiplier, float64(i)), float64(most))
			same = same && wait <= float64(MaxDuration) && b.Delay(i, nil) == time.Duration(wait)
		}
		if same {
			b.Jitter = JitterProportional
			return b, true
		}
	}
	return Backoff{}, false
}

func (im *importer) hedgingPolicy(v value, p *Policy) {
	f, ok := im.fields(v, "maxAttempts", "hedgingDelay", "nonFatalStatusCodes")
	if !ok {
		return
	}
	p.Idempotency = classify.Idempotent
	p.Retry = Retry{Off: true, MaxAttempts: im.attempts(f["maxAttempts"]), Codes: im.codes(f["nonFatalStatusCodes"])}
	if len(p.Retry.Codes) == 0 {
		p.Classifier = ClassifierNone
	}
	p.Hedge.Delay = NoWait
	if d := f["hedgingDelay"]; d.given() {
		switch delay, ok := im.duration(d); {
		case !ok:
		case delay < 0 || delay > MaxDuration:
			im.bad(d, "must be between 0 and %v, got %s", MaxDuration, d)
		case delay > 0:
			p.Hedge.Delay = delay
		}
	}
}

// throttling defines a budget, and has every policy name it.
func (im *importer) throttling(v value) {
	f, ok := im.fields(v, "maxTokens", "tokenRatio")
	if !ok {
		return
	}
	tokens, ratio := im.above(f["maxTokens"], 0.001), im.above(f["tokenRatio"], 0.001)
	if tokens > 1000 {
		im.bad(f["maxTokens"], "must be at most 1000, got %v", tokens)
	}
	// More than there can be is as good as all there can be.
	ratio = min(ratio, 1000)
	im.set.Budgets = []NamedBudget{{Name: RetryThrottling, Throttle: &budget.ThrottleConfig{MaxTokens: tokens, TokenRatio: ratio}}}
	for i := range im.set.Rules {
		im.set.Rules[i].Policy.Budget = RetryThrottling
	}
}

// isText adds a fault and reports false if the document is no text that JSON can be.
func (im *importer) isText() bool {
	bad := func(at int, format string, args ...any) bool {
		im.bad(value{at: at}, format, args...)
		return false
	}
	text := string(im.document)
	switch {
	case strings.HasPrefix(text, "\xff\xfe"), strings.HasPrefix(text, "\xfe\xff"):
		return bad(0, "is UTF-16: save the file as UTF-8")
	case strings.HasPrefix(text, "\ufeff"):
		return bad(0, "begins with a byte order mark, which gRPC refuses: save the file without it")
	case strings.Trim(text, space) == "":
		return bad(0, "is empty: a service config without methods is {}")
	}
	for at, r := range text {
		if r != utf8.RuneError {
			continue
		}
		if _, size := utf8.DecodeRuneInString(text[at:]); size == 1 {
			return bad(at, "is not UTF-8, because of the byte 0x%02x (is it Latin-1?): save the file as UTF-8", text[at])
		}
	}
	return true
}

func (im *importer) syntax(err error) {
	at := len(im.document)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = max(int(syntax.Offset)-1, 0)
	}
	im.bad(value{at: at}, "%s", strings.TrimPrefix(err.Error(), "json: "))
}
