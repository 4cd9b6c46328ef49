package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestJaeger makes the calls, and reads their traces back from a real Jaeger.
func TestJaeger(t *testing.T) {
	j := startJaeger(t)
	traces, err := run(t.Context(), j.otlp, t.Output())
	require.NoError(t, err)

	for _, c := range []struct {
		call  string
		spans int
		want  string
	}{
		{"refused, then recovers", 4, `
rego-example internal refused, then recovers
  rego-example internal rego.test.v1.TestService/Get: fine
      attempt.count=1 end.reason=succeeded idempotency=no-side-effects policy.name=patient
      method=rego.test.v1.TestService/Get response.status_code=OK system.name=grpc
    rego-example client Attempt.rego.test.v1.TestService/Get: fine
        attempt.kind=original attempt.number=1 attempt.result=won attempt.unreachable=some delivery=answered outcome=success
        method=rego.test.v1.TestService/Get response.status_code=OK system.name=grpc
        @event=rego.reconnect rego.wait.duration=5
      rego-example-server server rego.test.v1.TestService/Get
`},
		{"pushback", 6, `
rego-example internal pushback
  rego-example internal rego.test.v1.TestService/Get: fine
      attempt.count=2 end.reason=succeeded idempotency=no-side-effects policy.name=patient
      method=rego.test.v1.TestService/Get response.status_code=OK system.name=grpc
      @event=rego.wait rego.wait.duration=0.03 rego.wait.reason=pushback
    rego-example client Attempt.rego.test.v1.TestService/Get ERROR: UNAVAILABLE
        attempt.kind=original attempt.number=1 attempt.result=failed delivery=answered outcome.reason=server-asked outcome=retryable
        method=rego.test.v1.TestService/Get response.status_code=UNAVAILABLE system.name=grpc
        @event=rego.hint rego.hint.delay=0.03 rego.hint.kind=pushback
      rego-example-server server rego.test.v1.TestService/Get ERROR
    rego-example client Attempt.rego.test.v1.TestService/Get: fine
        attempt.kind=retry attempt.number=2 attempt.result=won delivery=answered outcome=success wait.duration=0.03 wait.reason=pushback
        method=rego.test.v1.TestService/Get response.status_code=OK system.name=grpc
      rego-example-server server rego.test.v1.TestService/Get
`},
		{"connection killed, not idempotent", 4, `
rego-example internal connection killed, not idempotent
  rego-example internal rego.test.v1.TestService/Pay ERROR: UNAVAILABLE
      attempt.count=1 end.reason=not-idempotent idempotency=unknown policy.name=patient
      method=rego.test.v1.TestService/Pay response.status_code=UNAVAILABLE system.name=grpc
    rego-example client Attempt.rego.test.v1.TestService/Pay ERROR: UNAVAILABLE
        attempt.kind=original attempt.number=1 attempt.result=failed delivery=unknown outcome.reason=not-idempotent outcome=non-retryable
        method=rego.test.v1.TestService/Pay response.status_code=UNAVAILABLE system.name=grpc
      rego-example-server server rego.test.v1.TestService/Pay ERROR
`},
		{"budget spent", 4, `
rego-example internal budget spent
  rego-example internal rego.test.v1.TestService/Put ERROR: UNAVAILABLE
      attempt.count=1 end.reason=budget-denied idempotency=idempotent policy.name=out-of-budget
      method=rego.test.v1.TestService/Put response.status_code=UNAVAILABLE system.name=grpc
      @event=rego.denial rego.attempt.kind=retry rego.denial.reason=budget-denied rego.wait.duration=0.5
    rego-example client Attempt.rego.test.v1.TestService/Put ERROR: UNAVAILABLE
        attempt.kind=original attempt.number=1 attempt.result=failed delivery=answered outcome.reason=unavailable outcome=retryable
        method=rego.test.v1.TestService/Put response.status_code=UNAVAILABLE system.name=grpc
      rego-example-server server rego.test.v1.TestService/Put ERROR
`},
		{"slow, and hedged", 6, `
rego-example internal slow, and hedged
  rego-example internal rego.test.v1.TestService/Get: fine
      attempt.count=2 end.reason=succeeded idempotency=no-side-effects policy.name=hedged
      method=rego.test.v1.TestService/Get response.status_code=OK system.name=grpc
    rego-example client Attempt.rego.test.v1.TestService/Get: fine
        attempt.kind=original attempt.number=1 attempt.result=lost delivery=unknown outcome.reason=call-decided outcome=abort wasted.duration=some
        method=rego.test.v1.TestService/Get response.status_code=CANCELLED system.name=grpc
        @event=rego.cancel
      rego-example-server server rego.test.v1.TestService/Get
    rego-example client Attempt.rego.test.v1.TestService/Get: fine, beside 1
        attempt.kind=hedge attempt.number=2 attempt.result=won delivery=answered outcome=success wait.duration=0.1 wait.reason=hedge-delay
        method=rego.test.v1.TestService/Get response.status_code=OK system.name=grpc
      rego-example-server server rego.test.v1.TestService/Get
`},
		{"a stream that breaks and is resumed", 6, `
rego-example internal a stream that breaks and is resumed
  rego-example internal rego.test.v1.TestService/Watch: fine
      attempt.count=2 end.reason=succeeded idempotency=idempotent policy.name=patient
      method=rego.test.v1.TestService/Watch response.status_code=OK system.name=grpc
      @event=rego.commit rego.commit.reason=answer
      @event=rego.wait rego.wait.duration=0.5 rego.wait.reason=backoff
      @event=rego.commit rego.commit.reason=answer
    rego-example client Attempt.rego.test.v1.TestService/Watch ERROR: UNAVAILABLE
        attempt.kind=original attempt.number=1 attempt.result=failed delivery=unknown outcome.reason=unavailable outcome=retryable
        method=rego.test.v1.TestService/Watch response.status_code=UNAVAILABLE system.name=grpc
      rego-example-server server rego.test.v1.TestService/Watch ERROR
    rego-example client Attempt.rego.test.v1.TestService/Watch: fine
        attempt.kind=retry attempt.number=2 attempt.result=won attempt.resumed=true delivery=answered outcome=success wait.duration=0.5 wait.reason=backoff
        method=rego.test.v1.TestService/Watch response.status_code=OK system.name=grpc
      rego-example-server server rego.test.v1.TestService/Watch
`},
	} {
		assert.Equal(t, c.want, j.trace(t, traces[c.call], c.spans), c.call)
		if *record != "" {
			j.keep(t, *record, c.call, traces[c.call])
		}
	}
}
