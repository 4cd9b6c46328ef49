package otelobs

import (
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
)

// describeCall sets what is known of a call when it begins.
func describeCall(span trace.Span, t *interceptor.Timeline) {
	attrs := appendRPC(make([]attribute.KeyValue, 0, 8), t)
	if t.Policy != "" {
		attrs = append(attrs, policyName.String(t.Policy))
	}
	if t.PolicyVersion != "" {
		attrs = append(attrs, policyVersion.String(t.PolicyVersion))
	}
	span.SetAttributes(append(attrs, idempotency.String(t.Idempotency.String()))...)
}

func endCall(span trace.Span, e *interceptor.Event) {
	t := e.Timeline
	code := classify.CodeName(t.Code)
	attrs := append(make([]attribute.KeyValue, 0, 4),
		rpcResponseStatusCode.String(code),
		endReason.String(t.Reason.String()),
		attemptCount.Int(len(t.Attempts)))
	if e.Err != nil {
		attrs = append(attrs, errorType.String(code))
		span.SetStatus(otelcodes.Error, code)
	}
	span.SetAttributes(attrs...)
	span.End()
}

func describeAttempt(span trace.Span, e *interceptor.Event) {
	a := e.Attempt
	attrs := appendRPC(make([]attribute.KeyValue, 0, 10), e.Timeline)
	attrs = append(attrs,
		attemptNumber.Int(a.Number),
		attemptKind.String(a.Kind.String()),
		previousRPCAttempts.Int(a.Number-1))
	if a.Resumed {
		attrs = append(attrs, attemptResume.Bool(true))
	}
	if a.WaitedOn != interceptor.WaitNone {
		attrs = append(attrs, waitDuration.Float64(a.Wait.Seconds()), waitReason.String(a.WaitedOn.String()))
	}
	span.SetAttributes(attrs...)
}

func endAttempt(span trace.Span, a *interceptor.Attempt) {
	code := classify.CodeName(a.Code)
	attrs := append(make([]attribute.KeyValue, 0, 8),
		rpcResponseStatusCode.String(code),
		attemptResult.String(a.Result.String()),
		delivery.String(a.Delivery.String()),
		outcome.String(a.Outcome.Class.String()))
	if a.Outcome.Reason != classify.ReasonNone {
		attrs = append(attrs, outcomeReason.String(a.Outcome.Reason.String()))
	}
	attrs = appendPeer(attrs, a.Peer)
	if a.Unreachable > 0 {
		attrs = append(attrs, unreachable.Float64(a.Unreachable.Seconds()))
	}
	if a.Backend != "" {
		attrs = append(attrs, backend.String(a.Backend))
	}
	if a.NoOtherBackend {
		attrs = append(attrs, noOther.Bool(true))
	}
	if a.Result == interceptor.AttemptLost {
		attrs = append(attrs, wastedDuration.Float64(a.Wasted().Seconds()))
	}
	if f := failure(a, code); f != "" {
		attrs = append(attrs, errorType.String(f))
		span.SetStatus(otelcodes.Error, f)
	}
	span.SetAttributes(attrs...)
	if a.Hint.Kind != classify.NoHint {
		addHint(span, a.Hint)
	}
	if !a.CancelledAt.IsZero() {
		span.AddEvent(cancelEvent, trace.WithTimestamp(a.CancelledAt))
	}
	span.End()
}

// failure names how an attempt failed: by its code, or by the outcome's reason if
// the code is OK. Empty means that it did not; one that was cancelled because
// another had decided the call is no failure, whatever its code.
func failure(a *interceptor.Attempt, code string) string {
	switch {
	case !a.CancelledAt.IsZero():
		return ""
	case a.Code != codes.OK:
		return code
	case a.Result == interceptor.AttemptFailed:
		return a.Outcome.Reason.String()
	}
	return ""
}

func addWait(span trace.Span, e *interceptor.Event) {
	span.AddEvent(waitEvent, trace.WithAttributes(
		waitDuration.Float64(e.Wait.Seconds()),
		waitReason.String(e.WaitReason.String())))
}

// addReconnect tells, on the attempt, that it waits for a connection.
func addReconnect(span trace.Span, e *interceptor.Event) {
	span.AddEvent(reconnEvent, trace.WithTimestamp(e.Time), trace.WithAttributes(waitDuration.Float64(e.Wait.Seconds())))
}

func addDenial(span trace.Span, t *interceptor.Timeline) {
	d := t.Denials[len(t.Denials)-1]
	span.AddEvent(denialEvent, trace.WithAttributes(
		denialReason.String(d.Reason.String()),
		attemptKind.String(d.Kind.String()),
		waitDuration.Float64(d.Wait.Seconds())))
}

func addCommit(span trace.Span, t *interceptor.Timeline) {
	span.AddEvent(commitEvent, trace.WithAttributes(commitReason.String(t.Committed.String())))
}

// addHint tells what the server said about retries, on the attempt it answered.
func addHint(span trace.Span, h classify.Hint) {
	attrs := append(make([]attribute.KeyValue, 0, 2), hintKind.String(h.Kind.String()))
	if h.Asks() {
		attrs = append(attrs, hintDelay.Float64(h.After.Seconds()))
	}
	span.AddEvent(hintEvent, trace.WithAttributes(attrs...))
}
