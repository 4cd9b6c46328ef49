package otelobs

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/rego-go/rego/interceptor"
)

// Watch adds what an interceptor knows of itself: calls, attempts and denials by what became
// of them, budgets, hedging and the state of its policies. It is read when metrics are
// collected, and costs calls nothing. Several interceptors of one process need Metrics and a
// meter provider each, or their numbers fall together. The interceptor is kept until the
// registration is given up.
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
	methods map[methodSeries]*carriedMethod
	budgets map[budgetSeries]*carriedBudget
}

// What is counted of a target.
type (
	methodSeries struct{ target, name string }
	budgetSeries struct {
		target, name string
		kind         interceptor.BudgetKind
	}
)

// A target that is gone and is back begins to count anew. A counter must not go back, so what
// it had come to at the last collection is carried over.
type (
	carriedMethod struct{ last, carried interceptor.MethodState }
	carriedBudget struct{ last, carried interceptor.BudgetState }
)

func (c *carriedMethod) add(m *interceptor.MethodState) interceptor.MethodState {
	if !c.last.Since.Equal(m.Since) {
		c.carried.Add(&c.last)
	}
	c.last = *m
	sum := *m
	sum.Add(&c.carried)
	sum.ReplayBytes = m.ReplayBytes // is no count
	return sum
}

func (c *carriedBudget) add(b *interceptor.BudgetState) {
	if !c.last.Since.Equal(b.Since) {
		c.carried.Granted += c.last.Granted
		c.carried.Denied += c.last.Denied
	}
	c.last = *b
	b.Granted += c.carried.Granted
	b.Denied += c.carried.Denied
}

// carryOver makes the counts of a state go on where they were at the last collection. Those of
// targets that are gone are forgotten.
func (w *watch) carryOver(s *interceptor.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	methods, budgets := w.methods, w.budgets
	w.methods, w.budgets = make(map[methodSeries]*carriedMethod), make(map[budgetSeries]*carriedBudget)
	for _, t := range s.Targets {
		for i := range t.Budgets {
			b := &t.Budgets[i]
			k := budgetSeries{t.Name, b.Name, b.Kind}
			c := cmp.Or(budgets[k], new(carriedBudget))
			w.budgets[k] = c
			c.add(b)
		}
		for i := range t.Methods {
			m := &t.Methods[i]
			k := methodSeries{t.Name, m.Method}
			c := cmp.Or(methods[k], new(carriedMethod))
			w.methods[k] = c
			*m = c.add(m)
		}
	}
}

func (w *watch) observe(_ context.Context, o metric.Observer) error {
	s := w.interceptor.Counters()
	w.carryOver(&s)
	for _, t := range s.Targets {
		for i := range t.Budgets {
			w.observeBudget(o, t.Name, &t.Budgets[i])
		}
		w.observeMethods(o, &t)
	}
	state, version := s.Policies.State().String(), s.Policies.Version
	o.ObserveFloat64(w.policy, 1, with(policyState.String(state), policyVersion.String(version)))
	o.ObserveFloat64(w.age, s.Policies.Age(time.Now()).Seconds())
	o.ObserveInt64(w.refusals, s.Policies.Refusals)
	return nil
}

// observeMethods observes the methods of a target. Those that are not the program's own fall
// together.
func (w *watch) observeMethods(o metric.Observer, t *interceptor.TargetState) {
	var other interceptor.MethodState
	for i := range t.Methods {
		m := &t.Methods[i]
		if !m.Registered {
			other.Add(m)
			continue
		}
		w.observeCounts(o, t.Name, m)
		w.observeHedging(o, methodAndTarget(m.Method, true, t.Name), m.Hedging)
	}
	if calls, _ := other.Total(); calls > 0 {
		w.observeCounts(o, t.Name, &other)
	}
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
