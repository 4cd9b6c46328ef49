package interceptor_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// stateOf returns what an interceptor knows of a method.
func stateOf(t *testing.T, it *interceptor.Interceptor, method string) interceptor.MethodState {
	t.Helper()
	for _, target := range it.State().Targets {
		for _, m := range target.Methods {
			if m.Method == method {
				return m
			}
		}
	}
	require.Fail(t, "nothing is known of "+method)
	return interceptor.MethodState{}
}

// few is a budget of so many extra attempts.
type few struct {
	mu   sync.Mutex
	left int
}

func (f *few) Acquire(k budget.Kind) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if k != budget.Original {
		f.left--
	}
	return k == budget.Original || f.left >= 0
}

func (*few) Release(budget.Kind, budget.Result) {}

// TestStateCounts: what calls do is counted, although nobody watches.
func TestStateCounts(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		it := newInterceptor(t, named(exact(idempotent)),
			interceptor.WithTargetBudget(func(string) budget.Budget { return &few{left: 3} }))
		conn := srv.Conn(t, it.DialOptions()...)
		fails := testsrv.Fail(codes.Unavailable, "")
		srv.Script(testsrv.Get,
			testsrv.Echo(),
			fails, testsrv.Fail(codes.DataLoss, ""),
			fails, testsrv.Do(testsrv.Pushback("7"), fails), testsrv.Echo(),
			fails, // and is denied another
			testsrv.Fail(codes.Code(77), ""),
		)
		began := time.Now()
		for range 5 {
			_ = conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse))
		}
		s := stateOf(t, it, testsrv.Get)
		assert.Equal(t, []interceptor.CallCount{
			{Code: codes.OK, Reason: interceptor.EndSucceeded, Count: 2},
			{Code: codes.Unavailable, Reason: interceptor.EndBudgetDenied, Count: 1},
			{Code: codes.DataLoss, Reason: interceptor.EndNonRetryable, Count: 1},
			{Code: interceptor.OtherCode, Reason: interceptor.EndNonRetryable, Count: 1},
		}, s.Calls)
		answered := func(k budget.Kind, w interceptor.WaitReason, r interceptor.AttemptResult, c codes.Code, n int64) interceptor.AttemptCount {
			return interceptor.AttemptCount{Kind: k, WaitedOn: w, Result: r, Delivery: classify.DeliveryAnswered, Code: c, Count: n}
		}
		assert.Equal(t, []interceptor.AttemptCount{
			answered(budget.Original, 0, interceptor.AttemptWon, codes.OK, 1),
			answered(budget.Original, 0, interceptor.AttemptFailed, codes.Unavailable, 3),
			answered(budget.Original, 0, interceptor.AttemptFailed, interceptor.OtherCode, 1),
			answered(budget.Retry, interceptor.WaitBackoff, interceptor.AttemptFailed, codes.Unavailable, 1),
			answered(budget.Retry, interceptor.WaitBackoff, interceptor.AttemptFailed, codes.DataLoss, 1),
			answered(budget.Retry, interceptor.WaitPushback, interceptor.AttemptWon, codes.OK, 1),
		}, s.Attempts)
		assert.Equal(t, []interceptor.DenialCount{{Kind: budget.Retry, Reason: interceptor.DeniedByBudget, Count: 1}}, s.Denials)
		assert.Equal(t, began, s.Since)
		assert.True(t, s.Registered)
		calls, attempts := s.Total()
		assert.Equal(t, [2]int64{5, 8}, [2]int64{calls, attempts})
	})
}

// TestStateCountsHedges: an original that lost, and how long it ran for nothing.
func TestStateCountsHedges(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		it := newInterceptor(t, named(after100(idempotent)))
		c := client{t, srv, srv.Conn(t, it.DialOptions()...)}.ready()
		c.number(testsrv.Get, testsrv.Hang(), testsrv.Echo())
		require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse)))
		s := stateOf(t, it, testsrv.Get)
		assert.Equal(t, []interceptor.CallCount{{Code: codes.OK, Reason: interceptor.EndSucceeded, Count: 1}}, s.Calls)
		assert.Equal(t, []interceptor.AttemptCount{
			{Kind: budget.Original, Result: interceptor.AttemptLost, Code: codes.Canceled, Count: 1},
			{Kind: budget.Hedge, WaitedOn: interceptor.WaitHedgeDelay, Result: interceptor.AttemptWon, Delivery: classify.DeliveryAnswered, Count: 1},
		}, s.Attempts)
		assert.Equal(t, 100*ms, s.Wasted)
		require.NotNil(t, s.Hedging)
		assert.Equal(t, "ready", s.Hedging.State)
		assert.Equal(t, 100*ms, s.Hedging.Delay)
		assert.Zero(t, s.Hedging.Samples)
	})
}

// TestStateCountsWhatIsTornDown: a panic ends a call, and its attempt, as unfinished.
func TestStateCountsWhatIsTornDown(t *testing.T) {
	t.Parallel()
	it := newInterceptor(t)
	panics := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { panic("below") }
	assert.Panics(t, func() {
		_ = it.Unary()(t.Context(), testsrv.Get, nil, new(testv1.GetResponse), nil, panics)
	})
	s := stateOf(t, it, testsrv.Get)
	assert.Equal(t, []interceptor.CallCount{
		{Code: codes.Unknown, Reason: interceptor.EndUnfinished, Count: 1},
	}, s.Calls)
	assert.Equal(t, []interceptor.AttemptCount{
		{Result: interceptor.AttemptRunning, Code: codes.Unknown, Count: 1},
	}, s.Attempts)
}

// TestStateOfStreams: a stream counts when it has ended, and holds memory until it is
// committed.
func TestStateOfStreams(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		it := newInterceptor(t, named(exact(idempotent)))
		client := testv1.NewTestServiceClient(srv.Conn(t, it.DialOptions()...))
		up, err := client.Upload(t.Context())
		require.NoError(t, err)
		require.NoError(t, up.Send(&testv1.UploadRequest{Payload: make([]byte, 1000)}))
		synctest.Wait()
		s := stateOf(t, it, testsrv.Upload)
		assert.Empty(t, s.Calls)
		assert.Greater(t, s.ReplayBytes, int64(1000))
		assert.Equal(t, s.ReplayBytes, it.State().ReplayBytes)
		_, err = up.CloseAndRecv()
		require.NoError(t, err)
		s = stateOf(t, it, testsrv.Upload)
		assert.Equal(t, []interceptor.CallCount{{Code: codes.OK, Reason: interceptor.EndSucceeded, Count: 1}}, s.Calls)
		assert.Len(t, s.Attempts, 1)
		assert.Zero(t, s.ReplayBytes)
	})
}

// TestStateForgets: of a target without connections nothing is kept.
func TestStateForgets(t *testing.T) {
	t.Parallel()
	it := newInterceptor(t)
	func() {
		conn, err := grpc.NewClient("passthrough:///gone", append(it.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, conn.Invoke(ctx, testsrv.Get, nil, nil))
		s := stateOf(t, it, testsrv.Get)
		assert.Equal(t, codes.Canceled, s.Calls[0].Code)
		assert.NotEmpty(t, s.Samples)
		require.NoError(t, conn.Close())
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		return len(it.State().Targets) == 0
	}, 10*time.Second, 10*ms)
}

func TestStateOfNothing(t *testing.T) {
	t.Parallel()
	assert.Empty(t, (*interceptor.Interceptor)(nil).State().Targets)
	assert.Empty(t, new(interceptor.Interceptor).State().Targets)
	assert.Empty(t, newInterceptor(t).State().Targets)
}

// TestStateWhileCallsRun: it may be asked for at any time, and what it counts never goes back.
func TestStateWhileCallsRun(t *testing.T) {
	t.Parallel()
	it := newInterceptor(t)
	fails := func(_ context.Context, _ string, req, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		if req.(int)%3 == 0 {
			return context.Canceled
		}
		return nil
	}
	const goroutines, each = 4, 2000
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := range each {
				_ = it.Unary()(t.Context(), testsrv.Get, i, new(testv1.GetResponse), nil, fails)
			}
		})
	}
	stop := make(chan struct{})
	var looks sync.WaitGroup
	looks.Go(func() {
		var before int64
		for {
			var calls int64
			for _, target := range it.State().Targets {
				for _, m := range target.Methods {
					calls, _ = m.Total()
				}
			}
			assert.GreaterOrEqual(t, calls, before)
			before = calls
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	wg.Wait()
	close(stop)
	looks.Wait()
	s := stateOf(t, it, testsrv.Get)
	calls, attempts := s.Total()
	assert.EqualValues(t, goroutines*each, calls)
	assert.EqualValues(t, goroutines*each, attempts)
}
