package otelobs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/debugpage"
	"github.com/rego-go/rego/interceptor/slogobs"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/otelobs"
	"github.com/rego-go/rego/policy"
)

// tally is what somebody tells of a load: calls by end reason, attempts by kind and result,
// denials by reason.
type tally map[string]int64

func (n tally) call(reason string)          { n["call "+reason]++ }
func (n tally) attempt(kind, result string) { n["attempt "+kind+" "+result]++ }
func (n tally) denial(reason string)        { n["denial "+reason]++ }

// timelines is an observer that keeps a tally.
type timelines struct {
	mu sync.Mutex
	tally
}

func (o *timelines) Start(ctx context.Context, _ *interceptor.Event) context.Context { return ctx }

func (o *timelines) Observe(_ context.Context, e *interceptor.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch e.Kind {
	case interceptor.CallEnd:
		o.call(e.Timeline.Reason.String())
	case interceptor.AttemptEnd:
		o.attempt(e.Attempt.Kind.String(), e.Attempt.Result.String())
	case interceptor.AttemptDenied:
		o.denial(e.Timeline.Denials[len(e.Timeline.Denials)-1].Reason.String())
	default:
	}
}

// TestAllTellTheSame: after a load of everything that can become of a call, the state,
// timelines, spans, metrics, the debug page and the log tell the same numbers.
func TestAllTellTheSame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		seen := &timelines{tally: make(tally)}
		var log bytes.Buffer
		few, err := budget.NewRatio(budget.RatioConfig{Ratio: 0.1, MinPerSecond: 3})
		require.NoError(t, err)
		m := newMeasured(t, nil,
			interceptor.WithRules(
				policy.Rule{Methods: []string{testsrv.Get}, Policy: hedgedAfter(20 * time.Millisecond)},
				policy.Rule{Methods: []string{"*"}, Policy: steady}),
			interceptor.WithTargetBudget(func(string) budget.Budget { return few }),
			interceptor.WithLogger(slog.New(slog.DiscardHandler)),
			interceptor.WithObserver(seen), interceptor.WithObserver(r.observer()),
			interceptor.WithRecorder(slogobs.New(slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), slogobs.WithInterval(0))))
		panics := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if method == testsrv.Pay {
				panic("below")
			}
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		r.mixedLoad(t, testv1.NewTestServiceClient(r.Conn(t, append(m.DialOptions(), grpc.WithChainUnaryInterceptor(panics))...)))

		want := tallyOfState(m.State())
		for _, has := range []string{
			"call succeeded", "call budget-denied", "call non-retryable", "call unfinished", "call caller-cancelled",
			"attempt original won", "attempt original failed", "attempt original lost", "attempt original cancelled", "attempt original running",
			"attempt retry won", "attempt retry failed", "attempt hedge won", "attempt hedge lost", "denial budget-denied",
		} {
			assert.Positive(t, want[has], has)
		}
		assert.Equal(t, want, seen.tally, "timelines")
		assert.Equal(t, want, r.tallyOfSpans(), "spans")
		assert.Equal(t, want, m.tallyOfMetrics(t), "metrics")
		assert.Equal(t, want, tallyOfPage(t, m.Interceptor), "page")
		lines := tallyOfLog(t, log.String())
		for what, n := range want {
			if strings.HasPrefix(what, "call ") && what != "call succeeded" {
				assert.Equal(t, n, lines[what], "log: %s", what)
			}
		}
		assert.Equal(t, want["attempt retry won"]+want["attempt retry failed"], lines["attempt retry won"]+lines["attempt retry failed"], "log: retries")
	})
}

func hedgedAfter(d time.Duration) policy.Policy {
	p := steady
	p.Hedge.Delay = d
	return p
}

// mixedLoad makes calls of which everything becomes that can.
func (r *rig) mixedLoad(t *testing.T, c testv1.TestServiceClient) {
	t.Helper()
	ctx := t.Context()
	fails := testsrv.Fail(codes.Unavailable, "secret")
	_ = get(ctx, c) // success, and the connection
	r.Script(testsrv.Get, testsrv.Hang(), testsrv.Echo())
	_ = get(ctx, c) // a hedge wins
	r.Script(testsrv.Get, testsrv.Delay(30*time.Millisecond), testsrv.Hang())
	_ = get(ctx, c) // a hedge loses
	r.Script(testsrv.Put, fails, testsrv.Echo(), testsrv.Fail(codes.NotFound, "secret"))
	for range 2 { // a retry, a failure
		_, _ = c.Put(ctx, &testv1.PutRequest{Id: "secret"})
	}
	r.Script(testsrv.Put, fails)
	for range 5 { // until the budget denies
		_, _ = c.Put(ctx, &testv1.PutRequest{Id: "secret"})
	}
	func() { // a panic
		defer func() { _ = recover() }()
		_, _ = c.Pay(ctx, &testv1.PayRequest{Id: "secret"})
	}()
	left, leave := context.WithCancel(ctx)
	time.AfterFunc(10*time.Millisecond, leave)
	r.Script(testsrv.Put, testsrv.Hang())
	_, _ = c.Put(left, &testv1.PutRequest{}) // the caller leaves
	virtual.Sleep(2 * time.Second)
	r.Script(testsrv.Watch, testsrv.Send(2), testsrv.Do(testsrv.Send(1), fails), testsrv.Send(2))
	for range 2 { // a stream, and one that is resumed
		s, err := c.Watch(ctx, &testv1.WatchRequest{}, interceptor.WithResume(
			func(_ *testv1.WatchResponse, req *testv1.WatchRequest) (*testv1.WatchRequest, bool) { return req, true }))
		for err == nil {
			_, err = s.Recv()
		}
	}
	synctest.Wait()
}

func tallyOfState(s interceptor.State) tally {
	n := make(tally)
	for _, target := range s.Targets {
		for _, m := range target.Methods {
			for _, c := range m.Calls {
				n["call "+c.Reason.String()] += c.Count
			}
			for _, a := range m.Attempts {
				n["attempt "+a.Kind.String()+" "+a.Result.String()] += a.Count
			}
			for _, d := range m.Denials {
				n["denial "+d.Reason.String()] += d.Count
			}
		}
	}
	return n
}

func (r *rig) tallyOfSpans() tally {
	n := make(tally)
	for _, s := range r.ended() {
		if s.InstrumentationScope.Name != otelobs.ScopeName {
			continue
		}
		said := attribute.NewSet(s.Attributes...)
		value := func(k attribute.Key) string {
			v, _ := said.Value(k)
			return v.AsString()
		}
		if said.HasValue("rego.attempt.kind") {
			n.attempt(value("rego.attempt.kind"), value("rego.attempt.result"))
			continue
		}
		n.call(value("rego.end.reason"))
		for _, e := range s.Events {
			if e.Name == "rego.denial" {
				denial := attribute.NewSet(e.Attributes...)
				reason, _ := denial.Value("rego.denial.reason")
				n.denial(reason.AsString())
			}
		}
	}
	return n
}

func (m measured) tallyOfMetrics(t *testing.T) tally {
	t.Helper()
	n := make(tally)
	var all metricdata.ResourceMetrics
	require.NoError(t, m.reader.Collect(t.Context(), &all))
	for _, i := range all.ScopeMetrics[0].Metrics {
		sum, ok := i.Data.(metricdata.Sum[int64])
		if !ok {
			continue
		}
		for _, p := range sum.DataPoints {
			value := func(k attribute.Key) string {
				v, _ := p.Attributes.Value(k)
				return v.AsString()
			}
			switch i.Name {
			case "rego.client.calls":
				n["call "+value("rego.end.reason")] += p.Value
			case "rego.client.attempts":
				n["attempt "+value("rego.attempt.kind")+" "+value("rego.attempt.result")] += p.Value
			case "rego.client.denials":
				n["denial "+value("rego.denial.reason")] += p.Value
			}
		}
	}
	return n
}

func tallyOfPage(t *testing.T, it *interceptor.Interceptor) tally {
	t.Helper()
	handler := debugpage.New(it)
	defer handler.Close()
	get := func(path string, into any) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+path, nil)
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		require.Equal(t, http.StatusOK, w.Code)
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), into))
	}
	var overview struct {
		Methods []struct{ Target, Method string }
	}
	get("/?format=json", &overview)
	n := make(tally)
	for _, m := range overview.Methods {
		var page struct {
			Calls, Denials []struct {
				Reason string
				Count  int64
			}
			Attempts []struct {
				Kind, Result string
				Count        int64
			}
		}
		get("/method?"+url.Values{"target": {m.Target}, "method": {m.Method}, "format": {"json"}}.Encode(), &page)
		for _, c := range page.Calls {
			n["call "+c.Reason] += c.Count
		}
		for _, d := range page.Denials {
			n["denial "+d.Reason] += d.Count
		}
		for _, a := range page.Attempts {
			n["attempt "+a.Kind+" "+a.Result] += a.Count
		}
	}
	return n
}

func tallyOfLog(t *testing.T, log string) tally {
	t.Helper()
	n := make(tally)
	for text := range strings.Lines(log) {
		var line struct {
			Call *struct {
				Reason   string
				Attempts []struct{ Kind, Result string }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(text), &line))
		if line.Call == nil {
			continue
		}
		n.call(line.Call.Reason)
		for _, a := range line.Call.Attempts {
			n.attempt(a.Kind, a.Result)
		}
	}
	assert.NotContains(t, log, "secret")
	return n
}
