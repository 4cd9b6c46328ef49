package policy

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
)

// Field is a field of a policy, for people to read.
type Field struct {
	// Name is the field's path in files, such as "retry.max_attempts".
	Name string
	// Value is the value in force. If no value is in force, it says so in words.
	Value string
	// Written says that the policy has the field, so the value is not only the default.
	Written bool
}

// Fields returns all fields of p in the order of files. Fields that p does not have are
// there with their defaults.
func (p Policy) Fields() []Field {
	var list []Field
	full := p.withDefaults()
	add := func(name string, value any, written bool, absent string) {
		f := Field{name, fmt.Sprint(value), written}
		if !written && absent != "" {
			f.Value = absent
		}
		list = append(list, f)
	}
	add("name", p.Name, p.Name != "", "none")
	add("idempotency", p.Idempotency, p.Idempotency != 0, "as the method's proto file says")
	add("timeout", p.Timeout, p.Timeout != 0, "the caller's deadline")
	add("attempt_timeout", p.AttemptTimeout, p.AttemptTimeout != 0, "none")
	add("wait_for_ready", p.WaitForReady, p.WaitForReady, "")
	add("retry.off", p.Retry.Off, p.Retry.Off, "")
	add("retry.max_attempts", full.Retry.MaxAttempts, p.Retry.MaxAttempts != 0, "")
	add("retry.backoff.initial", waitOf(full.Retry.Backoff.Initial), p.Retry.Backoff.Initial != 0, "")
	add("retry.backoff.multiplier", full.Retry.Backoff.Multiplier, p.Retry.Backoff.Multiplier != 0, "")
	add("retry.backoff.max", full.Retry.Backoff.Max, p.Retry.Backoff.Max != 0, "")
	add("retry.backoff.jitter", full.Retry.Backoff.Jitter, p.Retry.Backoff.Jitter != 0, "")
	add("retry.codes", codeNames(p.Retry.Codes), len(p.Retry.Codes) > 0, "gRPC's table")
	add("retry.reconnect", waitOf(full.Retry.Reconnect), p.Retry.Reconnect != 0, "")
	add("retry.stop_chain", p.Retry.StopChain, p.Retry.StopChain, "")
	add("hedge.off", p.Hedge.Off, p.Hedge.Off, "")
	add("hedge.max_extra_load", p.Hedge.MaxExtraLoad, p.Hedge.MaxExtraLoad != 0, "none")
	add("hedge.percentile", p.Hedge.Percentile, p.Hedge.Percentile != 0, "none")
	add("hedge.delay", waitOf(p.Hedge.Delay), p.Hedge.Delay != 0, "none")
	add("hedge.trigger", p.Hedge.Trigger, p.Hedge.Trigger != "", "none")
	add("hedge.min_delay", full.Hedge.MinDelay, p.Hedge.MinDelay != 0, "")
	add("hedge.max_delay", p.Hedge.MaxDelay, p.Hedge.MaxDelay != 0, "none")
	add("budget", p.Budget, p.Budget != "", "the target's own")
	add("classifier", p.Classifier, p.Classifier != "", "that of retry.codes")
	add("as_grpc", p.AsGRPC, p.AsGRPC, "")
	return list
}

// codeNames spells codes as files do.
func codeNames(list []codes.Code) string {
	names := make([]string, len(list))
	for i, c := range list {
		names[i] = classify.CodeName(c)
	}
	return strings.Join(names, ", ")
}

func waitOf(d time.Duration) string {
	if d == NoWait {
		return "no wait"
	}
	return d.String()
}
