// Package otelobs shows the calls of an interceptor in OpenTelemetry: a span for the call,
// and below it a span for each attempt. So a trace says which attempt a server span belongs
// to, what failed, how long the call waited and why it stopped.
//
// What surprises people: OpenTelemetry's default propagator writes nothing. So call
// otel.SetTextMapPropagator or give [WithPropagator]: otherwise each server span starts a
// trace of its own. If otelgrpc's stats handler is on the same connection, give
// [WithTracingBelow], so that the two do not do the same work.
//
// Start with [New]. The names of spans, attributes and events are part of the compatibility
// promise and are listed in docs/telemetry.md. None of them ever holds request content,
// metadata values or what a server says in an error.
package otelobs

import (
	"context"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.39.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/rego-go/rego/interceptor"
)

// ScopeName is the instrumentation scope of spans and metrics.
const ScopeName = "github.com/rego-go/rego/otelobs"

// Observer makes spans of calls and attempts. The call's span is INTERNAL and named
// pkg.Service/Method. Spans of attempts are CLIENT and named Attempt.pkg.Service/Method.
// Their contexts are written into the attempts' metadata. Waits, denials and the commit of a
// stream are events of the call. What a server says about retries, and a wait for a
// connection, are events of the attempt. A hedge is linked to the attempts that ran when it
// was started.
//
// A call that is not sampled costs one question to the sampler, and its attempts carry the
// call's context. Samplers see the name of a span, but no attributes.
//
// An Observer is safe for concurrent use, and may serve several interceptors.
type Observer struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator // nil if otelgrpc injects
	attempt    []trace.SpanStartOption
}

var _ interceptor.Observer = (*Observer)(nil)

// New returns an Observer for [interceptor.WithObserver]. Without options it uses the
// globals of OpenTelemetry.
func New(opts ...Option) *Observer {
	c := newConfig(opts)
	o := &Observer{
		tracer:     c.provider.Tracer(ScopeName, trace.WithSchemaURL(semconv.SchemaURL)),
		propagator: c.propagator,
		attempt:    []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)},
	}
	if c.otelgrpc {
		o.propagator, o.attempt = nil, nil // a span is INTERNAL by default
	}
	return o
}

// Start begins the span of a call or attempt and returns a context with the span.
func (o *Observer) Start(ctx context.Context, e *interceptor.Event) context.Context {
	switch e.Kind {
	case interceptor.CallStart:
		return o.startCall(ctx, e.Timeline)
	case interceptor.AttemptStart:
		return o.startAttempt(ctx, e)
	default:
		return ctx
	}
}

// Observe adds the event to its span, or ends the span.
func (o *Observer) Observe(ctx context.Context, e *interceptor.Event) {
	s := o.spans(ctx)
	if s == nil {
		return
	}
	switch e.Kind {
	case interceptor.RetryWait:
		addWait(s.call, e)
	case interceptor.ReconnectWait:
		addReconnect(s.attempt, e)
	case interceptor.AttemptDenied:
		addDenial(s.call, e.Timeline)
	case interceptor.CallCommitted:
		addCommit(s.call, e.Timeline)
	case interceptor.AttemptEnd:
		s.running = slices.DeleteFunc(s.running, func(l trace.Link) bool { return l.SpanContext.Equal(s.attempt.SpanContext()) })
		endAttempt(s.attempt, e.Attempt)
	case interceptor.CallEnd:
		endCall(s.call, e)
	default:
	}
}

// spans are the open spans of a recorded call, kept in its context and, with the
// attempt's, in those of its attempts.
type spans struct {
	*recorded
	attempt trace.Span // nil outside attempts
}

// recorded is what the attempts of a call share. Events of one call do not
// overlap, so it needs no lock.
type recorded struct {
	call    trace.Span
	running []trace.Link // to the attempts that are
	first   [1]trace.Link
}

// spansKey holds the observer, since a call can have two with providers of their
// own.
type spansKey struct{ o *Observer }

// spans returns nil if the call is not recorded.
func (o *Observer) spans(ctx context.Context) *spans {
	s, _ := ctx.Value(spansKey{o}).(*spans)
	return s
}

// startCall leaves no spans in the context of a call that is not recorded. Such
// a span needs no end.
func (o *Observer) startCall(ctx context.Context, t *interceptor.Timeline) context.Context {
	around := o.spans(ctx)
	ctx, span := o.tracer.Start(ctx, valid(strings.TrimPrefix(t.Method, "/")))
	switch {
	case span.IsRecording():
		describeCall(span, t)
		r := &recorded{call: span}
		r.running = r.first[:0]
		return context.WithValue(ctx, spansKey{o}, &spans{recorded: r})
	case around != nil:
		// A call made inside an attempt: its events are not for the spans around it.
		return context.WithValue(ctx, spansKey{o}, (*spans)(nil))
	}
	return ctx
}

// startAttempt links the span of an attempt to those that it runs beside.
func (o *Observer) startAttempt(ctx context.Context, e *interceptor.Event) context.Context {
	if s := o.spans(ctx); s != nil {
		opts := o.attempt
		if len(s.running) > 0 {
			opts = append(slices.Clip(opts), trace.WithLinks(slices.Clone(s.running)...))
		}
		var span trace.Span
		ctx, span = o.tracer.Start(ctx, "Attempt."+valid(strings.TrimPrefix(e.Timeline.Method, "/")), opts...)
		s.running = append(s.running, trace.Link{SpanContext: span.SpanContext()})
		ctx = context.WithValue(ctx, spansKey{o}, &spans{s.recorded, span})
		describeAttempt(span, e)
	}
	if o.propagator == nil {
		return ctx
	}
	return inject(ctx, o.propagator)
}
