package otelobs

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/rego-go/rego/interceptor"
)

// Watch adds what an interceptor counts: calls, attempts and denials by their results,
// budgets, hedging and the state of its policies. It is read when metrics are collected, and
// costs calls nothing. If a process has several interceptors, give each its own Metrics and
// its own meter provider: otherwise their numbers are mixed up. The interceptor is kept in
// memory until the registration is unregistered.
func (m *Metrics) Watch(it *interceptor.Interceptor) (metric.Registration, error) {
	f := &factory{Meter: m.meter}
	w := &watch{
		interceptor: it,

		calls: f.counter(calls), attempts: f.counter(attempts), denials: f.counter(denials),
		reconnects: f.counter(reconnects), reconnectTime: f.time(reconnectTime), wasted: f.time(wastedTime),
		replay: f.level(replayBytes),

		balance: f.gauge(budgetBalance), granted: f.counter(budgetGranted), denied: f.counter(budgetDenied),

		delay: f.gauge(hedgeDelay), extra: f.gauge(hedgeExtraLoad), maxExtra: f.gauge(hedgeMaxExtraLoad), waiting: f.level(hedgeWaiting),

		policy: f.gauge(policyInfo), age: f.gauge(policyAge), refusals: f.counter(policyRefusals),
	}
	if f.err != nil {
		return nil, fmt.Errorf("rego: metrics: %w", f.err)
	}
	r, err := m.meter.RegisterCallback(w.observe, f.all...)
	if err != nil {
		return nil, fmt.Errorf("rego: metrics: %w", err)
	}
	return r, nil
}

// watch is an interceptor whose state is read.
type watch struct {
	interceptor *interceptor.Interceptor

	calls, attempts, denials, reconnects metric.Int64Observable
	reconnectTime, wasted                metric.Float64Observable
	replay                               metric.Int64Observable

	balance         metric.Float64Observable
	granted, denied metric.Int64Observable

	delay, extra, maxExtra metric.Float64Observable
	waiting                metric.Int64Observable

	policy, age metric.Float64Observable
	refusals    metric.Int64Observable

	mu      sync.Mutex
	targets map[string]*carriedTarget
}

func (w *watch) observe(_ context.Context, o metric.Observer) error {
	s := w.counters()
	for i := range s.Targets {
		t := &s.Targets[i]
		for j := range t.Budgets {
			w.observeBudget(o, t.Name, &t.Budgets[j])
		}
		for j := range t.Methods {
			m := &t.Methods[j]
			w.observeCounts(o, t.Name, m)
			w.observeHedging(o, methodAndTarget(m.Method, true, t.Name), m.Hedging)
		}
	}
	state, version := s.Policies.State().String(), s.Policies.Version
	o.ObserveFloat64(w.policy, 1, with(policyState.String(state), policyVersion.String(version)))
	o.ObserveFloat64(w.age, s.Policies.Age(time.Now()).Seconds())
	o.ObserveInt64(w.refusals, s.Policies.Refusals)
	return nil
}

// counters returns the counters with counts that do not go back, and what somebody may have made
// up the names of added up. It is one look after the other, so that none carries over what is older.
func (w *watch) counters() interceptor.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.interceptor.Counters()
	targets := w.targets
	w.targets = make(map[string]*carriedTarget, len(s.Targets))
	for i := range s.Targets {
		t := &s.Targets[i]
		c := targets[t.Name]
		if c == nil {
			c = newCarriedTarget()
		}
		w.targets[t.Name] = c
		c.carryOver(t)
	}
	return s
}

func (w *watch) observeCounts(o metric.Observer, target string, m *interceptor.MethodState) {
	all := with(methodAndTarget(m.Method, m.Registered, target)...)
	for _, c := range m.Calls {
		o.ObserveInt64(w.calls, c.Count, all, with(rpcResponseStatusCode.String(metricCode(c.Code)), endReason.String(c.Reason.String())))
	}
	for _, a := range m.Attempts {
		said := []attribute.KeyValue{
			attemptKind.String(a.Kind.String()), attemptResult.String(a.Result.String()),
			delivery.String(a.Delivery.String()), rpcResponseStatusCode.String(metricCode(a.Code)),
		}
		if a.WaitedOn != interceptor.WaitNone {
			said = append(said, waitReason.String(a.WaitedOn.String()))
		}
		o.ObserveInt64(w.attempts, a.Count, all, with(said...))
	}
	for _, d := range m.Denials {
		o.ObserveInt64(w.denials, d.Count, all, with(attemptKind.String(d.Kind.String()), denialReason.String(d.Reason.String())))
	}
	o.ObserveInt64(w.reconnects, m.Reconnects, all)
	o.ObserveFloat64(w.reconnectTime, m.Unreachable.Seconds(), all)
	o.ObserveFloat64(w.wasted, m.Wasted.Seconds(), all)
	o.ObserveInt64(w.replay, m.ReplayBytes, all)
}

func (w *watch) observeHedging(o metric.Observer, of []attribute.KeyValue, h *interceptor.HedgingState) {
	if h == nil {
		return
	}
	all := with(of...)
	if h.Delay > 0 {
		o.ObserveFloat64(w.delay, h.Delay.Seconds(), all)
	}
	if h.MaxExtraLoad > 0 {
		o.ObserveFloat64(w.extra, h.ExtraLoad, all)
		o.ObserveFloat64(w.maxExtra, h.MaxExtraLoad, all)
	}
	o.ObserveInt64(w.waiting, h.Waiting, all)
}

func (w *watch) observeBudget(o metric.Observer, target string, b *interceptor.BudgetState) {
	of := with(grpcTarget.String(target), budgetKind.String(b.Kind.String()), budgetName.String(b.Name))
	if b.HasBalance {
		o.ObserveFloat64(w.balance, b.Balance, of)
	}
	o.ObserveInt64(w.granted, b.Granted, of)
	o.ObserveInt64(w.denied, b.Denied, of)
}

func with(attrs ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attrs...))
}
