package policy

import (
	"slices"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Proto returns l as its wire form. Nothing of valid limits is lost: LimitsFromProto returns
// the same limits.
func (l Limits) Proto() *regov1.Limits {
	m := &regov1.Limits{
		MaxAttempts:       int32(l.MaxAttempts),
		MaxExtraLoad:      l.MaxExtraLoad,
		MaxExtraPerSecond: l.MaxExtraPerSecond,
		MaxTimeout:        duration(l.MaxTimeout),
		MinTimeout:        duration(l.MinTimeout),
		MinAttemptTimeout: duration(l.MinAttemptTimeout),
		MinBackoff:        duration(l.MinBackoff),
		MaxReconnect:      duration(l.MaxReconnect),
		Forbidden:         slices.Clone(l.Forbidden),
		Overridable:       slices.Clone(l.Overridable),
	}
	for _, of := range l.Methods {
		m.Methods = append(m.Methods, &regov1.MethodLimits{Methods: slices.Clone(of.Methods), Limits: of.Limits.Proto()})
	}
	return m
}

// LimitsFromProto returns the limits of the wire form m. The error is a [Faults] with what
// limits cannot hold, as in [FromProto]. [Limits.Validate] checks the rest.
func LimitsFromProto(m *regov1.Limits) (Limits, error) {
	f := &faults{list: new(Faults)}
	l := limitsFrom(m, f)
	for i, of := range m.GetMethods() {
		at := f.at("methods", i)
		at.unknown(of.ProtoReflect())
		in := at.in(".limits")
		if len(of.GetLimits().GetMethods()) > 0 {
			in.add("methods", "must not be given within methods")
		}
		l.Methods = append(l.Methods, MethodLimits{append([]string(nil), of.GetMethods()...), limitsFrom(of.GetLimits(), in)})
	}
	return l, f.err()
}

func limitsFrom(m *regov1.Limits, f *faults) Limits {
	f.unknown(m.ProtoReflect())
	return Limits{
		MaxAttempts:       int(m.GetMaxAttempts()),
		MaxExtraLoad:      m.GetMaxExtraLoad(),
		MaxExtraPerSecond: m.GetMaxExtraPerSecond(),
		MaxTimeout:        f.durationFrom("max_timeout", m.GetMaxTimeout()),
		MinTimeout:        f.durationFrom("min_timeout", m.GetMinTimeout()),
		MinAttemptTimeout: f.durationFrom("min_attempt_timeout", m.GetMinAttemptTimeout()),
		MinBackoff:        f.durationFrom("min_backoff", m.GetMinBackoff()),
		MaxReconnect:      f.durationFrom("max_reconnect", m.GetMaxReconnect()),
		Forbidden:         append([]string(nil), m.GetForbidden()...),
		Overridable:       append([]string(nil), m.GetOverridable()...),
	}
}
