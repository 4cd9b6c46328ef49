package slogobs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/slogobs"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

const ms = time.Millisecond

// scant grants one retry or hedge in a second.
func scant(t *testing.T) interceptor.Option {
	t.Helper()
	few, err := budget.NewTokenBucket(budget.TokenBucketConfig{PerSecond: 1, Burst: 1})
	require.NoError(t, err)
	return interceptor.WithTargetBudget(func(string) budget.Budget { return few })
}

// steady retries Put, and Get after a hedge that is due after 20 ms.
func steady() interceptor.Option {
	p := policy.Default()
	p.Idempotency = classify.Idempotent
	p.Retry.Backoff.Jitter = policy.JitterNone
	hedged := p
	hedged.Hedge.Delay = 20 * ms
	return interceptor.WithRules(
		policy.Rule{Methods: []string{testsrv.Get}, Policy: hedged}, policy.Rule{Methods: []string{"*"}, Policy: p})
}

// logged is a client whose calls are logged as JSON.
type logged struct {
	*testsrv.Server
	testv1.TestServiceClient
	log bytes.Buffer
}

func newLogged(t *testing.T, level slog.Level, opts ...slogobs.Option) *logged {
	t.Helper()
	l := &logged{Server: testsrv.Start(t)}
	it, err := interceptor.New(steady(), scant(t),
		interceptor.WithRecorder(slogobs.New(slog.New(slog.NewJSONHandler(&l.log, &slog.HandlerOptions{Level: level})), opts...)))
	require.NoError(t, err)
	conn := l.Conn(t, it.DialOptions()...)
	conn.Connect()
	synctest.Wait()
	l.TestServiceClient = testv1.NewTestServiceClient(conn)
	return l
}

func (l *logged) put(t *testing.T) {
	t.Helper()
	_, _ = l.Put(t.Context(), &testv1.PutRequest{Id: "secret"})
}

// number makes attempts execute the step of their number.
func (l *logged) number(method string, steps ...testsrv.Step) {
	l.Handle(method, func(a testsrv.Arrival) testsrv.Step { return steps[min(a.Previous, len(steps)-1)] })
}

// lines returns what each line says, and forgets them.
func (l *logged) lines(t *testing.T) (lines []string) {
	t.Helper()
	for text := range strings.Lines(l.log.String()) {
		var line struct {
			Level, Msg      string
			LeftOut         int `json:"left_out"`
			Denied, Granted int
			Elapsed         float64
			Call            struct {
				Reason   string
				Attempts []struct{ Kind string }
				Denials  []struct{ Kind, Reason string }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(text), &line))
		s := line.Level + " " + strings.TrimPrefix(line.Msg, "rego: ")
		if line.Call.Reason != "" {
			s += fmt.Sprintf(": %s after %d", line.Call.Reason, len(line.Call.Attempts))
		}
		for _, d := range line.Call.Denials {
			s += fmt.Sprintf(", %s %s", d.Kind, d.Reason)
		}
		if line.LeftOut > 0 {
			s += fmt.Sprintf(", left out %d", line.LeftOut)
		}
		if line.Denied > 0 {
			s += fmt.Sprintf(": %d in %vs, then granted %d", line.Denied, line.Elapsed, line.Granted)
		}
		lines = append(lines, s)
	}
	assert.NotContains(t, l.log.String(), "secret")
	l.log.Reset()
	return lines
}

// TestLines: what is logged of which calls.
func TestLines(t *testing.T) {
	t.Parallel()
	fails, hangs, slow := testsrv.Fail(codes.Unavailable, "secret"), testsrv.Hang(), testsrv.Do(testsrv.Delay(30*ms), testsrv.Echo())
	for name, r := range map[string]struct {
		method string
		steps  []testsrv.Step
		calls  int
		want   []string
	}{
		"success":     {testsrv.Put, []testsrv.Step{testsrv.Echo()}, 1, nil},
		"retried":     {testsrv.Put, []testsrv.Step{fails, testsrv.Echo()}, 1, []string{"INFO call retried: succeeded after 2"}},
		"hedge wins":  {testsrv.Get, []testsrv.Step{hangs, testsrv.Echo()}, 1, []string{"INFO call hedged: succeeded after 2"}},
		"hedge loses": {testsrv.Get, []testsrv.Step{slow, hangs}, 1, []string{"INFO call hedged: succeeded after 2"}},
		"answered":    {testsrv.Put, []testsrv.Step{testsrv.Fail(codes.NotFound, "secret")}, 1, []string{"DEBUG call failed: non-retryable after 1"}},
		"caller left": {testsrv.Put, []testsrv.Step{hangs}, 1, []string{"DEBUG call failed: caller-cancelled after 1"}},
		"retry denied": {testsrv.Put, []testsrv.Step{fails}, 1, []string{
			"WARN a budget begins to deny retries", "WARN call failed: budget-denied after 2, retry budget-denied"}},
		"hedge denied": {testsrv.Get, []testsrv.Step{slow, slow}, 2, []string{
			"INFO call hedged: succeeded after 2",
			"DEBUG a budget begins to deny hedges", "DEBUG call denied another attempt: succeeded after 1, hedge budget-denied"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLogged(t, slog.LevelDebug)
				l.number(r.method, r.steps...)
				for range r.calls {
					ctx, cancel := context.WithCancel(t.Context())
					leave := time.AfterFunc(time.Second, cancel)
					if r.method == testsrv.Get {
						_, _ = l.Get(ctx, &testv1.GetRequest{Id: "secret"})
					} else {
						_, _ = l.Put(ctx, &testv1.PutRequest{Id: "secret"})
					}
					leave.Stop()
					cancel()
				}
				assert.Equal(t, r.want, l.lines(t))
			})
		})
	}
}

// TestInterval: one line in a second, and the next one says how many were left out.
func TestInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const line = "DEBUG call failed: non-retryable after 1"
		fails := testsrv.Fail(codes.NotFound, "secret")
		l := newLogged(t, slog.LevelDebug)
		l.Script(testsrv.Put, fails)
		for range 10 {
			l.put(t)
			virtual.Sleep(150 * ms)
		}
		assert.Equal(t, []string{line, line + ", left out 6"}, l.lines(t))

		l = newLogged(t, slog.LevelDebug, slogobs.WithInterval(0))
		l.Script(testsrv.Put, fails)
		for range 3 {
			l.put(t)
		}
		assert.Equal(t, []string{line, line, line}, l.lines(t))
	})
}

// TestBudgetLines: one when a budget begins to deny, and one at the first call that ends five
// seconds after the last denial.
func TestBudgetLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLogged(t, slog.LevelWarn, slogobs.WithLevels(slogobs.Levels{Failed: slog.LevelDebug}))
		l.Script(testsrv.Put, testsrv.Fail(codes.Unavailable, "secret"))
		for range 4 {
			l.put(t)
			virtual.Sleep(450 * ms)
		}
		assert.Equal(t, []string{"WARN a budget begins to deny retries"}, l.lines(t))
		l.Script(testsrv.Put, testsrv.Fail(codes.Unavailable, "secret"), testsrv.Echo())
		virtual.Sleep(3 * time.Second)
		l.put(t) // retried
		assert.Empty(t, l.lines(t), "it may be a pause")
		virtual.Sleep(2 * time.Second)
		l.put(t) // succeeds at once
		assert.Equal(t, []string{"WARN a budget no longer denies retries: 4 in 1.4s, then granted 1"}, l.lines(t))
		l.put(t)
		assert.Empty(t, l.lines(t))
		l.Script(testsrv.Put, testsrv.Fail(codes.Unavailable, "secret"))
		for range 2 { // an outage, and another a day later, with no call between
			l.put(t)
			l.put(t)
			virtual.Sleep(24 * time.Hour)
		}
		assert.Equal(t, []string{
			"WARN a budget begins to deny retries", "WARN a budget no longer denies retries: 2 in 0s, then granted 0",
			"WARN a budget begins to deny retries"}, l.lines(t))
	})
}

// TestDenials: what a budget denies to hedges is told apart from what it denies to retries, and
// from what anything else denies.
func TestDenials(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLogged(t, slog.LevelDebug)
		l.Script(testsrv.Get, testsrv.Do(testsrv.Delay(30*ms), testsrv.Echo()))
		get := func(opts ...grpc.CallOption) {
			_, err := l.Get(t.Context(), &testv1.GetRequest{Id: "secret"}, opts...)
			require.NoError(t, err)
		}
		get(interceptor.WithIdempotency(classify.NotIdempotent))
		assert.Equal(t, []string{"DEBUG call denied another attempt: succeeded after 1, hedge not-idempotent"}, l.lines(t))
		get()
		get()
		assert.Equal(t, []string{
			"INFO call hedged: succeeded after 2", "DEBUG a budget begins to deny hedges",
			"DEBUG call denied another attempt: succeeded after 1, hedge budget-denied"}, l.lines(t))
		virtual.Sleep(2 * time.Second)
		get()
		assert.Equal(t, []string{"INFO call hedged: succeeded after 2"}, l.lines(t))
		virtual.Sleep(5 * time.Second)
		get(interceptor.WithIdempotency(classify.NotIdempotent))
		assert.Equal(t, []string{
			"DEBUG a budget no longer denies hedges: 1 in 0s, then granted 1",
			"DEBUG call denied another attempt: succeeded after 1, hedge not-idempotent"}, l.lines(t))
	})
}

// TestLevels: each kind has its own, nil is the default, and one may change while calls run.
// What is not written takes no ration.
func TestLevels(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var answered slog.LevelVar
		l := newLogged(t, slog.LevelInfo, nil, slogobs.WithLevels(slogobs.Levels{Answered: &answered, Rescued: slog.LevelError}))
		l.Script(testsrv.Put, testsrv.Fail(codes.NotFound, "secret"))
		answered.Set(slog.LevelDebug)
		l.put(t)
		assert.Empty(t, l.lines(t))
		answered.Set(slog.LevelInfo)
		l.put(t)
		assert.Equal(t, []string{"INFO call failed: non-retryable after 1"}, l.lines(t))
		l.Script(testsrv.Put, testsrv.Fail(codes.Unavailable, "secret"), testsrv.Echo(), testsrv.Fail(codes.Unavailable, "secret"))
		l.put(t) // takes all that the budget has
		assert.Equal(t, []string{"ERROR call retried: succeeded after 2"}, l.lines(t))
		l.put(t)
		assert.Equal(t, []string{
			"WARN a budget begins to deny retries", "WARN call failed: budget-denied after 1, retry budget-denied"}, l.lines(t))
	})
}

// TestMethodsOfOthers: methods that are not the program's own share a line, so nobody can fill the log
// or memory with names that they make up.
func TestMethodsOfOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &logged{}
		it, err := interceptor.New(interceptor.WithRecorder(slogobs.New(slog.New(slog.NewJSONHandler(&l.log, nil)))))
		require.NoError(t, err)
		for i := range 1000 {
			_ = it.Unary()(t.Context(), fmt.Sprintf("/made.up/M%d", i), nil, nil, nil, unavailable)
		}
		virtual.Sleep(time.Second)
		_ = it.Unary()(t.Context(), "/made.up/Another", nil, nil, nil, unavailable)
		assert.Equal(t, []string{
			"WARN call failed: not-idempotent after 1", "WARN call failed: not-idempotent after 1, left out 999"}, l.lines(t))
	})
}

func unavailable(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	return errUnavailable
}
