package interceptor_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// eventful is a call with all that a log can tell: a wait for a connection, a hint, a wait for a
// retry, a hedge that lost, a backend, a commit and a denial.
func eventful() *interceptor.Timeline {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := start.Add
	return &interceptor.Timeline{
		Method: testsrv.Get, Target: "dns:///shop", Policy: "reads", PolicyVersion: "v7",
		Idempotency: classify.Idempotent, Start: start, End: at(800 * ms), Reason: interceptor.EndSucceeded, Code: codes.OK,
		Committed: interceptor.CommitAnswer, CommittedAt: at(700 * ms),
		Attempts: []interceptor.Attempt{
			{Number: 1, Kind: budget.Original, Start: start, End: at(300 * ms), Result: interceptor.AttemptFailed,
				Code: codes.Unavailable, Delivery: classify.DeliveryAnswered, Unreachable: 250 * ms,
				Outcome: classify.Outcome{Class: classify.Retryable, Reason: classify.ReasonServerAsked},
				Hint:    classify.Hint{Kind: classify.HintPushback, After: 100 * ms},
				Peer:    &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 443}, Backend: "10.0.0.1:443"},
			{Number: 2, Kind: budget.Retry, Start: at(400 * ms), End: at(800 * ms), Wait: 100 * ms, WaitedOn: interceptor.WaitPushback,
				Result: interceptor.AttemptLost, CancelledAt: at(750 * ms), Code: codes.Canceled,
				Outcome: classify.Outcome{Class: classify.Abort, Reason: classify.ReasonCallDecided},
				Backend: "10.0.0.1:443", NoOtherBackend: true},
			{Number: 3, Kind: budget.Hedge, Start: at(600 * ms), End: at(800 * ms), Wait: 200 * ms, WaitedOn: interceptor.WaitBudget,
				Result: interceptor.AttemptWon, Delivery: classify.DeliveryAnswered, Resumed: true,
				Outcome: classify.Outcome{Class: classify.Success}},
		},
		Denials: []interceptor.Denial{
			{Time: at(500 * ms), Kind: budget.Hedge, Reason: interceptor.DeniedByBudget, Wait: 200 * ms},
			{Time: at(600 * ms), Kind: budget.Retry, Reason: interceptor.DeniedByDeadline},
		},
	}
}

// logged returns what a handler writes of a timeline, without the time of the line.
func logged(handler func(*bytes.Buffer, *slog.HandlerOptions) slog.Handler, tl *interceptor.Timeline) string {
	var b bytes.Buffer
	slog.New(handler(&b, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key != "timeline" {
			return slog.Attr{}
		}
		return a
	}})).Info("call", "timeline", tl)
	return strings.TrimSuffix(b.String(), "\n")
}

func asJSON(b *bytes.Buffer, o *slog.HandlerOptions) slog.Handler { return slog.NewJSONHandler(b, o) }
func asText(b *bytes.Buffer, o *slog.HandlerOptions) slog.Handler { return slog.NewTextHandler(b, o) }

func TestTimelineInALog(t *testing.T) {
	t.Parallel()
	want := `{"timeline":{"method":"/rego.test.v1.TestService/Get","target":"dns:///shop","policy":"reads","policy_version":"v7",` +
		`"idempotency":"idempotent","start":"2026-01-02T03:04:05Z","elapsed":0.8,"reason":"succeeded","code":"OK",` +
		`"committed":"answer","committed_at":0.7,"attempts":[` +
		`{"number":1,"kind":"original","start":0,"end":0.3,"result":"failed","code":"Unavailable","delivery":"answered",` +
		`"outcome":"retryable","reason":"server-asked","hint":"pushback","peer":"10.0.0.1:443","backend":"10.0.0.1:443","unreachable":0.25},` +
		`{"number":2,"kind":"retry","start":0.4,"end":0.8,"wait":0.1,"waited_on":"pushback","result":"lost","wasted":0.4,"code":"Canceled",` +
		`"delivery":"unknown","outcome":"abort","reason":"call-decided","backend":"10.0.0.1:443","no_other_backend":true},` +
		`{"number":3,"kind":"hedge","start":0.6,"end":0.8,"wait":0.2,"waited_on":"budget","result":"won","code":"OK",` +
		`"delivery":"answered","outcome":"success","resumed":true}],"denials":[` +
		`{"time":0.5,"kind":"hedge","reason":"budget-denied","wait":0.2},` +
		`{"time":0.6,"kind":"retry","reason":"deadline-too-close","wait":0}]}}`
	assert.Equal(t, want, logged(asJSON, eventful()))
	marshalled, err := json.Marshal(map[string]any{"timeline": eventful()})
	require.NoError(t, err)
	assert.Equal(t, want, string(marshalled), "one vocabulary")

	assert.Equal(t, `timeline.method=/rego.test.v1.TestService/Get timeline.target=dns:///shop timeline.policy=reads timeline.policy_version=v7 `+
		`timeline.idempotency=idempotent timeline.start=2026-01-02T03:04:05.000Z timeline.elapsed=0.8 timeline.reason=succeeded timeline.code=OK `+
		`timeline.committed=answer timeline.committed_at=0.7 timeline.attempts="`+
		`#1 original 0s +300ms failed: Unavailable, answered, retryable: server-asked, to 10.0.0.1:443, 250ms without a connection; `+
		`#2 retry 400ms +400ms lost: Canceled, unknown, abort: call-decided, to 10.0.0.1:443 again: no other backend, `+
		`waited 100ms (pushback), cancelled after 350ms, 400ms of work lost; `+
		`#3 hedge 600ms +200ms won: OK, answered, success, waited 200ms (budget), resumed" `+
		`timeline.denials="500ms no hedge: budget-denied (wait 200ms); 600ms no retry: deadline-too-close"`, logged(asText, eventful()))
}

// TestTimelineOfACallInALog: a real call's log says the same as its JSON, and nothing of what the
// server said in an error.
func TestTimelineOfACallInALog(t *testing.T) {
	t.Parallel()
	tl := timelineOf(t)
	marshalled, err := json.Marshal(map[string]any{"timeline": tl})
	require.NoError(t, err)
	line := logged(asJSON, tl)
	assert.Equal(t, string(marshalled), line)
	for _, text := range []string{line, logged(asText, tl)} {
		assert.Contains(t, text, "deadline-too-close")
		assert.NotContains(t, text, "secret")
	}
}

// TestTimelineOfNothing: what a caller prints that has no call, or none yet.
func TestTimelineOfNothing(t *testing.T) {
	t.Parallel()
	var zero interceptor.Timeline
	assert.Equal(t, "nothing recorded: the call has not ended, or it was not made through an interceptor "+
		"(Interceptor.DialOptions), or its options were refused", zero.String())
	assert.Zero(t, zero.Elapsed())
	want := `{"timeline":{"reason":"unfinished","attempts":[]}}`
	assert.Equal(t, want, logged(asJSON, &zero))
	assert.Equal(t, `timeline.reason=unfinished timeline.attempts=""`, logged(asText, &zero))
	marshalled, err := json.Marshal(map[string]any{"timeline": &zero})
	require.NoError(t, err)
	assert.Equal(t, want, string(marshalled))
	assert.Equal(t, `{"timeline":null}`, logged(asJSON, nil))
}

// TestTimelineWithoutAnInterceptor: the call option is harmless on a bare connection, and its
// timeline says why it is empty.
func TestTimelineWithoutAnInterceptor(t *testing.T) {
	t.Parallel()
	srv, err := testsrv.New()
	require.NoError(t, err)
	t.Cleanup(srv.Close)
	conn, err := srv.Dial()
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	var tl interceptor.Timeline
	err = conn.Invoke(t.Context(), testsrv.Get, new(testv1.GetRequest), new(testv1.GetResponse), interceptor.WithTimeline(&tl))
	require.NoError(t, err)
	assert.Contains(t, tl.String(), "nothing recorded")
}

// TestTimelineOfARunningCall: an observer may log a call that has not ended. It has no code and
// has not taken a time yet.
func TestTimelineOfARunningCall(t *testing.T) {
	t.Parallel()
	tl := &interceptor.Timeline{Method: testsrv.Get, Start: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	want := `{"timeline":{"method":"/rego.test.v1.TestService/Get","idempotency":"unknown","start":"2026-01-02T03:04:05Z",` +
		`"reason":"unfinished","attempts":[]}}`
	assert.Equal(t, want, logged(asJSON, tl))
	marshalled, err := json.Marshal(map[string]any{"timeline": tl})
	require.NoError(t, err)
	assert.Equal(t, want, string(marshalled))
}
