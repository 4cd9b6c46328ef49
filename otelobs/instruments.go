package otelobs

import (
	"errors"

	"go.opentelemetry.io/otel/metric"
)

// All instruments of this package. Like the names of spans and attributes they are part of the
// compatibility promise; docs/telemetry.md lists the same ones, and so does the dashboard.

// instrument is what is to be said of one.
type instrument struct {
	name        string
	unit        string
	description string
}

// Recorded when a call ends.
var (
	callRetries = instrument{
		"grpc.client.call.retries", "{retry}",
		"Retries of a call. Calls without any are not recorded.",
	}
	callHedges = instrument{
		"grpc.client.call.hedges", "{hedge}",
		"Hedges of a call. Calls without any are not recorded.",
	}
	callRetryDelay = instrument{
		"grpc.client.call.retry_delay", "s",
		"Time in which a call waited for a retry and no attempt ran. Calls that never did are not recorded.",
	}
	callDuration = instrument{
		"rpc.client.call.duration", "s",
		"Duration of a call, all its attempts and waits included.",
	}
)

// Read from the state of the interceptors.
var (
	calls         = instrument{"rego.client.calls", "{call}", "Calls that have ended."}
	attempts      = instrument{"rego.client.attempts", "{attempt}", "Attempts that have ended."}
	denials       = instrument{"rego.client.denials", "{denial}", "Retries and hedges that were denied."}
	reconnects    = instrument{"rego.client.reconnects", "{attempt}", "Attempts that have waited for a connection."}
	reconnectTime = instrument{"rego.client.reconnect.duration", "s", "Time that attempts have waited for a connection."}
	wastedTime    = instrument{"rego.client.wasted.duration", "s", "Time that attempts ran for nothing, because another one won."}
	replayBytes   = instrument{"rego.replay.memory", "By", "Memory that streams hold to send messages again."}

	budgetBalance = instrument{"rego.budget.balance", "{attempt}", "What a budget has."}
	budgetGranted = instrument{"rego.budget.granted", "{attempt}", "Extra attempts that a budget has granted."}
	budgetDenied  = instrument{"rego.budget.denied", "{attempt}", "Extra attempts that a budget has denied."}

	hedgeDelay        = instrument{"rego.hedge.delay", "s", "Delay before a hedge that is in force."}
	hedgeExtraLoad    = instrument{"rego.hedge.extra_load", "1", "Share of hedges in the calls of the last ten seconds."}
	hedgeMaxExtraLoad = instrument{"rego.hedge.max_extra_load", "1", "Share of hedges that the policy allows."}
	hedgeWaiting      = instrument{"rego.hedge.waiting", "{hedge}", "Hedges that a budget has denied, and that ask again."}

	policyInfo     = instrument{"rego.policy.info", "{set}", "1 for the version and the state of the set in force."}
	policyAge      = instrument{"rego.policy.age", "s", "Time for which the set in force has not been known to be the newest."}
	policyRefusals = instrument{"rego.policy.refusals", "{set}", "Sets that were refused."}
)

// Buckets of histograms.
var (
	// of gRFC A96
	countBuckets = []float64{1, 2, 3, 4, 5}
	// of gRFC A66
	latencyBuckets = []float64{
		0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01,
		0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8,
		1, 2, 5, 10, 20, 50, 100,
	}
	// of OpenTelemetry's RPC conventions
	durationBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}
)

// factory makes instruments, and keeps what goes wrong.
type factory struct {
	metric.Meter
	err error
	all []metric.Observable
}

func made[T any](f *factory, i T, err error) T {
	f.err = errors.Join(f.err, err)
	return i
}

func (f *factory) counts(i instrument) metric.Int64Histogram {
	h, err := f.Int64Histogram(i.name, metric.WithUnit(i.unit), metric.WithDescription(i.description), metric.WithExplicitBucketBoundaries(countBuckets...))
	return made(f, h, err)
}

func (f *factory) seconds(i instrument, buckets []float64) metric.Float64Histogram {
	h, err := f.Float64Histogram(i.name, metric.WithUnit(i.unit), metric.WithDescription(i.description), metric.WithExplicitBucketBoundaries(buckets...))
	return made(f, h, err)
}

func (f *factory) counter(i instrument) metric.Int64Observable {
	c, err := f.Int64ObservableCounter(i.name, metric.WithUnit(i.unit), metric.WithDescription(i.description))
	f.all = append(f.all, c)
	return made(f, c, err)
}

func (f *factory) time(i instrument) metric.Float64Observable {
	c, err := f.Float64ObservableCounter(i.name, metric.WithUnit(i.unit), metric.WithDescription(i.description))
	f.all = append(f.all, c)
	return made(f, c, err)
}

func (f *factory) gauge(i instrument) metric.Float64Observable {
	g, err := f.Float64ObservableGauge(i.name, metric.WithUnit(i.unit), metric.WithDescription(i.description))
	f.all = append(f.all, g)
	return made(f, g, err)
}

func (f *factory) level(i instrument) metric.Int64Observable {
	g, err := f.Int64ObservableUpDownCounter(i.name, metric.WithUnit(i.unit), metric.WithDescription(i.description))
	f.all = append(f.all, g)
	return made(f, g, err)
}
