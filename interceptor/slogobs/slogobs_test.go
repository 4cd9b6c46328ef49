package slogobs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/slogobs"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// logged is a client whose calls are logged as JSON.
type logged struct {
	*testsrv.Server
	testv1.TestServiceClient
	log *bytes.Buffer
}

func newLogged(t *testing.T, level slog.Level, opts ...slogobs.Option) logged {
	t.Helper()
	l := logged{Server: testsrv.Start(t), log: new(bytes.Buffer)}
	p := policy.Default()
	p.Idempotency = classify.Idempotent
	p.Retry.Backoff.Jitter = policy.JitterNone
	few, err := budget.NewRatio(budget.RatioConfig{MinPerSecond: 1})
	require.NoError(t, err)
	it, err := interceptor.New(interceptor.WithPolicy(p), interceptor.WithTargetBudget(func(string) budget.Budget { return few }),
		interceptor.WithRecorder(slogobs.New(slog.New(slog.NewJSONHandler(l.log, &slog.HandlerOptions{Level: level})), opts...)))
	require.NoError(t, err)
	l.TestServiceClient = testv1.NewTestServiceClient(l.Conn(t, it.DialOptions()...))
	return l
}

// lines returns level, message and left_out of each line, and forgets them.
func (l logged) lines(t *testing.T) (lines []string) {
	t.Helper()
	for text := range strings.Lines(l.log.String()) {
		var line struct {
			Level, Msg string
			LeftOut    int `json:"left_out"`
			Call       struct {
				Reason   string
				Attempts []struct{ Kind string }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(text), &line))
		s := line.Level + " " + line.Msg
		if line.Call.Reason != "" {
			s += ": " + line.Call.Reason
		}
		if line.LeftOut > 0 {
			s += fmt.Sprint(", left out ", line.LeftOut)
		}
		if n := len(line.Call.Attempts); n > 0 {
			s += fmt.Sprint(", attempts ", n)
		}
		lines = append(lines, s)
	}
	assert.NotContains(t, l.log.String(), "secret")
	l.log.Reset()
	return lines
}

func (l logged) get(t *testing.T) {
	t.Helper()
	_, _ = l.Get(t.Context(), &testv1.GetRequest{Id: "secret"})
}

// TestLines: what is logged of which call.
func TestLines(t *testing.T) {
	t.Parallel()
	fails := testsrv.Fail(codes.Unavailable, "secret")
	for name, r := range map[string]struct {
		script []testsrv.Step
		want   []string
	}{
		"success":          {[]testsrv.Step{testsrv.Echo()}, nil},
		"retried":          {[]testsrv.Step{fails, testsrv.Echo()}, []string{"INFO rego: call retried: succeeded, attempts 2"}},
		"failed":           {[]testsrv.Step{fails, testsrv.Fail(codes.Internal, "secret")}, []string{"DEBUG rego: call failed: non-retryable, attempts 2"}},
		"denied by budget": {[]testsrv.Step{fails, fails, fails}, []string{"WARN rego: a budget begins to deny retries", "WARN rego: call failed: budget-denied, attempts 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLogged(t, slog.LevelDebug)
				l.Script(testsrv.Get, r.script...)
				l.get(t)
				assert.Equal(t, r.want, l.lines(t))
			})
		})
	}
}

// TestRation: one line in a second, and the next one says how many there might have been.
func TestRation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLogged(t, slog.LevelDebug)
		l.Script(testsrv.Get, testsrv.Fail(codes.NotFound, "secret"))
		for range 10 {
			l.get(t)
			time.Sleep(150 * time.Millisecond)
		}
		const line = "DEBUG rego: call failed: non-retryable"
		assert.Equal(t, []string{line + ", attempts 1", line + ", left out 6, attempts 1"}, l.lines(t))
		l = newLogged(t, slog.LevelDebug, slogobs.WithInterval(0))
		l.Script(testsrv.Get, testsrv.Fail(codes.NotFound, "secret"))
		for range 3 {
			l.get(t)
		}
		assert.Len(t, l.lines(t), 3)
	})
}

// TestBudgetLines: a budget that begins to deny is a line, and one that has not for five
// seconds is another.
func TestBudgetLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLogged(t, slog.LevelWarn)
		l.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "secret"))
		for range 4 {
			l.get(t)
			time.Sleep(500 * time.Millisecond)
		}
		assert.Contains(t, l.lines(t), "WARN rego: a budget begins to deny retries")
		l.Script(testsrv.Get, testsrv.Echo())
		time.Sleep(4 * time.Second)
		l.get(t)
		assert.Empty(t, l.lines(t), "it may be a pause")
		time.Sleep(2 * time.Second)
		l.get(t)
		assert.Equal(t, []string{"WARN rego: a budget no longer denies retries"}, l.lines(t))
		l.get(t)
		assert.Empty(t, l.lines(t))
	})
}

// TestLevels: what is below the level of the handler makes no timeline, and takes no ration.
func TestLevels(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLogged(t, slog.LevelInfo)
		l.Script(testsrv.Get, testsrv.Fail(codes.NotFound, "secret"))
		l.get(t)
		assert.Empty(t, l.lines(t))
		l = newLogged(t, slog.LevelError, slogobs.WithLevels(slogobs.Levels{Answered: slog.LevelError}), nil)
		l.Script(testsrv.Get, testsrv.Fail(codes.NotFound, "secret"))
		l.get(t)
		assert.Equal(t, []string{"ERROR rego: call failed: non-retryable, attempts 1"}, l.lines(t))
	})
}

// TestLevelVar: a level that changes while calls run, and the others as they are by default.
func TestLevelVar(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var answered slog.LevelVar
		l := newLogged(t, slog.LevelInfo, slogobs.WithLevels(slogobs.Levels{Answered: &answered}))
		l.Script(testsrv.Get, testsrv.Fail(codes.NotFound, "secret"), testsrv.Fail(codes.NotFound, "secret"),
			testsrv.Fail(codes.Unavailable, "secret"), testsrv.Echo())
		answered.Set(slog.LevelDebug)
		l.get(t)
		assert.Empty(t, l.lines(t))
		answered.Set(slog.LevelInfo)
		l.get(t)
		assert.Equal(t, []string{"INFO rego: call failed: non-retryable, attempts 1"}, l.lines(t))
		l.get(t)
		assert.Equal(t, []string{"INFO rego: call retried: succeeded, attempts 2"}, l.lines(t))
	})
}

// TestManyCauses: names that somebody makes up share one ration.
func TestManyCauses(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	r := slogobs.New(slog.New(slog.NewTextHandler(&log, nil)))
	it, err := interceptor.New(interceptor.WithRecorder(r))
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 2000 {
				_ = it.Unary()(t.Context(), fmt.Sprintf("/made.up/M%d", i), nil, nil, nil, unavailable)
			}
		})
	}
	wg.Wait()
	assert.Less(t, strings.Count(log.String(), "\n"), 20)
}

func unavailable(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	return status.Error(codes.Unavailable, "secret")
}

// TestPlainCallsAllocateNothing: beside what the interceptor does without a recorder.
func TestPlainCallsAllocateNothing(t *testing.T) {
	measure := func(opts ...interceptor.Option) float64 {
		it, err := interceptor.New(opts...)
		require.NoError(t, err)
		unary := it.Unary()
		return testing.AllocsPerRun(2000, func() {
			_ = unary(t.Context(), testsrv.Get, nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil })
		})
	}
	assert.InDelta(t, measure(), measure(interceptor.WithRecorder(slogobs.New(nil))), 1)
}

func Example() {
	text := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || len(groups) > 0 && a.Key != "reason" {
			return slog.Attr{} // it is another one each time
		}
		return a
	}}))
	it, err := interceptor.New(interceptor.WithRecorder(slogobs.New(text)))
	if err != nil {
		panic(err)
	}
	srv, err := testsrv.New()
	if err != nil {
		panic(err)
	}
	defer srv.Close()
	srv.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "down"), testsrv.Echo())
	conn, err := srv.Dial(it.DialOptions()...)
	if err != nil {
		panic(err)
	}
	_, err = testv1.NewTestServiceClient(conn).Get(context.Background(), &testv1.GetRequest{})
	fmt.Println(err)
	// Output:
	// level=INFO msg="rego: call retried" left_out=0 call.reason=succeeded
	// <nil>
}
