// Package policy says what a client does when an attempt fails: how often, how fast and how
// long it tries, and for which methods.
//
// A [Policy] is plain data: it can be printed, stored and passed around. The rule that
// surprises people: a zero field means the documented default, so the zero Policy is
// [Default] and ready for use. A policy makes a method retryable only by its Idempotency or
// its Codes.
//
// Start with [Default]. Name the methods in a [Rule], and put the rules into a [Set]. Give
// the set to the interceptor, or give it a [Store] to change the set while calls run.
package policy

import (
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
)

// Limits that Validate applies to every policy.
const (
	// MaxAttempts is the most attempts that a policy may ask for. An interceptor allows
	// fewer unless its options say otherwise.
	MaxAttempts = 100
	// MaxDuration bounds every duration of a policy.
	MaxDuration = 24 * time.Hour
	// MaxMultiplier bounds the growth of a backoff.
	MaxMultiplier = 100
	// MaxSize bounds what is parsed: files, service configs and messages, in bytes.
	MaxSize = 16 << 20
	// MaxNameLength bounds names and versions, in bytes.
	MaxNameLength = 256
)

// Policy says how calls of a method are timed, retried and hedged. The zero Policy is
// [Default].
type Policy struct {
	// Name is shown in timelines, spans and errors. It may be empty.
	Name string
	// Idempotency declares what happens if the method is repeated. Unknown, the zero value,
	// means what the method's descriptor says.
	Idempotency classify.Idempotency
	// Timeout bounds the whole call with its waits, and a stream up to its last message. The
	// caller's deadline holds, too: the earlier one wins. Zero means only the caller's
	// deadline.
	Timeout time.Duration
	// AttemptTimeout is the time after which another attempt may replace an attempt that has
	// not ended. The attempt goes on if no other can follow: it is the last of MaxAttempts,
	// its method is not known to be idempotent, or no budget pays for a retry. A call
	// without any deadline is different: there the attempt always ends, so that no call
	// hangs for ever. Zero means no attempt timeout. In a stream it counts until the header,
	// and only while the application waits.
	AttemptTimeout time.Duration
	// WaitForReady makes calls wait for a connection instead of failing while there is none,
	// as grpc.WaitForReady does, unless the call has that option itself.
	WaitForReady bool
	Retry        Retry
	Hedge        Hedge
	// Budget names the budget that extra attempts are taken from: one of the set, or one
	// that the interceptor has in code. Empty means the shared budget of the target.
	Budget string
	// Classifier names a classifier that the interceptor has in code, or is ClassifierNone.
	// Empty means Retry.Codes if there are any, and otherwise classify.GRPC.
	Classifier string
	// AsGRPC follows gRFC A6 where rego's own rules differ. A response header commits the
	// call: what fails after the header is not retried, because the server has begun to
	// answer. And every status of a hedge that is not among Retry.Codes ends the call at
	// once. FromServiceConfig sets it.
	AsGRPC bool
}

// ClassifierNone is the name of the classifier that makes every failure final. It is for
// hedging as in gRFC A6 without any nonFatalStatusCodes.
const ClassifierNone = "none"

// Retry says how failed attempts are repeated.
type Retry struct {
	// Off switches retries off, whatever the other fields say.
	Off bool
	// MaxAttempts counts every attempt of a call, the first and hedges
	// included. Zero means 3, one means no retries.
	MaxAttempts int
	// Backoff is the wait between attempts.
	Backoff Backoff
	// Codes makes attempts that failed with one of these codes retryable, whatever the
	// idempotency (gRFC A6's retryableStatusCodes). So list a code only if repeating is
	// safe: otherwise a server may do the work twice. Empty means that classify.GRPC
	// decides.
	Codes []codes.Code
	// Reconnect is how long calls wait for a connection, within their deadlines, after their
	// target has become unreachable. An attempt that waits was not sent, so it counts once
	// and takes nothing from a budget. If a target stays away longer, its calls fail at
	// once, as without rego, until it is back. Zero means 5 s, or no wait with AsGRPC.
	// NoWait means that calls do not wait.
	Reconnect time.Duration
	// StopChain is for calls that are made while serving a retry or a hedge, as
	// grpc-previous-rpc-attempts says. Such a call has one attempt and no hedges. The client
	// that sent the retry sends the next one. Without this, three attempts at each of three
	// services are 27 at the last service. Make the call with the context of the incoming
	// one: otherwise rego cannot see the retry. The call sends grpc-previous-rpc-attempts
	// on, for the service after the next.
	StopChain bool
}

// Hedge says when a second attempt is started while the first one runs, to cut the tail of a
// method's latency. The zero Hedge is off. Set at most one of MaxExtraLoad, Percentile,
// Delay and Trigger; only MaxExtraLoad and Trigger may be set together. Most users need only
// MaxExtraLoad.
//
// Only methods that are known to be idempotent are hedged. Hedges count towards
// Retry.MaxAttempts, and are taken from the same budget as retries.
type Hedge struct {
	// Off switches hedging off, whatever the other fields say.
	Off bool
	// MaxExtraLoad is the share of extra attempts that hedging may cause, 0.02 for two
	// percent. A hedge is started when an attempt takes longer than all attempts except that
	// share. budget.ExtraLoad keeps the share while latency changes. Zero means that another
	// field says when to hedge.
	MaxExtraLoad float64
	// Percentile starts a hedge when an attempt takes longer than this quantile
	// of the method's latency, 0.95 for the slowest twentieth. Only the shared
	// budget bounds the extra load. Zero means that another field says when.
	Percentile float64
	// Delay starts a hedge after a fixed time, and another one each time it has
	// passed again (gRFC A6's hedgingDelay); NoWait starts all at once. Only the
	// shared budget bounds the extra load. Zero means that another field says when.
	Delay time.Duration
	// Trigger names a trigger that the interceptor has in code. The trigger says when a
	// hedge is due, instead of a delay. Set MaxExtraLoad, too, to bound the extra load:
	// otherwise only the shared budget does. Empty means that another field says when.
	Trigger string
	// MinDelay is the shortest delay that MaxExtraLoad or Percentile may lead to. Zero means
	// 1 ms.
	MinDelay time.Duration
	// MaxDelay: while MaxExtraLoad or Percentile lead to a longer delay than this, no hedge
	// is started. Zero means no such limit.
	MaxDelay time.Duration
}

// Asked reports whether h asks for hedges, even if they are switched off.
func (h Hedge) Asked() bool {
	return h.MaxExtraLoad > 0 || h.Percentile > 0 || h.Delay != 0 || h.Trigger != ""
}

// The defaults: a zero field means these.
const (
	DefaultMaxAttempts    = 3
	DefaultInitialBackoff = 50 * time.Millisecond
	DefaultMultiplier     = 2
	DefaultMaxBackoff     = 5 * time.Second
	DefaultMinHedgeDelay  = time.Millisecond
	DefaultReconnect      = 5 * time.Second
)

// Default returns the policy of methods that no rule covers, with all defaults filled in:
// three attempts, a backoff from 50 ms doubling to 5 s with full jitter, up to 5 s of
// waiting for a target that has become unreachable, no timeouts, no hedging.
func Default() Policy { return Policy{}.withDefaults() }

// Equal reports whether both policies say the same. A zero field and its written default are
// not equal. Nil codes and empty codes are equal.
func (p Policy) Equal(o Policy) bool {
	return p.Name == o.Name && p.Idempotency == o.Idempotency && p.Timeout == o.Timeout && p.AttemptTimeout == o.AttemptTimeout &&
		p.WaitForReady == o.WaitForReady && p.Retry.equal(o.Retry) && p.Hedge == o.Hedge &&
		p.Budget == o.Budget && p.Classifier == o.Classifier && p.AsGRPC == o.AsGRPC
}

func (r Retry) equal(o Retry) bool {
	return r.Off == o.Off && r.MaxAttempts == o.MaxAttempts && r.Backoff == o.Backoff && slices.Equal(r.Codes, o.Codes) &&
		r.Reconnect == o.Reconnect && r.StopChain == o.StopChain
}

func (p Policy) withDefaults() Policy {
	if p.Retry.MaxAttempts == 0 {
		p.Retry.MaxAttempts = DefaultMaxAttempts
	}
	p.Retry.Backoff = p.Retry.Backoff.withDefaults()
	switch {
	case p.Retry.Reconnect != 0:
	case p.AsGRPC:
		p.Retry.Reconnect = NoWait
	default:
		p.Retry.Reconnect = DefaultReconnect
	}
	if p.Hedge.MinDelay == 0 {
		p.Hedge.MinDelay = DefaultMinHedgeDelay
	}
	return p
}

// Validate reports every fault of p, each with its field path, as one error, or
// nil. The error is a [Faults].
func (p Policy) Validate() error {
	var f faults
	p.validate(&f)
	return f.err()
}

func (p Policy) validate(f *faults) {
	f.name("name", p.Name)
	f.name("budget", p.Budget)
	f.name("classifier", p.Classifier)
	if !p.Idempotency.Valid() {
		f.add("idempotency", "unknown value %d", p.Idempotency)
	}
	f.duration("timeout", p.Timeout)
	f.duration("attempt_timeout", p.AttemptTimeout)
	if p.Timeout > 0 && p.AttemptTimeout > p.Timeout {
		f.add("attempt_timeout", "must not exceed timeout %v, got %v", p.Timeout, p.AttemptTimeout)
	}
	p.Retry.validate(f.in("retry"))
	p.Hedge.validate(f.in("hedge"))
	if p.Classifier != "" && len(p.Retry.Codes) > 0 {
		f.add("classifier", "must not be set beside retry.codes")
	}
}

func (r Retry) validate(f *faults) {
	if r.MaxAttempts < 0 || r.MaxAttempts > MaxAttempts {
		f.add("max_attempts", "must be between 1 and %d (0 means %d), got %d", MaxAttempts, DefaultMaxAttempts, r.MaxAttempts)
	}
	r.Backoff.validate(f.in("backoff"))
	if r.Reconnect != NoWait {
		f.duration("reconnect", r.Reconnect)
	}
	for i, c := range r.Codes {
		if c == codes.OK || c > codes.Unauthenticated {
			f.at("codes", i).add("", "is not an error code: %v", c)
		}
	}
}

func (h Hedge) validate(f *faults) {
	f.share("max_extra_load", h.MaxExtraLoad)
	f.share("percentile", h.Percentile)
	if h.Delay != NoWait {
		f.duration("delay", h.Delay)
	}
	f.name("trigger", h.Trigger)
	f.duration("min_delay", h.MinDelay)
	f.duration("max_delay", h.MaxDelay)
	if h.MaxDelay > 0 && h.MinDelay > h.MaxDelay {
		f.add("max_delay", "must be at least min_delay %v, got %v", h.MinDelay, h.MaxDelay)
	}
	set := 0
	for _, on := range []bool{h.MaxExtraLoad != 0 && h.Trigger == "", h.Percentile != 0, h.Delay != 0, h.Trigger != ""} {
		if on {
			set++
		}
	}
	if set > 1 {
		f.add("", "at most one of max_extra_load, percentile, delay and trigger may be set, but for max_extra_load beside trigger")
	}
}

func (f *faults) name(field, name string) {
	switch {
	case len(name) > MaxNameLength:
		f.add(field, "must have at most %d bytes, got %d", MaxNameLength, len(name))
	case !utf8.ValidString(name):
		f.add(field, "must be valid UTF-8, got %q", name)
	}
}

func (f *faults) duration(field string, d time.Duration) {
	if d < 0 || d > MaxDuration {
		f.add(field, "must be between 0 and %v, got %v", MaxDuration, d)
	}
}

func (f *faults) share(field string, v float64) {
	if math.IsNaN(v) || v < 0 || v >= 1 {
		f.add(field, "must be at least 0 and below 1, got %v", v)
	}
}
