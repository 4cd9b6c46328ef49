package interceptor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/policy"
)

// timelineOf is a call of 500 ms: a failure after 100 ms, 100 ms of pushback, and
// another failure after 100 ms, after which the backoff of 200 ms does not fit.
func timelineOf(t *testing.T) (tl *interceptor.Timeline) {
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact(func(p *policy.Policy) {
			p.Name = "puts"
			p.Retry.Backoff.Initial = 250 * ms
		})))
		slow := testsrv.Delay(100 * ms)
		srv.Script(testsrv.Put, testsrv.Do(slow, pushback("100")), testsrv.Do(slow, testsrv.Fail(codes.Unavailable, "secret text")))
		ctx, cancel := context.WithTimeout(t.Context(), 500*ms)
		defer cancel()
		tl, _ = c.call(ctx, testsrv.Put)
	})
	return tl
}

func TestTimelineWaterfall(t *testing.T) {
	t.Parallel()
	want := strings.TrimPrefix(`
/rego.test.v1.TestService/Put: Unavailable after 2 attempts in 300ms (deadline-too-close), policy "puts"
  #1 original |##########                      |       0s +100ms    Unavailable, answered, retryable: server-asked
  #2 retry    |          ...........###########|    200ms +100ms    Unavailable, answered, retryable: unavailable, waited 100ms (pushback)
              |                                |    300ms  no retry: deadline-too-close (wait 250ms)`, "\n")
	assert.Equal(t, want, timelineOf(t).String())
}

// TestTimelineOfARace: attempts that overlapped are shown so.
func TestTimelineOfARace(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(after100())).ready()
		c.number(testsrv.Get, testsrv.Hang(), after(60*ms, testsrv.OK()))
		tl, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)
		want := strings.TrimPrefix(`
/rego.test.v1.TestService/Get: OK after 2 attempts in 160ms (succeeded)
  #1 original |################################|       0s +160ms    Canceled, unknown, abort: call-decided, cancelled after 160ms, 160ms of work lost
  #2 hedge    |....................############|    100ms +60ms     OK, answered, success, waited 100ms (hedge-delay)`, "\n")
		assert.Equal(t, want, tl.String())
		b, err := json.Marshal(tl)
		require.NoError(t, err)
		var got struct{ Attempts []map[string]any }
		require.NoError(t, json.Unmarshal(b, &got))
		assert.Equal(t, "lost", got.Attempts[0]["result"])
		assert.InDelta(t, 0.16, got.Attempts[0]["wasted"], 1e-9)
		assert.Equal(t, "hedge-delay", got.Attempts[1]["waited_on"])
		assert.NotContains(t, got.Attempts[1], "wasted")

		c.number(testsrv.Pay, testsrv.OK())
		tl, err = c.call(t.Context(), testsrv.Pay)
		require.NoError(t, err)
		assert.Contains(t, tl.String(), "no hedge: not-idempotent")
	})
}

func TestTimelineJSON(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(timelineOf(t))
	require.NoError(t, err)
	assert.NotContains(t, string(b), "secret")
	var got map[string]any
	require.NoError(t, json.Unmarshal(b, &got))
	assert.Equal(t, "deadline-too-close", got["reason"])
	assert.InDelta(t, 0.3, got["elapsed"], 1e-9)
	second := got["attempts"].([]any)[1].(map[string]any)
	for key, want := range map[string]any{
		"number": 2.0, "kind": "retry", "start": 0.2, "end": 0.3, "wait": 0.1, "waited_on": "pushback",
		"result": "failed", "code": "Unavailable", "delivery": "answered", "outcome": "retryable", "reason": "unavailable",
	} {
		assert.Equal(t, want, second[key], key)
	}
	assert.Equal(t, "deadline-too-close", got["denials"].([]any)[0].(map[string]any)["reason"])
}

// TestTimelineOfBackends: where attempts went, if a load-balancing policy of package spread
// says so.
func TestTimelineOfBackends(t *testing.T) {
	t.Parallel()
	tl := &interceptor.Timeline{Attempts: []interceptor.Attempt{
		{Number: 1, Backend: "10.0.0.1:443"}, {Number: 2, Kind: budget.Retry, Backend: "10.0.0.1:443", NoOtherBackend: true}, {Number: 3},
	}}
	lines := strings.Split(tl.String(), "\n")
	assert.Contains(t, lines[1], ", to 10.0.0.1:443")
	assert.NotContains(t, lines[1], "again")
	assert.Contains(t, lines[2], ", to 10.0.0.1:443 again: no other backend")
	assert.NotContains(t, lines[3], " to ")
	b, err := json.Marshal(tl)
	require.NoError(t, err)
	var got struct{ Attempts []map[string]any }
	require.NoError(t, json.Unmarshal(b, &got))
	assert.Equal(t, "10.0.0.1:443", got.Attempts[0]["backend"])
	assert.NotContains(t, got.Attempts[0], "no_other_backend")
	assert.Equal(t, true, got.Attempts[1]["no_other_backend"])
	assert.NotContains(t, got.Attempts[2], "backend")
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("call", "timeline", tl)
	assert.Contains(t, log.String(), "to 10.0.0.1:443 again: no other backend")
}

// TestTimelineOfAnything: what never was a call is drawn all the same.
func TestTimelineOfAnything(t *testing.T) {
	t.Parallel()
	now := time.Now()
	odd := interceptor.Timeline{Start: now, End: now.Add(-time.Hour), Attempts: []interceptor.Attempt{
		{Kind: budget.Hedge, Start: now.Add(time.Hour), Wait: time.Minute}, {End: now.Add(1000 * time.Hour)},
	}}
	assert.Len(t, strings.Split(odd.String(), "\n"), 3)
	_, err := json.Marshal(&odd)
	assert.NoError(t, err)
}

func TestEnumsHaveNames(t *testing.T) {
	t.Parallel()
	for r := interceptor.EndUnfinished; r <= interceptor.EndDisabled; r++ {
		assert.NotEqual(t, "invalid", r.String())
	}
	assert.Equal(t, "invalid", interceptor.EndReason(200).String())
	assert.Equal(t, "call-end", interceptor.CallEnd.String())
	assert.Equal(t, "cancelled", interceptor.AttemptCancelled.String())
	assert.Equal(t, "hedge-delay", interceptor.WaitHedgeDelay.String())
	for r := interceptor.DeniedByBudget; r <= interceptor.DeniedDisabled; r++ {
		assert.NotEqual(t, "invalid", r.String())
	}
}
