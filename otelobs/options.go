package otelobs

import (
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Option configures [New].
type Option interface{ apply(*config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

type config struct {
	provider   trace.TracerProvider
	propagator propagation.TextMapPropagator
	otelgrpc   bool
}

func newConfig(opts []Option) config {
	var c config
	for _, o := range opts {
		o.apply(&c)
	}
	if c.provider == nil {
		c.provider = otel.GetTracerProvider()
	}
	if c.propagator == nil {
		c.propagator = otel.GetTextMapPropagator()
	}
	return c
}

// WithTracerProvider sets where spans go. Default, and for nil:
// otel.GetTracerProvider, also if it is set after [New].
func WithTracerProvider(p trace.TracerProvider) Option {
	return optionFunc(func(c *config) { c.provider = p })
}

// WithPropagator sets how the trace context is written into the metadata of
// attempts. Default, and for nil: otel.GetTextMapPropagator, also if it is set
// after [New]. OpenTelemetry's own default writes nothing.
func WithPropagator(p propagation.TextMapPropagator) Option {
	return optionFunc(func(c *config) { c.propagator = p })
}

// WithOtelgrpcBelow says that the connections have otelgrpc's client stats
// handler. It makes a CLIENT span below each attempt's and writes that one's
// context into the metadata; attempts become INTERNAL, and the observer writes
// nothing. Default: there is no otelgrpc on the client's side. With otelgrpc and
// without this option server spans are in the right place too, but an attempt
// has two CLIENT spans.
func WithOtelgrpcBelow() Option {
	return optionFunc(func(c *config) { c.otelgrpc = true })
}
