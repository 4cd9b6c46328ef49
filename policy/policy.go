// Package policy says what a client does when an attempt fails: how often, how
// fast and how long it tries, for which methods.
//
// A [Policy] is plain data: it can be printed, kept and handed around. The
// rule that surprises people: zero fields mean the documented default, so the
// zero Policy is [Default] and is ready for use. A policy never makes a method
// retryable by itself; that takes its Idempotency or its Codes.
//
// Start with [Default], name the methods in a [Rule], put the rules in a [Set],
// and hand the set (or a [Store], to change it while calls run) to the
// interceptor.
package policy

import (
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
)

// Limits that Validate holds every policy to.
const (
	// MaxAttempts is the most attempts a policy may ask for. An interceptor
	// allows fewer unless told otherwise.
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

// Policy is the resilience envelope of a method.
type Policy struct {
	// Name is shown in timelines, spans and errors. It may be empty.
	Name string
	// Idempotency declares what repeating the method does. Unknown, the zero
	// value, leaves it to the method's descriptor.
	Idempotency classify.Idempotency
	// Timeout bounds the whole call, waits included, of a stream to its last
	// message. The caller's deadline holds too: the earlier wins. Zero means the
	// caller's deadline alone.
	Timeout time.Duration
	// AttemptTimeout is when an attempt that has not ended makes place for another
	// one. An attempt that no other can follow goes on: the last of MaxAttempts, one
	// of a method that is not known to be idempotent, one whose retry no budget pays
	// for. Only in a call that has no deadline at all is it ended then, so that no
	// call hangs for ever. Zero means no such time. Of a stream it counts until the
	// first message, and only while the application waits for that.
	AttemptTimeout time.Duration
	// WaitForReady has calls wait for a connection instead of failing while there
	// is none, as grpc.WaitForReady does, unless the call gives that option itself.
	WaitForReady bool
	Retry        Retry
	Hedge        Hedge
	// Budget names the budget that extra attempts are taken from: one of the set,
	// or one that the interceptor has in code. Empty means the shared budget of the
	// target.
	Budget string
	// Classifier names a classifier that the interceptor has in code, or is
	// ClassifierNone. Empty means Retry.Codes if there are any, and else
	// classify.GRPC.
	Classifier string
	// AsGRPC keeps to gRFC A6 where rego's own rules differ from it. A response header
	// commits the call: what fails after one is not retried, since the server has
	// begun to answer. And every status of a hedge that is not among Retry.Codes ends
	// the call at once. FromServiceConfig sets it.
	AsGRPC bool
}

// ClassifierNone is the name of the classifier to which every failure is final. It
// is for hedging as gRFC A6 has it, without any nonFatalStatusCodes.
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
	// Codes makes attempts that failed with one of these retryable, whatever
	// the idempotency (gRFC A6's retryableStatusCodes). Empty means
	// classify.GRPC decides.
	Codes []codes.Code
	// Reconnect is how long calls wait for a connection, within their deadlines, after
	// their target has become unreachable. An attempt that waits has not been sent, so it
	// counts once and takes nothing from a budget. A target that stays away longer has its
	// calls fail at once, as without rego, until it is back. Zero means 5 s, and with
	// AsGRPC no wait; NoWait means that calls do not wait.
	Reconnect time.Duration
	// StopChain makes one attempt, and no hedges, of a call that is made while serving one
	// which is itself a retry or a hedge, as its grpc-previous-rpc-attempts says: whoever
	// sent that sends the next one, too, and three attempts at each of three services
	// would be 27 at the last. The call needs the context of the incoming one, and carries
	// its grpc-previous-rpc-attempts on, for the service after the next.
	StopChain bool
}

// Hedge says when a second attempt is started beside a running one, to cut the
// tail of a method's latency. The zero Hedge is off. At most one of MaxExtraLoad,
// Percentile, Delay and Trigger may be set, but for MaxExtraLoad beside Trigger: most users
// want MaxExtraLoad alone.
//
// Only methods known to be idempotent are hedged. Hedges count towards
// Retry.MaxAttempts, and are taken from the same budget as retries.
type Hedge struct {
	// Off switches hedging off, whatever the other fields say.
	Off bool
	// MaxExtraLoad is the share of extra attempts that hedging may cause, 0.02
	// for two percent. A hedge is started when an attempt takes longer than all
	// but that share do, and budget.ExtraLoad keeps to it while latency changes.
	// Zero means that another field says when to hedge.
	MaxExtraLoad float64
	// Percentile starts a hedge when an attempt takes longer than this quantile
	// of the method's latency, 0.95 for the slowest twentieth. Only the shared
	// budget bounds the extra load. Zero means that another field says when.
	Percentile float64
	// Delay starts a hedge after a fixed time, and another one each time it has
	// passed again (gRFC A6's hedgingDelay); NoWait starts all at once. Only the
	// shared budget bounds the extra load. Zero means that another field says when.
	Delay time.Duration
	// Trigger names a trigger that the interceptor has in code, and which says when a hedge
	// is due in the place of a delay. Set MaxExtraLoad beside it to bound the extra load;
	// without that only the shared budget does. Empty means that another field says when.
	Trigger string
	// MinDelay is the least time before a hedge that MaxExtraLoad or Percentile
	// may lead to. Zero means 1 ms.
	MinDelay time.Duration
	// MaxDelay is the point above which hedging stops: while MaxExtraLoad or
	// Percentile lead to a longer delay than that, no hedge is started. Zero
	// means that there is no such point.
	MaxDelay time.Duration
}

// Asked reports whether h asks for hedges, switched off or not.
func (h Hedge) Asked() bool {
	return h.MaxExtraLoad > 0 || h.Percentile > 0 || h.Delay != 0 || h.Trigger != ""
}

// The defaults, which zero fields stand for.
const (
	DefaultMaxAttempts    = 3
	DefaultInitialBackoff = 50 * time.Millisecond
	DefaultMultiplier     = 2
	DefaultMaxBackoff     = 5 * time.Second
	DefaultMinHedgeDelay  = time.Millisecond
	DefaultReconnect      = 5 * time.Second
)

// Default returns the policy of methods that no rule covers, spelled out: three
// attempts, backoff from 50 ms doubling to 5 s with full jitter, up to 5 s of waiting for
// a target that has become unreachable, no timeouts, no hedging.
func Default() Policy { return Policy{}.withDefaults() }

// Equal reports whether both say the same. A zero and the default that it stands for are not the
// same, and nil codes and empty ones are.
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
