package otelobs

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"
)

// All names that this package gives to attributes and span events. They are part
// of the compatibility promise, and docs/telemetry.md lists the same ones.

// Of OpenTelemetry's RPC conventions.
const (
	rpcSystemName         key = "rpc.system.name"
	rpcMethod             key = "rpc.method"
	rpcResponseStatusCode key = "rpc.response.status_code"
	errorType             key = "error.type"
	serverAddress         key = "server.address"
	serverPort            key = "server.port"
	networkPeerAddress    key = "network.peer.address"
	networkPeerPort       key = "network.peer.port"
)

// Of gRFC A72.
const previousRPCAttempts key = "previous-rpc-attempts"

// Of gRFC A66, on metrics.
const (
	grpcMethod key = "grpc.method"
	grpcTarget key = "grpc.target"
)

// Of rego, on metrics.
const (
	budgetKind  key = "rego.budget.kind"
	budgetName  key = "rego.budget.name"
	policyState key = "rego.policy.state"
)

// Of rego.
const (
	policyName    key = "rego.policy.name"
	policyVersion key = "rego.policy.version"
	idempotency   key = "rego.idempotency"
	endReason     key = "rego.end.reason"
	attemptCount  key = "rego.attempt.count"

	attemptNumber key = "rego.attempt.number"
	attemptKind   key = "rego.attempt.kind"
	attemptResult key = "rego.attempt.result"
	attemptResume key = "rego.attempt.resumed"
	unreachable   key = "rego.attempt.unreachable"
	backend       key = "rego.backend"
	noOther       key = "rego.backend.no_other"
	delivery      key = "rego.delivery"
	outcome       key = "rego.outcome"
	outcomeReason key = "rego.outcome.reason"

	waitDuration   key = "rego.wait.duration"
	waitReason     key = "rego.wait.reason"
	wastedDuration key = "rego.wasted.duration"
	denialReason   key = "rego.denial.reason"
	commitReason   key = "rego.commit.reason"
	hintKind       key = "rego.hint.kind"
	hintDelay      key = "rego.hint.delay"
)

// Span events.
const (
	waitEvent   = "rego.wait"
	denialEvent = "rego.denial"
	hintEvent   = "rego.hint"
	cancelEvent = "rego.cancel"
	commitEvent = "rego.commit"
	reconnEvent = "rego.reconnect"
)

// key is the name of an attribute. All attributes are made by its methods.
type key string

// String makes an attribute of text. Names of methods and of backends may be any bytes; but one
// value that is no UTF-8 would make Prometheus refuse a whole scrape, and OTLP a whole batch.
func (k key) String(v string) attribute.KeyValue { return attribute.Key(k).String(valid(v)) }

func (k key) Int(v int) attribute.KeyValue         { return attribute.Key(k).Int(v) }
func (k key) Bool(v bool) attribute.KeyValue       { return attribute.Key(k).Bool(v) }
func (k key) Float64(v float64) attribute.KeyValue { return attribute.Key(k).Float64(v) }

// valid puts U+FFFD in the place of what is no UTF-8.
func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
