package otelobs

import "go.opentelemetry.io/otel/attribute"

// All names that this package gives to attributes and span events. They are part
// of the compatibility promise, and docs/telemetry.md lists the same ones.

// Of OpenTelemetry's RPC conventions.
const (
	rpcSystemName         attribute.Key = "rpc.system.name"
	rpcMethod             attribute.Key = "rpc.method"
	rpcResponseStatusCode attribute.Key = "rpc.response.status_code"
	errorType             attribute.Key = "error.type"
	serverAddress         attribute.Key = "server.address"
	serverPort            attribute.Key = "server.port"
	networkPeerAddress    attribute.Key = "network.peer.address"
	networkPeerPort       attribute.Key = "network.peer.port"
)

// Of gRFC A72.
const previousRPCAttempts attribute.Key = "previous-rpc-attempts"

// Of gRFC A66, on metrics.
const (
	grpcMethod attribute.Key = "grpc.method"
	grpcTarget attribute.Key = "grpc.target"
)

// Of rego, on metrics.
const (
	budgetKind  attribute.Key = "rego.budget.kind"
	budgetName  attribute.Key = "rego.budget.name"
	policyState attribute.Key = "rego.policy.state"
)

// Of rego.
const (
	policyName    attribute.Key = "rego.policy.name"
	policyVersion attribute.Key = "rego.policy.version"
	idempotency   attribute.Key = "rego.idempotency"
	endReason     attribute.Key = "rego.end.reason"
	attemptCount  attribute.Key = "rego.attempt.count"

	attemptNumber attribute.Key = "rego.attempt.number"
	attemptKind   attribute.Key = "rego.attempt.kind"
	attemptResult attribute.Key = "rego.attempt.result"
	attemptResume attribute.Key = "rego.attempt.resumed"
	unreachable   attribute.Key = "rego.attempt.unreachable"
	backend       attribute.Key = "rego.backend"
	noOther       attribute.Key = "rego.backend.no_other"
	delivery      attribute.Key = "rego.delivery"
	outcome       attribute.Key = "rego.outcome"
	outcomeReason attribute.Key = "rego.outcome.reason"

	waitDuration   attribute.Key = "rego.wait.duration"
	waitReason     attribute.Key = "rego.wait.reason"
	wastedDuration attribute.Key = "rego.wasted.duration"
	denialReason   attribute.Key = "rego.denial.reason"
	commitReason   attribute.Key = "rego.commit.reason"
	hintKind       attribute.Key = "rego.hint.kind"
	hintDelay      attribute.Key = "rego.hint.delay"
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
