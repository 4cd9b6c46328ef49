package slogobs_test

import (
	"bytes"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/slogobs"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
)

const asText = `time=2000-01-01T00:00:00.060Z level=INFO msg="rego: call retried" left_out=0 call.method=/rego.test.v1.TestService/Put call.target=passthrough:///testsrv call.idempotency=idempotent call.start=2000-01-01T00:00:00.000Z call.elapsed=0.06 call.reason=succeeded call.code=OK call.attempts="#1 original 0s +10ms failed: Unavailable, answered, retryable: unavailable; #2 retry 60ms +0s won: OK, answered, success, waited 50ms (backoff)"
time=2000-01-01T00:00:00.070Z level=WARN msg="rego: a budget begins to deny retries" target=passthrough:///testsrv
time=2000-01-01T00:00:00.070Z level=WARN msg="rego: call failed" left_out=0 call.method=/rego.test.v1.TestService/Put call.target=passthrough:///testsrv call.idempotency=idempotent call.start=2000-01-01T00:00:00.060Z call.elapsed=0.01 call.reason=budget-denied call.code=Unavailable call.attempts="#1 original 0s +10ms failed: Unavailable, answered, retryable: unavailable" call.denials="10ms no retry: budget-denied (wait 50ms)"
time=2000-01-01T00:00:05.080Z level=WARN msg="rego: a budget no longer denies retries" target=passthrough:///testsrv denied=2 granted=0 elapsed=0.01
`

const asJSON = `{"time":"2000-01-01T00:00:00.06Z","level":"INFO","msg":"rego: call retried","left_out":0,"call":{"method":"/rego.test.v1.TestService/Put","target":"passthrough:///testsrv","idempotency":"idempotent","start":"2000-01-01T00:00:00Z","elapsed":0.06,"reason":"succeeded","code":"OK","attempts":[{"number":1,"kind":"original","start":0,"end":0.01,"result":"failed","code":"Unavailable","delivery":"answered","outcome":"retryable","reason":"unavailable","peer":"testsrv"},{"number":2,"kind":"retry","start":0.06,"end":0.06,"wait":0.05,"waited_on":"backoff","result":"won","code":"OK","delivery":"answered","outcome":"success","peer":"testsrv"}]}}
{"time":"2000-01-01T00:00:00.07Z","level":"WARN","msg":"rego: a budget begins to deny retries","target":"passthrough:///testsrv"}
{"time":"2000-01-01T00:00:00.07Z","level":"WARN","msg":"rego: call failed","left_out":0,"call":{"method":"/rego.test.v1.TestService/Put","target":"passthrough:///testsrv","idempotency":"idempotent","start":"2000-01-01T00:00:00.06Z","elapsed":0.01,"reason":"budget-denied","code":"Unavailable","attempts":[{"number":1,"kind":"original","start":0,"end":0.01,"result":"failed","code":"Unavailable","delivery":"answered","outcome":"retryable","reason":"unavailable","peer":"testsrv"}],"denials":[{"time":0.01,"kind":"retry","reason":"budget-denied","wait":0.05}]}}
{"time":"2000-01-01T00:00:05.08Z","level":"WARN","msg":"rego: a budget no longer denies retries","target":"passthrough:///testsrv","denied":2,"granted":0,"elapsed":0.01}
`

// TestFormat: lines as slog's own handlers write them. Keys and messages are promised, the texts
// of attempts and denials in a text handler are for people.
func TestFormat(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]struct {
		handler func(io.Writer, *slog.HandlerOptions) slog.Handler
		want    string
	}{
		"text": {func(w io.Writer, o *slog.HandlerOptions) slog.Handler { return slog.NewTextHandler(w, o) }, asText},
		"JSON": {func(w io.Writer, o *slog.HandlerOptions) slog.Handler { return slog.NewJSONHandler(w, o) }, asJSON},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				it, err := interceptor.New(steady(), scant(t), interceptor.WithRecorder(slogobs.New(slog.New(f.handler(&log, nil)))))
				require.NoError(t, err)
				srv := testsrv.Start(t)
				c := testv1.NewTestServiceClient(srv.Conn(t, it.DialOptions()...))
				fails := testsrv.Do(testsrv.Delay(10*ms), testsrv.Fail(codes.Unavailable, "secret"))
				srv.Script(testsrv.Put, fails, testsrv.Echo(), fails, fails, testsrv.Echo())
				for range 3 { // retried, denied, denied and left out
					_, _ = c.Put(t.Context(), &testv1.PutRequest{Id: "secret"})
				}
				virtual.Sleep(quiet)
				_, _ = c.Put(t.Context(), &testv1.PutRequest{Id: "secret"})
				assert.Equal(t, f.want, log.String())
			})
		})
	}
}

const quiet = 5 * time.Second
