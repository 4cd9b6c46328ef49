package interceptor_test

import (
	"context"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// Rules that made calls fail that succeed without rego.

// TestNotSentIsGivenBack: attempts that nobody got use up no budget.
func TestNotSentIsGivenBack(t *testing.T) {
	t.Parallel()
	type balanced interface {
		budget.Budget
		Balance() float64
	}
	for name, build := range map[string]func() (balanced, error){
		"bucket": func() (balanced, error) {
			return budget.NewTokenBucket(budget.TokenBucketConfig{PerSecond: 0.001, Burst: 10})
		},
		"ratio": func() (balanced, error) { return budget.NewRatio(budget.RatioConfig{MinPerSecond: 10}) },
	} {
		for _, hedged := range []bool{false, true} {
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				b, err := build()
				require.NoError(t, err)
				require.NoError(t, srv.Refuse(true))
				p := exact(idempotent, failsFast)
				if hedged {
					p.Hedge.Delay = ms
				}
				c := newClient(t, srv, interceptor.WithPolicy(p), interceptor.WithTargetBudget(func(string) budget.Budget { return b }))
				for range 20 {
					tl, err := c.call(t.Context(), testsrv.Put)
					require.Equal(t, codes.Unavailable, status.Code(err))
					assert.Equal(t, interceptor.EndAttemptsExhausted, tl.Reason, name)
				}
				assert.InDelta(t, 10, b.Balance(), 0.1, name) // the bucket earns a little
			})
		}
	}
}

// TestOneSlowCallSwitchesNothingOff: retries are refused only if even a fast attempt would
// come too late, and what is known of that is of the last seconds.
func TestOneSlowCallSwitchesNothingOff(t *testing.T) {
	t.Parallel()
	fails := func(c client) codes.Code {
		ctx, cancel := context.WithTimeout(c.Context(), time.Second)
		defer cancel()
		req, reply := messages(testsrv.Put)
		return status.Code(c.conn.Invoke(ctx, testsrv.Put, req, reply))
	}
	for _, first := range []time.Duration{2 * time.Second, 10 * time.Second, 30 * time.Second} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(exact()))
			srv.Script(testsrv.Put, after(first, testsrv.OK()))
			req, reply := messages(testsrv.Put)
			require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Put, req, reply))
			for range 50 {
				srv.Script(testsrv.Put, after(5*ms, down), after(5*ms, testsrv.OK()))
				require.Equal(t, codes.OK, fails(c), "after a first call of %v", first)
			}
		})
	}
	bubble(t, func(t *testing.T, srv *testsrv.Server) { // a slow minute
		c := newClient(t, srv, interceptor.WithPolicy(exact()))
		srv.Script(testsrv.Put, after(2*time.Second, testsrv.OK()))
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { _, _ = c.call(t.Context(), testsrv.Put) })
		}
		all.Wait()
		srv.Script(testsrv.Put, after(5*ms, down))
		assert.Equal(t, codes.Unavailable, fails(c), "too late even for a fast one")
		virtual.Sleep(4 * time.Second)
		srv.Script(testsrv.Put, after(5*ms, down), after(5*ms, testsrv.OK()))
		assert.Equal(t, codes.OK, fails(c))
	})
}

// TestEveryMethodIsSampled, also one that is called in turn with others, and after the
// garbage collector has run.
func TestEveryMethodIsSampled(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact()))
		late := func(method string) bool {
			srv.Script(method, down)
			ctx, cancel := context.WithTimeout(t.Context(), 50*ms+200*time.Microsecond)
			defer cancel()
			tl, err := c.call(ctx, method)
			require.Error(t, err)
			srv.Script(method, after(ms/2, testsrv.OK()))
			return len(tl.Attempts) == 1
		}
		assert.False(t, late(testsrv.Put))
		srv.Script(testsrv.Put, after(ms/2, testsrv.OK()))
		srv.Script(testsrv.Get, after(ms/2, testsrv.OK()))
		known := false
		for range 20 {
			for range 1000 {
				req, reply := messages(testsrv.Get)
				require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Get, req, reply))
				req, reply = messages(testsrv.Put)
				require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Put, req, reply))
			}
			runtime.GC()
			if known = late(testsrv.Put); known {
				break
			}
		}
		assert.True(t, known, "some of thousands of calls are samples")
	})
}

// TestAttemptTimeoutNeedsASuccessor: a slow attempt is not ended if nothing comes after.
func TestAttemptTimeoutNeedsASuccessor(t *testing.T) {
	t.Parallel()
	slow := func(p *policy.Policy) { p.AttemptTimeout = 200 * ms }
	for name, r := range map[string]struct {
		policy policy.Policy
		opts   []interceptor.Option
	}{
		"one attempt":       {exact(slow, idempotent, func(p *policy.Policy) { p.Retry.MaxAttempts = 1 }), nil},
		"retries off":       {exact(slow, idempotent, func(p *policy.Policy) { p.Retry.Off = true }), nil},
		"classifier none":   {exact(slow, idempotent, func(p *policy.Policy) { p.Classifier = policy.ClassifierNone }), nil},
		"codes do not list": {exact(slow, idempotent, func(p *policy.Policy) { p.Retry.Codes = []codes.Code{codes.Unavailable} }), nil},
		"not idempotent":    {exact(slow, func(p *policy.Policy) { p.Idempotency = classify.NotIdempotent }), nil},
		"budget denies":     {exact(slow, idempotent), []interceptor.Option{interceptor.WithTargetBudget(func(string) budget.Budget { return noBudget{} })}},
		"hedges budget denies": {exact(slow, idempotent, func(p *policy.Policy) { p.Hedge.Delay = time.Hour }), []interceptor.Option{
			interceptor.WithTargetBudget(func(string) budget.Budget { return noBudget{} }),
		}},
		"wait does not fit": {exact(slow, idempotent, func(p *policy.Policy) { p.Retry.Backoff.Initial = 5 * time.Second }), nil},
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, append(r.opts, interceptor.WithPolicy(r.policy))...)
			srv.Script(testsrv.Put, after(400*ms, testsrv.OK()))
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			tl, err := c.call(ctx, testsrv.Put)
			require.NoError(t, err, "%s: %v", name, tl)
			assert.Equal(t, 400*ms, tl.Elapsed(), name)
		})
	}
	bubble(t, func(t *testing.T, srv *testsrv.Server) { // the switch of a set
		st, err := policy.NewStore(policy.Set{Rules: []policy.Rule{{Methods: []string{"*"}, Policy: exact(slow, idempotent)}}, RetriesOff: true})
		require.NoError(t, err)
		c := newClient(t, srv, interceptor.WithPolicies(st))
		srv.Script(testsrv.Put, after(400*ms, testsrv.OK()))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err = c.call(ctx, testsrv.Put)
		require.NoError(t, err)
	})
	bubble(t, func(t *testing.T, srv *testsrv.Server) { // what is denied is asked for again
		b := new(later)
		c := newClient(t, srv, interceptor.WithPolicy(exact(slow, idempotent)), interceptor.WithTargetBudget(func(string) budget.Budget { return b }))
		srv.Script(testsrv.Put, testsrv.Hang(), testsrv.OK())
		time.AfterFunc(500*ms, func() { b.grants.Store(true) })
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		tl, err := c.call(ctx, testsrv.Put)
		require.NoError(t, err, "%v", tl)
		assert.Equal(t, 650*ms, tl.Elapsed(), "after 200 and 400 ms the budget said no: %v", tl)
		assert.Len(t, tl.Denials, 1, "it is told once")
	})
}

type noBudget struct{}

func (noBudget) Acquire(k budget.Kind) bool         { return k == budget.Original }
func (noBudget) Release(budget.Kind, budget.Result) {}

// later is a budget that grants nothing at first.
type later struct{ grants atomic.Bool }

func (l *later) Acquire(k budget.Kind) bool       { return k == budget.Original || l.grants.Load() }
func (*later) Release(budget.Kind, budget.Result) {}

// TestWhoWaitsHoldsNoPlace: retries that a server has told to come back much later leave
// others room.
func TestWhoWaitsHoldsNoPlace(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		b, err := budget.NewConcurrency(budget.ConcurrencyConfig{Share: 0.2, Min: 3})
		require.NoError(t, err)
		c := newClient(t, srv, interceptor.WithPolicy(exact()), interceptor.WithTargetBudget(func(string) budget.Budget { return b }))
		srv.Script(testsrv.Get, pushback("300000"), pushback("300000"), pushback("300000"), testsrv.OK())
		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() {
				_, err := c.call(t.Context(), testsrv.Get)
				assert.NoError(t, err)
			})
		}
		synctest.Wait()
		for range 10 {
			srv.Script(testsrv.Put, down, testsrv.OK())
			_, err := c.call(t.Context(), testsrv.Put)
			require.NoError(t, err)
		}
		waiting.Wait()

		// One whose place is taken when it has waited gets the status that it waited on.
		srv.Script(testsrv.Get, pushback("1000"), testsrv.OK())
		time.AfterFunc(time.Second/2, func() {
			for range 3 {
				b.Acquire(budget.Hedge)
			}
		})
		tl, err := c.call(t.Context(), testsrv.Get)
		assert.Equal(t, codes.Unavailable, status.Code(err))
		assert.Equal(t, interceptor.EndBudgetDenied, tl.Reason)
	})
}

// TestNoHedgeForWhoHasLeft: also if the attempt beside it does not notice.
func TestNoHedgeForWhoHasLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		unary := newInterceptor(t, interceptor.WithTargetBudget(unlimited),
			interceptor.WithPolicy(exact(idempotent, func(p *policy.Policy) { p.Hedge.Delay = 30 * ms }))).Unary()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*ms, cancel)
		attempts := 0
		err := unary(ctx, testsrv.Put, nil, new(testv1.PutResponse), nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
				attempts++
				virtual.Sleep(60 * ms)
				return status.FromContextError(context.Canceled).Err()
			})
		assert.Equal(t, codes.Canceled, status.Code(err))
		assert.Equal(t, 1, attempts)
	})
}

// TestQuotaPerMinute: a server that says which quota is used up, and when there is more of
// it, is asked again then.
func TestQuotaPerMinute(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		perMinute := testsrv.Fail(codes.ResourceExhausted, "per minute", quota, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
		srv.Script(testsrv.Put, perMinute, testsrv.OK())
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		tl, err := newClient(t, srv).call(ctx, testsrv.Put)
		require.NoError(t, err)
		assert.GreaterOrEqual(t, tl.Elapsed(), time.Second)
		assert.LessOrEqual(t, tl.Elapsed(), 1500*ms)
	})
}

// TestRefusedStreams: what a server says it has not processed is repeated, for any method.
func TestRefusedStreams(t *testing.T) {
	t.Parallel()
	for _, refused := range []int{1, 2, 3, 4} { // grpc itself repeats every other one
		synctest.Test(t, func(t *testing.T) {
			srv := newRefuser(refused)
			conn, err := grpc.NewClient("passthrough:///refuser", append(
				newInterceptor(t, interceptor.WithPolicy(exact()), interceptor.WithTargetBudget(unlimited)).DialOptions(),
				grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(srv.dial))...)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var tl interceptor.Timeline
			err = conn.Invoke(ctx, testsrv.Pay, &testv1.PayRequest{}, new(testv1.PayResponse), interceptor.WithTimeline(&tl))
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "the server accepted it, and says nothing more: %v", &tl)
			assert.Len(t, tl.Attempts, refused/2+1, "%v", &tl)
			for _, a := range tl.Attempts[:refused/2] {
				assert.Equal(t, classify.DeliveryNotSent, a.Delivery, "%v", &tl)
				assert.Equal(t, classify.ReasonNotSent, a.Outcome.Reason)
			}
			require.NoError(t, conn.Close())
			<-srv.done
			assert.Equal(t, refused+1, srv.streams)
		})
	}
}

// TestHedgeAfterGoAway: a hedge of a call that a leaving server keeps waiting goes to the
// successor, though the channel has to connect for it.
func TestHedgeAfterGoAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old, next := testsrv.Start(t), testsrv.Start(t)
		old.Script(testsrv.Get, testsrv.OK(), testsrv.Do(testsrv.Delay(2*time.Second), testsrv.OK()))
		var now atomic.Pointer[testsrv.Server]
		now.Store(old)
		dial := func(ctx context.Context, addr string) (net.Conn, error) { return now.Load().DialContext(ctx, addr) }
		it := newInterceptor(t, interceptor.WithPolicy(after100()))
		c := client{t, old, old.Conn(t, append(it.DialOptions(), grpc.WithContextDialer(dial))...)}.ready()
		_, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)

		go func() {
			virtual.Sleep(10 * time.Millisecond)
			now.Store(next)
			old.Drain()
		}()
		began := time.Now()
		tl, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)
		assert.Equal(t, 100*time.Millisecond, time.Since(began), "%v", tl)
		assert.Equal(t, 1, next.Count(testsrv.Get))
	})
}
