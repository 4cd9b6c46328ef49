package policy

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Proto returns s as its wire form. Nothing of a valid set is lost: FromProto returns the
// same set.
func (s Set) Proto() *regov1.Set {
	m := &regov1.Set{
		Version: s.Version, Epoch: s.Epoch, Revision: s.Revision,
		RetriesOff: s.RetriesOff, HedgesOff: s.HedgesOff,
	}
	for _, r := range s.Rules {
		m.Rules = append(m.Rules, &regov1.Rule{Methods: append([]string(nil), r.Methods...), Policy: r.Policy.proto()})
	}
	for _, b := range s.Budgets {
		m.Budgets = append(m.Budgets, b.proto())
	}
	return m
}

func (p Policy) proto() *regov1.Policy {
	return &regov1.Policy{
		Name:           p.Name,
		Idempotency:    regov1.Idempotency(p.Idempotency),
		Timeout:        duration(p.Timeout),
		AttemptTimeout: duration(p.AttemptTimeout),
		WaitForReady:   p.WaitForReady,
		Retry:          p.Retry.proto(),
		Hedge:          p.Hedge.proto(),
		Budget:         p.Budget,
		Classifier:     p.Classifier,
		AsGrpc:         p.AsGRPC,
	}
}

func (r Retry) proto() *regov1.Retry {
	m := &regov1.Retry{
		Off: r.Off, MaxAttempts: int32(r.MaxAttempts), Backoff: r.Backoff.proto(),
		Reconnect: wait(r.Reconnect), StopChain: r.StopChain,
	}
	for _, c := range r.Codes {
		m.Codes = append(m.Codes, regov1.Code(c))
	}
	if proto.Size(m) == 0 { // nothing is written; Retry has a slice, so that it cannot be compared
		return nil
	}
	return m
}

func (b Backoff) proto() *regov1.Backoff {
	if b == (Backoff{}) {
		return nil
	}
	m := &regov1.Backoff{Initial: wait(b.Initial), Multiplier: b.Multiplier, Max: duration(b.Max)}
	if b.Jitter != JitterFull {
		m.Jitter = regov1.Jitter(b.Jitter + 1)
	}
	return m
}

func (h Hedge) proto() *regov1.Hedge {
	if h == (Hedge{}) {
		return nil
	}
	return &regov1.Hedge{
		Off:          h.Off,
		MaxExtraLoad: h.MaxExtraLoad,
		Percentile:   h.Percentile,
		Delay:        wait(h.Delay),
		Trigger:      h.Trigger,
		MinDelay:     duration(h.MinDelay),
		MaxDelay:     duration(h.MaxDelay),
	}
}

func (b NamedBudget) proto() *regov1.Budget {
	m := &regov1.Budget{Name: b.Name}
	switch {
	case b.Ratio != nil:
		c := b.Ratio
		m.Kind = &regov1.Budget_Ratio{Ratio: &regov1.Ratio{Ratio: c.Ratio, MinPerSecond: c.MinPerSecond}}
	case b.TokenBucket != nil:
		c := b.TokenBucket
		m.Kind = &regov1.Budget_TokenBucket{TokenBucket: &regov1.TokenBucket{PerSecond: c.PerSecond, Burst: c.Burst}}
	case b.Throttle != nil:
		c := b.Throttle
		m.Kind = &regov1.Budget_Throttle{Throttle: &regov1.Throttle{MaxTokens: c.MaxTokens, TokenRatio: c.TokenRatio}}
	case b.Concurrency != nil:
		c := b.Concurrency
		m.Kind = &regov1.Budget_Concurrency{Concurrency: &regov1.Concurrency{Share: c.Share, Min: int32(c.Min)}}
	}
	return m
}

// duration returns the wire form of a duration whose zero means nothing.
func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// wait returns the wire form of a duration that may be NoWait, which is zero there.
func wait(d time.Duration) *durationpb.Duration {
	if d == NoWait {
		return new(durationpb.Duration)
	}
	return duration(d)
}

// FromProto returns the set of the wire form m. The error is a [Faults] with what a Set
// cannot hold: fields that this version does not know, because it could not obey them, and
// durations and numbers out of range. [Set.Compile] checks the rest.
func FromProto(m *regov1.Set) (Set, error) {
	f := &faults{list: new(Faults)}
	f.unknown(m.ProtoReflect())
	s := Set{
		Version: m.GetVersion(), Epoch: m.GetEpoch(), Revision: m.GetRevision(),
		RetriesOff: m.GetRetriesOff(), HedgesOff: m.GetHedgesOff(),
	}
	if n := max(len(m.GetRules()), len(m.GetBudgets())); n > MaxRules {
		f.add("rules", "must be at most %d with as many methods, got %d", MaxRules, n)
		return Set{}, f.err()
	}
	s.Rules = slices.Grow(s.Rules, len(m.GetRules()))
	for i, r := range m.GetRules() {
		at := f.at("rules", i)
		at.unknown(r.ProtoReflect())
		in := at.in(".policy")
		in.policy = r.GetPolicy().GetName()
		s.Rules = append(s.Rules, Rule{
			Methods: append([]string(nil), r.GetMethods()...),
			Policy:  policyFrom(r.GetPolicy(), in),
		})
	}
	for i, b := range m.GetBudgets() {
		s.Budgets = append(s.Budgets, budgetFrom(b, f.below(fmt.Sprintf("budgets[%d].", i))))
	}
	return s, f.err()
}

func policyFrom(m *regov1.Policy, f *faults) Policy {
	f.unknown(m.ProtoReflect())
	return Policy{
		Name:           m.GetName(),
		Idempotency:    classify.Idempotency(f.enum("idempotency", m.GetIdempotency())),
		Timeout:        f.durationFrom("timeout", m.GetTimeout()),
		AttemptTimeout: f.durationFrom("attempt_timeout", m.GetAttemptTimeout()),
		WaitForReady:   m.GetWaitForReady(),
		Retry:          retryFrom(m.GetRetry(), f.in("retry")),
		Hedge:          hedgeFrom(m.GetHedge(), f.in("hedge")),
		Budget:         m.GetBudget(),
		Classifier:     m.GetClassifier(),
		AsGRPC:         m.GetAsGrpc(),
	}
}

func retryFrom(m *regov1.Retry, f *faults) Retry {
	f.unknown(m.ProtoReflect())
	r := Retry{
		Off: m.GetOff(), MaxAttempts: int(m.GetMaxAttempts()),
		Reconnect: f.waitFrom("reconnect", m.GetReconnect()), StopChain: m.GetStopChain(),
	}
	if b := m.GetBackoff(); b != nil {
		in := f.in("backoff")
		in.unknown(b.ProtoReflect())
		r.Backoff = Backoff{
			Initial:    in.waitFrom("initial", b.GetInitial()),
			Multiplier: b.GetMultiplier(),
			Max:        in.durationFrom("max", b.GetMax()),
		}
		if j := in.enum("jitter", b.GetJitter()); j > 0 {
			r.Backoff.Jitter = Jitter(j - 1)
		}
	}
	for i, c := range m.GetCodes() {
		if c < 0 {
			f.at("codes", i).add("", "is not an error code: %d", c)
		}
		r.Codes = append(r.Codes, codes.Code(c))
	}
	return r
}

func hedgeFrom(m *regov1.Hedge, f *faults) Hedge {
	f.unknown(m.ProtoReflect())
	return Hedge{
		Off:          m.GetOff(),
		MaxExtraLoad: m.GetMaxExtraLoad(),
		Percentile:   m.GetPercentile(),
		Delay:        f.waitFrom("delay", m.GetDelay()),
		Trigger:      m.GetTrigger(),
		MinDelay:     f.durationFrom("min_delay", m.GetMinDelay()),
		MaxDelay:     f.durationFrom("max_delay", m.GetMaxDelay()),
	}
}

func budgetFrom(m *regov1.Budget, f *faults) NamedBudget {
	f.unknown(m.ProtoReflect())
	b := NamedBudget{Name: m.GetName()}
	switch k := m.GetKind().(type) {
	case *regov1.Budget_Ratio:
		f.in("ratio").unknown(k.Ratio.ProtoReflect())
		b.Ratio = &budget.RatioConfig{Ratio: k.Ratio.GetRatio(), MinPerSecond: k.Ratio.GetMinPerSecond()}
	case *regov1.Budget_TokenBucket:
		f.in("token_bucket").unknown(k.TokenBucket.ProtoReflect())
		b.TokenBucket = &budget.TokenBucketConfig{PerSecond: k.TokenBucket.GetPerSecond(), Burst: k.TokenBucket.GetBurst()}
	case *regov1.Budget_Throttle:
		f.in("throttle").unknown(k.Throttle.ProtoReflect())
		b.Throttle = &budget.ThrottleConfig{MaxTokens: k.Throttle.GetMaxTokens(), TokenRatio: k.Throttle.GetTokenRatio()}
	case *regov1.Budget_Concurrency:
		f.in("concurrency").unknown(k.Concurrency.ProtoReflect())
		b.Concurrency = &budget.ConcurrencyConfig{Share: k.Concurrency.GetShare(), Min: int(k.Concurrency.GetMin())}
	}
	return b
}

// durationFrom returns d, and adds a fault if it is one that a policy cannot have.
func (f *faults) durationFrom(field string, d *durationpb.Duration) time.Duration {
	if m := d.ProtoReflect(); len(m.GetUnknown()) > 0 {
		f.in(field).unknown(m)
	}
	switch {
	case d == nil:
		return 0
	case d.CheckValid() != nil:
		f.add(field, "must be between 0 and %v, got %d s and %d ns", MaxDuration, d.GetSeconds(), d.GetNanos())
		return 0
	case d.GetSeconds() < 0 || d.GetNanos() < 0 || d.GetSeconds() > int64(MaxDuration/time.Second):
		f.add(field, "must be between 0 and %v, got %v", MaxDuration, d.AsDuration())
		return 0
	}
	return d.AsDuration()
}

func (f *faults) waitFrom(field string, d *durationpb.Duration) time.Duration {
	if v := f.durationFrom(field, d); v != 0 || d == nil || d.GetSeconds() != 0 || d.GetNanos() != 0 {
		return v
	}
	return NoWait
}

// enum returns the number of v, or zero and a fault if v is none of the enum's.
func (f *faults) enum(field string, v protoreflect.Enum) protoreflect.EnumNumber {
	n := v.Number()
	if v.Descriptor().Values().ByNumber(n) == nil {
		f.add(field, "unknown value %d", n)
		return 0
	}
	return n
}

// unknown adds a fault for each field of m itself that this version does not know.
func (f *faults) unknown(m protoreflect.Message) {
	for b := m.GetUnknown(); len(b) > 0; {
		n, _, size := protowire.ConsumeField(b)
		if size < 0 {
			break
		}
		f.add("", "field %d of %s is not known to this version", n, m.Descriptor().Name())
		b = b[size:]
	}
}
