package otelobs

import (
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Option configures [New] and [NewMetrics].
type Option interface{ apply(*config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

type config struct {
	provider   trace.TracerProvider
	propagator propagation.TextMapPropagator
	otelgrpc   bool

	meters       metric.MeterProvider
	callDuration bool
	durationSaid bool
}

func newConfig(opts []Option) config {
	var c config
	for _, o := range opts {
		if o != nil {
			o.apply(&c)
		}
	}
	if c.provider == nil {
		c.provider = otel.GetTracerProvider()
	}
	if c.propagator == nil {
		c.propagator = otel.GetTextMapPropagator()
	}
	if c.meters == nil {
		c.meters = otel.GetMeterProvider()
	}
	if !c.durationSaid {
		c.callDuration = !c.otelgrpc
	}
	return c
}

// WithTracerProvider sets where spans go. Default, and for nil:
// otel.GetTracerProvider, also if it is set after [New].
func WithTracerProvider(p trace.TracerProvider) Option {
	return optionFunc(func(c *config) { c.provider = p })
}

// WithMeterProvider sets where metrics go. Default, and for nil: otel.GetMeterProvider, also if
// it is set after [NewMetrics].
func WithMeterProvider(p metric.MeterProvider) Option {
	return optionFunc(func(c *config) { c.meters = p })
}

// WithCallDuration says whether Metrics record rpc.client.call.duration, once for each call.
// Instrumentation below rego, such as otelgrpc, records the same name for each attempt. With
// both, a call of three attempts counts four times. Default: Metrics record it, unless
// [WithTracingBelow] is given.
func WithCallDuration(record bool) Option {
	return optionFunc(func(c *config) { c.callDuration, c.durationSaid = record, true })
}

// WithPropagator sets how the trace context is written into the metadata of attempts.
// Default, and for nil: otel.GetTextMapPropagator, also if it is set after New.
// OpenTelemetry's own default writes nothing.
func WithPropagator(p propagation.TextMapPropagator) Option {
	return optionFunc(func(c *config) { c.propagator = p })
}

// WithTracingBelow says that the connections are traced without rego, too: they have
// otelgrpc's client stats handler, or grpc's own plugin
// (google.golang.org/grpc/stats/opentelemetry) with a propagator. Then that makes a CLIENT
// span below each attempt's span, and writes the context of its span into the metadata.
// Spans of attempts become INTERNAL, and the observer writes no metadata. Default: there is
// no tracing below. Without this option an attempt has two CLIENT spans with otelgrpc;
// server spans are still in the right place. With the plugin an attempt has two traceparent
// headers, and the server decides which of them counts.
func WithTracingBelow() Option {
	return optionFunc(func(c *config) { c.otelgrpc = true })
}
