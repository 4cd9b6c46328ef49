package interceptor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// TestSoftFailure: an OK reply whose content says that the work failed.
func TestSoftFailure(t *testing.T) {
	t.Parallel()
	soft := interceptor.WithClassifier("soft", classify.Reply(func(r *testv1.PutResponse) bool { return r.GetId() == "busy" }))
	named := interceptor.WithPolicy(exact(func(p *policy.Policy) { p.Classifier = "soft" }))
	busy := testsrv.Reply(&testv1.PutResponse{Id: "busy", Payload: []byte("stale")})
	t.Run("then success", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, soft, named)
			srv.Script(testsrv.Put, busy, testsrv.Reply(&testv1.PutResponse{Id: "done"}))
			var reply testv1.PutResponse
			require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{}, &reply))
			assert.Equal(t, "done", reply.GetId())
			assert.Empty(t, reply.GetPayload())
		})
	})
	t.Run("to the end: the last reply and no error", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, soft, named)
			srv.Script(testsrv.Put, busy)
			var reply testv1.PutResponse
			var tl interceptor.Timeline
			require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{}, &reply, interceptor.WithTimeline(&tl)))
			assert.Equal(t, "busy", reply.GetId())
			assert.Equal(t, interceptor.EndAttemptsExhausted, tl.Reason)
			assert.Len(t, tl.Attempts, 3)
		})
	})
	t.Run("then a failure", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, soft, named)
			srv.Script(testsrv.Put, busy, testsrv.Fail(codes.NotFound, ""))
			var reply testv1.PutResponse
			err := c.conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{}, &reply)
			assert.Equal(t, codes.NotFound, status.Code(err))
			assert.Empty(t, reply.GetId(), "nothing of another attempt")
		})
	})
}

// TestErrorTakenAsSuccess: a classifier may say so; the caller gets the error, and
// the next call nothing of it.
func TestErrorTakenAsSuccess(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		lenient := classify.Func(func(a *classify.EndedAttempt) (o classify.Outcome) {
			if a.Code() == codes.NotFound {
				o.Class = classify.Success
			}
			return o
		})
		c := newClient(t, srv, interceptor.WithClassifier("lenient", lenient), interceptor.WithPolicy(policy.Policy{Classifier: "lenient"}))
		for range 3 {
			srv.Script(testsrv.Get, testsrv.Fail(codes.NotFound, ""), testsrv.OK())
			req, reply := messages(testsrv.Get)
			err := c.conn.Invoke(t.Context(), testsrv.Get, req, reply)
			assert.Equal(t, codes.NotFound, status.Code(err))
			require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Get, req, reply))
		}
	})
}

// TestInvalidPolicy: refused where it is given, with every field path.
func TestInvalidPolicy(t *testing.T) {
	t.Parallel()
	bad := policy.Policy{Name: "users", Timeout: -1, Retry: policy.Retry{MaxAttempts: -1}, Budget: "none-such"}

	_, err := interceptor.New(interceptor.WithRules(policy.Rule{Methods: []string{"*"}, Policy: bad}))
	for _, want := range []string{`rules[0]: policy "users": timeout: `, `rules[0]: policy "users": retry.max_attempts: `} {
		require.ErrorContains(t, err, want)
	}
	_, err = interceptor.New(interceptor.WithRules(
		policy.Rule{Methods: []string{"/a.B/C"}, Policy: policy.Policy{Budget: "x", Classifier: "y"}}))
	require.ErrorContains(t, err, `rules[0].policy.budget: no budget is named "x"`)
	require.ErrorContains(t, err, `rules[0].policy.classifier: no classifier is named "y"`)
	_, err = interceptor.New(interceptor.WithMaxAttempts(0))
	require.Error(t, err)
	_, err = interceptor.New(interceptor.WithPolicies(nil), interceptor.WithLogger(nil), interceptor.WithTargetBudget(nil))
	require.NoError(t, err, "nil means the default")

	t.Run("of one call", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv)
			finished := 0
			err := c.conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{}, new(testv1.PutResponse),
				interceptor.WithPolicy(bad), grpc.OnFinish(func(error) { finished++ }))
			assert.Equal(t, codes.Internal, status.Code(err))
			require.ErrorContains(t, err, "timeout: ")
			require.ErrorContains(t, err, "retry.max_attempts: ")
			assert.Equal(t, 1, finished)

			_, err = c.call(t.Context(), testsrv.Put, interceptor.WithPolicy(policy.Policy{Budget: "none-such"}))
			require.ErrorContains(t, err, `budget: no budget is named "none-such"`)
			_, err = c.call(t.Context(), testsrv.Put, interceptor.WithIdempotency(99))
			assert.Equal(t, codes.Internal, status.Code(err))
			assert.Zero(t, srv.Count(testsrv.Put))
		})
	})
	t.Run("from a store", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			st := new(policy.Store)
			c := newClient(t, srv, interceptor.WithPolicies(st))
			one := func(p policy.Policy) policy.Set {
				return policy.Set{Version: "v", Rules: []policy.Rule{{Methods: []string{"*"}, Policy: p}}}
			}
			require.NoError(t, st.Update(one(exact(func(p *policy.Policy) { p.Retry.MaxAttempts = 2; p.Name = "good" }))))
			require.Error(t, st.Update(one(bad)))
			require.Error(t, st.Update(one(policy.Policy{Budget: "none-such"})))
			srv.Script(testsrv.Put, down)
			tl, _ := c.call(t.Context(), testsrv.Put)
			assert.Len(t, tl.Attempts, 2, "the last good policy is in force")
			assert.Equal(t, "good", tl.Policy)
			assert.Equal(t, "v", tl.PolicyVersion)
		})
	})
}

// TestPrecedence: call option, rule in code, rule from the store, default.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		named := func(n string) policy.Policy { return exact(func(p *policy.Policy) { p.Name = n }) }
		st, err := policy.NewStore(policy.Set{Rules: []policy.Rule{
			{Methods: []string{"*"}, Policy: named("store")}, {Methods: []string{testsrv.Put}, Policy: named("store, method")},
		}})
		require.NoError(t, err)
		c := newClient(t, srv, interceptor.WithPolicies(st),
			interceptor.WithRules(policy.Rule{Methods: []string{testsrv.Put}, Policy: named("code")}))
		for _, r := range []struct {
			method string
			opts   []grpc.CallOption
			want   string
		}{
			{testsrv.Put, []grpc.CallOption{interceptor.WithPolicy(named("call"))}, "call"},
			{testsrv.Put, nil, "code"},
			{testsrv.Get, nil, "store"},
			{testsrv.Get, nil, "store"}, // from now on its plan is ready, and must not outlive the set
		} {
			tl, err := c.call(t.Context(), r.method, r.opts...)
			require.NoError(t, err)
			assert.Equal(t, r.want, tl.Policy)
		}
		require.NoError(t, st.Update(policy.Set{RetriesOff: true}))
		srv.Script(testsrv.Get, down)
		tl, _ := c.call(t.Context(), testsrv.Get)
		assert.Empty(t, tl.Policy)
		assert.Equal(t, interceptor.EndDisabled, tl.Reason, "the switch covers methods without a rule")
		srv.Script(testsrv.Put, down)
		tl, _ = c.call(t.Context(), testsrv.Put)
		assert.Equal(t, interceptor.EndDisabled, tl.Reason, "and rules in code")
	})
}

// recorder writes down the events it sees.
type recorder struct {
	mu     sync.Mutex
	events []string
}

func (r *recorder) Start(ctx context.Context, e *interceptor.Event) context.Context {
	r.Observe(ctx, e)
	return context.WithValue(ctx, r, e.Kind)
}

func (r *recorder) Observe(ctx context.Context, e *interceptor.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	inside, ok := ctx.Value(r).(interceptor.EventKind)
	if !ok && e.Kind != interceptor.CallStart {
		r.events = append(r.events, fmt.Sprintf("%v outside", e.Kind))
		return
	}
	r.events = append(r.events, fmt.Sprintf("%v in %v", e.Kind, inside))
}

func TestObserverSeesTheCall(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		all, one := new(recorder), new(recorder)
		c := newClient(t, srv, interceptor.WithPolicy(exact(func(p *policy.Policy) { p.Retry.MaxAttempts = 4 })),
			interceptor.WithObserver(all), interceptor.WithObserver(nil))
		srv.Script(testsrv.Put, down, down, testsrv.OK())
		_, err := c.call(t.Context(), testsrv.Put, interceptor.WithObserver(one))
		require.NoError(t, err)
		want := []string{
			"call-start in call-start",
			"attempt-start in call-start", "attempt-end in attempt-start", "retry-wait in call-start",
			"attempt-start in call-start", "attempt-end in attempt-start", "retry-wait in call-start",
			"attempt-start in call-start", "attempt-end in attempt-start",
			"call-end in call-start",
		}
		assert.Equal(t, want, all.events)
		assert.Equal(t, want, one.events)
	})
}

// bomb is an observer that panics at its n-th event.
type bomb struct{ left atomic.Int64 }

func (b *bomb) tick() {
	if b.left.Add(-1) <= 0 {
		panic("boom")
	}
}
func (b *bomb) Start(ctx context.Context, _ *interceptor.Event) context.Context { b.tick(); return ctx }
func (b *bomb) Observe(context.Context, *interceptor.Event)                     { b.tick() }

func TestPanickingObserverIsCutOff(t *testing.T) {
	t.Parallel()
	for n := range 8 {
		var log bytes.Buffer
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			b, ok := new(bomb), new(recorder)
			b.left.Store(int64(n + 1))
			c := newClient(t, srv, interceptor.WithPolicy(exact()), interceptor.WithObserver(b), interceptor.WithObserver(ok),
				interceptor.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
			for range 2 {
				srv.Script(testsrv.Put, down, testsrv.OK())
				_, err := c.call(t.Context(), testsrv.Put)
				require.NoError(t, err)
			}
			assert.Len(t, ok.events, 14)
		})
		assert.Equal(t, 1, strings.Count(log.String(), "panicked"), "at event %d", n+1)
	}
}

// nilStart returns no context.
type nilStart struct{ recorder }

func (*nilStart) Start(context.Context, *interceptor.Event) context.Context { return nil }

func TestObserverThatReturnsNoContext(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		_, err := newClient(t, srv, interceptor.WithObserver(new(nilStart))).call(t.Context(), testsrv.Put)
		require.NoError(t, err)
	})
}

// TestPanicsPassThrough: a panic below, or in a classifier, surfaces on the
// caller's goroutine; leases are returned and observers told.
func TestPanicsPassThrough(t *testing.T) {
	t.Parallel()
	b := &ledger{budget: budget.Default()}
	broken := classify.Func(func(*classify.EndedAttempt) classify.Outcome { panic("classifier") })
	r := new(recorder)
	unary := newInterceptor(t, b.inTarget(),
		interceptor.WithClassifier("broken", broken), interceptor.WithObserver(r)).Unary()
	panics := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { panic("invoker") }
	fails := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		return status.Error(codes.Unavailable, "")
	}
	retry := interceptor.WithPolicy(exact(func(p *policy.Policy) { p.Classifier = "broken" }))
	for range 10 {
		assert.PanicsWithValue(t, "invoker", func() { _ = unary(t.Context(), testsrv.Put, nil, nil, nil, panics) })
		assert.PanicsWithValue(t, "classifier", func() { _ = unary(t.Context(), testsrv.Put, nil, nil, nil, fails, retry) })
	}
	assert.Len(t, r.events, 2*10*4)
	assert.Equal(t, "call-end in call-start", r.events[3])
	assert.Zero(t, b.held, "leases are returned")
}

func TestRetryPolicyUnderneathIsTold(t *testing.T) {
	t.Parallel()
	const config = `{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":2,"initialBackoff":"0.01s","maxBackoff":"0.01s","backoffMultiplier":1,"retryableStatusCodes":["ABORTED"]}}]}`
	for _, r := range []struct {
		bundled bool
		first   testsrv.Step // of two attempts
		want    int
	}{
		{true, down, 0},
		{false, down, 1},
		{true, testsrv.Hang(), 0},
		{false, testsrv.Hang(), 1},
	} {
		var log bytes.Buffer
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			it := newInterceptor(t, interceptor.WithLogger(slog.New(slog.NewTextHandler(&log, nil))), interceptor.WithPolicy(after100()))
			opts := []grpc.DialOption{grpc.WithChainUnaryInterceptor(it.Unary())}
			if r.bundled {
				opts = it.DialOptions()
			}
			conn := srv.Conn(t, append(opts, grpc.WithDefaultServiceConfig(config))...)
			for range 3 {
				srv.Script(testsrv.Put, r.first, testsrv.OK())
				require.NoError(t, conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{}, new(testv1.PutResponse)))
			}
		})
		assert.Equal(t, r.want, strings.Count(log.String(), "retryPolicy"), "bundled: %v", r.bundled)
	}
}

// TestPromises plays random servers, policies and callers and checks what must
// hold of every call.
func TestPromises(t *testing.T) {
	t.Parallel()
	for range 300 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { playRandomCall(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func playRandomCall(t *testing.T, r *rand.Rand) {
	srv := testsrv.Start(t)
	p := policy.Policy{
		Timeout:        time.Duration(r.IntN(3)) * 300 * ms,
		AttemptTimeout: time.Duration(r.IntN(2)) * 90 * ms,
		Retry:          policy.Retry{Off: r.IntN(4) == 0, MaxAttempts: 1 + r.IntN(6), Backoff: policy.Backoff{Jitter: policy.Jitter(r.IntN(4))}},
		Hedge:          policy.Hedge{Delay: []time.Duration{0, policy.NoWait, 20 * ms, 100 * ms}[r.IntN(4)]},
	}
	ledger := &ledger{budget: budget.Default()}
	c := newClient(t, srv, interceptor.WithPolicy(p), ledger.inTarget())
	ops := []func() testsrv.Step{
		testsrv.OK, testsrv.Hang, testsrv.KillConn,
		func() testsrv.Step { return testsrv.Fail(codes.Code(1+r.IntN(16)), "random") },
		func() testsrv.Step { return pushback(fmt.Sprint(r.IntN(200) - 20)) },
		func() testsrv.Step {
			return testsrv.Do(testsrv.Delay(time.Duration(r.IntN(200))*ms), testsrv.Fail(codes.Unavailable, ""))
		},
	}
	asked := make([]bool, 8) // the n-th arrival asks for a retry
	steps := make([]testsrv.Step, 8)
	for i := range steps {
		k := r.IntN(len(ops))
		steps[i], asked[i] = ops[k](), k == 4
	}
	method := []string{testsrv.Get, testsrv.Put, testsrv.Pay}[r.IntN(3)]
	srv.Script(method, steps...)
	if r.IntN(4) == 0 {
		require.NoError(t, srv.Refuse(true))
		time.AfterFunc(time.Duration(r.IntN(2000))*ms, func() { _ = srv.Refuse(false) })
	}
	limit := time.Duration(1+r.IntN(3000)) * ms
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if r.IntN(4) == 0 {
		time.AfterFunc(time.Duration(r.IntN(500))*ms, cancel)
	}
	began := time.Now()
	var tl interceptor.Timeline
	req, reply := messages(method)
	err := c.conn.Invoke(ctx, method, req, reply, interceptor.WithTimeline(&tl))
	got := proto.Clone(reply)

	assert.LessOrEqual(t, time.Since(began), limit, "time ≤ deadline")
	assert.LessOrEqual(t, len(tl.Attempts), min(p.Retry.MaxAttempts, interceptor.DefaultMaxAttempts), "attempts ≤ max")
	assert.Equal(t, err == nil, tl.Reason == interceptor.EndSucceeded)
	assert.Zero(t, ledger.held, "leases balance")
	var e *interceptor.Error
	if err != nil {
		require.ErrorAs(t, err, &e)
		assert.Equal(t, tl.Reason, e.Reason)
		assert.Len(t, e.Attempts, len(tl.Attempts))
	}
	if method == testsrv.Pay {
		for i := range max(srv.Count(method)-1, 0) {
			assert.True(t, asked[i], "attempt %d may have run and was followed by another: %v", i+1, &tl)
		}
	}
	won := 0
	for i, a := range tl.Attempts {
		assert.Equal(t, i+1, a.Number)
		assert.False(t, a.Kind == budget.Hedge && method == testsrv.Pay, "hedged, and not idempotent: %v", &tl)
		assert.NotEqual(t, interceptor.AttemptRunning, a.Result)
		if a.Result == interceptor.AttemptWon {
			won++
		}
	}
	assert.Equal(t, err == nil, won == 1, "one winner: %v", &tl)
	ended := time.Now()
	synctest.Wait() // what is on the wire arrives
	arrived := srv.Count(method)
	virtual.Sleep(time.Hour)
	assert.Equal(t, arrived, srv.Count(method), "no attempt outlives its call")
	assert.True(t, proto.Equal(got, reply), "nothing is written after the call")
	for _, a := range srv.Arrivals(method) {
		if a.Previous < len(tl.Attempts) && tl.Attempts[a.Previous].Result == interceptor.AttemptLost {
			assert.True(t, a.Cancelled || !a.Ended.After(ended), "losers are cancelled, or as quick: %v", &tl)
		}
	}
}

// TestBudgetHearsHowAttemptsEnd: budgets that look at results depend on them.
func TestBudgetHearsHowAttemptsEnd(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		b := &ledger{budget: budget.Default()}
		c := newClient(t, srv, interceptor.WithPolicy(exact()), b.inTarget())
		for _, r := range []struct {
			method string
			steps  []testsrv.Step
			want   []string
		}{
			{testsrv.Put, []testsrv.Step{testsrv.OK()}, []string{"original success"}},
			{testsrv.Put, []testsrv.Step{down, testsrv.OK()}, []string{"original failure", "retry success"}},
			{testsrv.Put, []testsrv.Step{down, testsrv.Fail(codes.NotFound, "")}, []string{"original failure", "retry neutral"}},
			{testsrv.Pay, []testsrv.Step{down}, []string{"original failure"}},
			{testsrv.Put, []testsrv.Step{pushback("-1")}, []string{"original failure"}}, // gRFC A6
			{testsrv.Put, []testsrv.Step{testsrv.Fail(codes.Internal, "")}, []string{"original neutral"}},
		} {
			b.results = nil
			srv.Script(r.method, r.steps...)
			_, _ = c.call(t.Context(), r.method)
			assert.Equal(t, r.want, b.results)
		}
	})
}

// TestBudgetHearsOfTimeouts: what takes the place of an attempt that has timed out costs
// more than another retry, since the server may be at work for both.
func TestBudgetHearsOfTimeouts(t *testing.T) {
	t.Parallel()
	timeout := exact(func(p *policy.Policy) { p.AttemptTimeout = 30 * ms })
	for name, p := range map[string]policy.Policy{
		"a deadline": {Timeout: time.Minute, AttemptTimeout: timeout.AttemptTimeout, Retry: timeout.Retry},
		"none":       timeout,
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			b := &ledger{budget: budget.Default()}
			c := newClient(t, srv, interceptor.WithPolicy(p), b.inTarget())
			srv.Script(testsrv.Put, testsrv.Hang(), down, testsrv.OK())
			tl, err := c.call(t.Context(), testsrv.Put)
			require.NoError(t, err, name)
			assert.Equal(t, []string{"original failure", "replacement failure", "retry success"}, b.results, name)
			assert.Equal(t, budget.Retry, tl.Attempts[1].Kind, name)
		})
	}
}

// ledger keeps the books of a budget: how many leases are out, and what was said
// of those that returned.
type ledger struct {
	budget budget.Budget

	mu      sync.Mutex
	held    int
	results []string
}

func (l *ledger) Acquire(k budget.Kind) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	ok := l.budget.Acquire(k)
	if ok {
		l.held++
	}
	return ok
}

func (l *ledger) Release(k budget.Kind, r budget.Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held--
	l.results = append(l.results, fmt.Sprint(k, " ", r))
	l.budget.Release(k, r)
}

// inTarget is the option that has the ledger as the budget of every target.
func (l *ledger) inTarget() interceptor.Option {
	return interceptor.WithTargetBudget(func(string) budget.Budget { return l })
}

// hedges is a budget that grants all retries, and so many hedges.
type hedges struct{ left atomic.Int64 }

func (h *hedges) Acquire(k budget.Kind) bool       { return k != budget.Hedge || h.left.Add(-1) >= 0 }
func (*hedges) Release(budget.Kind, budget.Result) {}

func grantHedges(n int64) *ledger {
	h := new(hedges)
	h.left.Store(n)
	return &ledger{budget: h}
}

// TestCallsForgetEachOther plays pairs of calls one after the other, of all kinds
// that leave a trace in the pooled state: the second must be as if it were the
// first. Nobody watches, since that is when the state is reused most cheaply.
func TestCallsForgetEachOther(t *testing.T) {
	t.Parallel()
	type kind struct {
		name   string
		method string
		step   testsrv.Step
		opts   []grpc.CallOption
	}
	kinds := []kind{
		{"get", testsrv.Get, testsrv.OK(), nil},
		{"put", testsrv.Put, testsrv.OK(), nil},
		{"failing put", testsrv.Put, down, nil},
		{"failing pay", testsrv.Pay, down, nil},
		{"broken pay", testsrv.Pay, testsrv.KillConn(), nil},
		{"pay with key", testsrv.Pay, down, []grpc.CallOption{interceptor.WithIdempotencyKey("k")}},
		{"idempotent pay", testsrv.Pay, down, []grpc.CallOption{interceptor.WithIdempotency(classify.Idempotent)}},
		{"pay with a policy", testsrv.Pay, testsrv.OK(), []grpc.CallOption{interceptor.WithPolicy(exact(func(p *policy.Policy) { p.Idempotency = classify.Idempotent }))}},
		{"invalid", testsrv.Pay, testsrv.OK(), []grpc.CallOption{interceptor.WithPolicy(policy.Policy{Timeout: -1}), grpc.UseCompressor("none-such")}},
		{"pushback", testsrv.Pay, pushback("5"), nil},
	}
	outcome := func(t *testing.T, c client, k kind) string {
		t.Helper()
		c.srv.Script(k.method, k.step)
		before := c.srv.Count(k.method)
		req, reply := messages(k.method)
		err := c.conn.Invoke(t.Context(), k.method, req, reply, k.opts...)
		reason := interceptor.EndSucceeded
		var e *interceptor.Error
		if errors.As(err, &e) {
			reason = e.Reason
			assert.Len(t, e.Attempts, c.srv.Count(k.method)-before)
		}
		return fmt.Sprint(status.Code(err), " ", reason, " ", c.srv.Count(k.method)-before)
	}
	alone := map[string]string{}
	for _, k := range kinds {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			alone[k.name] = outcome(t, newClient(t, srv, interceptor.WithPolicy(exact())), k)
		})
	}
	for _, first := range kinds {
		for _, second := range kinds {
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				c := newClient(t, srv, interceptor.WithRules(policy.Rule{Methods: []string{"*"}, Policy: exact()}),
					interceptor.WithTargetBudget(func(string) budget.Budget { return nil }))
				for range 3 { // the pool may hand out another state now and then
					assert.Equal(t, alone[first.name], outcome(t, c, first), "%s after %s", first.name, second.name)
					assert.Equal(t, alone[second.name], outcome(t, c, second), "%s after %s", second.name, first.name)
				}
			})
		}
	}
}
