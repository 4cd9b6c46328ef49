package interceptor_test

import (
	"context"
	"math/rand/v2"
	"net"
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
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/hedge"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// nothing is a budget that grants no extra attempt.
func nothing(t *testing.T) interceptor.Option {
	t.Helper()
	b, err := budget.NewRatio(budget.RatioConfig{})
	require.NoError(t, err)
	return interceptor.WithTargetBudget(func(string) budget.Budget { return b })
}

// away has a server refuse connections from now on, for a while.
func away(t *testing.T, srv *testsrv.Server, d time.Duration) {
	t.Helper()
	require.NoError(t, srv.Refuse(true))
	srv.KillConns()
	time.AfterFunc(d, func() { _ = srv.Refuse(false) })
}

// TestReconnect: a call waits for a server that has just gone away, whatever the method, and
// without a budget.
func TestReconnect(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, nothing(t))
		for _, gone := range []time.Duration{200 * ms, time.Second, 3 * time.Second, 4 * time.Second} {
			away(t, srv, gone)
			synctest.Wait()
			var head, tail metadata.MD
			var from peer.Peer
			finished := 0
			tl, err := c.call(t.Context(), testsrv.Pay, grpc.Header(&head), grpc.Trailer(&tail), grpc.Peer(&from),
				grpc.OnFinish(func(err error) { assert.NoError(t, err); finished++ }))
			require.NoError(t, err, "%v", tl)
			require.Len(t, tl.Attempts, 1, "%v", tl)
			a := tl.Attempts[0]
			assert.GreaterOrEqual(t, a.Unreachable, gone, "%v", tl)
			assert.Less(t, tl.Elapsed(), gone+300*ms, "it is dialled again within 300 ms")
			assert.NotNil(t, from.Addr)
			assert.NotEmpty(t, head)
			assert.Equal(t, 1, finished)
			assert.Contains(t, tl.String(), "without a connection")
		}
		assert.Equal(t, 4, srv.Count(testsrv.Pay))
		for _, a := range srv.Arrivals(testsrv.Pay) {
			assert.Empty(t, a.Metadata.Get("grpc-previous-rpc-attempts"), "no server has seen the ones before")
		}
	})
}

// TestUnreachable: who stays away for longer is not waited for, until it is back.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv)
		_, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)
		away(t, srv, time.Minute)
		synctest.Wait()
		fails := func(ctx context.Context, after time.Duration) {
			t.Helper()
			tl, err := c.call(ctx, testsrv.Get)
			assert.Equal(t, codes.Unavailable, status.Code(err), "the last real status")
			assert.Contains(t, err.Error(), "connection refused")
			assert.Equal(t, interceptor.EndUnreachable, tl.Reason)
			assert.Len(t, tl.Attempts, 1)
			assert.Equal(t, after, tl.Elapsed(), "%v", tl)
			assert.Empty(t, tl.Denials)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		fails(ctx, 2*time.Second)
		fails(t.Context(), 3*time.Second)
		for range 40 {
			fails(t.Context(), 0)
			virtual.Sleep(time.Second)
		}
		virtual.Sleep(2 * time.Minute) // grpc has dialled again
		tl, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err, "%v", tl)
		away(t, srv, time.Second)
		synctest.Wait()
		tl, err = c.call(t.Context(), testsrv.Get)
		require.NoError(t, err, "away anew: %v", tl)
	})
}

// TestReconnectIsLeft: a caller that leaves is not held.
func TestReconnectIsLeft(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv)
		require.NoError(t, srv.Refuse(true))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(700*ms, cancel)
		var finished error
		tl, err := c.call(ctx, testsrv.Pay, grpc.OnFinish(func(err error) { finished = err }))
		assert.Equal(t, codes.Canceled, status.Code(err))
		assert.Equal(t, codes.Canceled, status.Code(finished))
		assert.Equal(t, interceptor.EndCallerCancelled, tl.Reason)
		assert.Equal(t, 700*ms, tl.Elapsed())
		assert.Equal(t, interceptor.AttemptCancelled, tl.Attempts[0].Result)
	})
}

// TestReconnectOfStreamsIsLeft: nor is one that opens a stream.
func TestReconnectOfStreamsIsLeft(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{watchKind, uploadKind, chatKind} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, named(exact(idempotent)))
			require.NoError(t, srv.Refuse(true))
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(700*ms, cancel)
			a := c.openWith(ctx, cancel, k, nil)
			assert.Equal(t, []string{"open: Canceled (caller-cancelled) @700ms"}, a.seen)
			ctx, cancel = context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			a = c.openWith(ctx, cancel, k, nil)
			assert.Equal(t, []string{"open: Unavailable (unreachable) @1s"}, a.seen)
		})
	}
}

// TestReconnectResumes: a watch goes on over one restart after the other.
func TestReconnectResumes(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, named(exact(idempotent)))
		srv.Handle(testsrv.Watch, func(testsrv.Arrival) testsrv.Step {
			return testsrv.Do(testsrv.Send(1), testsrv.Hang())
		})
		var tl interceptor.Timeline
		cs, err := c.conn.NewStream(t.Context(), watchKind.desc(), testsrv.Watch, interceptor.WithTimeline(&tl),
			interceptor.WithResume(func(_ *testv1.WatchResponse, req *testv1.WatchRequest) (*testv1.WatchRequest, bool) { return req, true }))
		require.NoError(t, err)
		require.NoError(t, cs.SendMsg(watchKind.request("rows")))
		require.NoError(t, cs.CloseSend())
		for range 5 {
			require.NoError(t, cs.RecvMsg(new(testv1.WatchResponse)), "%v", &tl)
			virtual.Sleep(time.Minute)
			away(t, srv, 3*time.Second)
		}
	})
}

// TestReconnectIsForRetries: calls that may not be retried, and those that say so, fail as bare.
func TestReconnectIsForRetries(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]policy.Policy{
		"no wait":      exact(failsFast),
		"off":          exact(func(p *policy.Policy) { p.Retry.Off = true }),
		"one attempt":  exact(func(p *policy.Policy) { p.Retry.MaxAttempts = 1 }),
		"as gRPC":      {AsGRPC: true, Retry: policy.Retry{Codes: []codes.Code{codes.Unavailable}, Backoff: policy.Backoff{Jitter: policy.JitterNone}}},
		"other codes":  {Retry: policy.Retry{Codes: []codes.Code{codes.Aborted}}},
		"all is final": {Classifier: policy.ClassifierNone},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				c := newClient(t, srv, interceptor.WithPolicy(p))
				require.NoError(t, srv.Refuse(true))
				tl, err := c.call(t.Context(), testsrv.Get)
				assert.Equal(t, codes.Unavailable, status.Code(err))
				assert.LessOrEqual(t, tl.Elapsed(), 150*ms, "%v", tl)
				assert.NotEqual(t, interceptor.EndUnreachable, tl.Reason)
				assert.Zero(t, tl.Attempts[0].Unreachable)
			})
		})
	}
}

// TestReconnectPace: however many wait, a client dials at most four times a second, and only
// while somebody waits.
func TestReconnectPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var dials []time.Time
		var mu sync.Mutex
		dial := func(context.Context, string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			dials = append(dials, time.Now())
			return nil, &net.OpError{Op: "dial", Err: assert.AnError}
		}
		conn, err := grpc.NewClient("passthrough:///away", append(newInterceptor(t).DialOptions(),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))...)
		require.NoError(t, err)
		defer conn.Close()
		start := time.Now()
		var calls sync.WaitGroup
		for range 100 {
			calls.Go(func() {
				req, reply := messages(testsrv.Get)
				assert.Error(t, conn.Invoke(t.Context(), testsrv.Get, req, reply))
			})
		}
		calls.Wait()
		assert.Equal(t, 5*time.Second, time.Since(start))
		virtual.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		for i := range dials {
			inSecond := 0
			for _, d := range dials[i:] {
				if d.Sub(dials[i]) < time.Second {
					inSecond++
				}
			}
			assert.LessOrEqual(t, inSecond, 4)
		}
		early := 0
		for _, d := range dials {
			if d.Sub(start) <= 5*time.Second {
				early++
			}
		}
		assert.GreaterOrEqual(t, early, 17, "about four a second")
		assert.LessOrEqual(t, len(dials)-early, 8, "grpc's own backoff has grown since")
	})
}

// TestReadyAndNotSent: what is not sent though the channel is ready counts as an attempt, and
// is not billed.
func TestReadyAndNotSent(t *testing.T) {
	t.Parallel()
	for _, hedged := range []bool{false, true} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			var picks atomic.Int32
			conn := srv.Conn(t, append(newInterceptor(t, nothing(t), interceptor.WithPolicy(exact(idempotent, func(p *policy.Policy) {
				if hedged {
					p.Hedge.Delay = time.Second
				}
			}))).DialOptions(), grpc.WithPerRPCCredentials(tokenless{&picks}))...)
			c := client{t, srv, conn}
			tl, err := c.call(t.Context(), testsrv.Get)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			if hedged {
				assert.Equal(t, interceptor.EndBudgetDenied, tl.Reason, "%v", tl)
				return
			}
			assert.Equal(t, interceptor.EndAttemptsExhausted, tl.Reason, "%v", tl)
			assert.EqualValues(t, 3, picks.Load())
			assert.Equal(t, 150*ms, tl.Elapsed(), "with backoff")
			assert.Empty(t, tl.Denials, "and without a budget")
		})
	}
}

// tokenless are credentials that cannot be had.
type tokenless struct{ asked *atomic.Int32 }

func (r tokenless) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	r.asked.Add(1)
	return nil, status.Error(codes.Unavailable, "no token")
}

func (tokenless) RequireTransportSecurity() bool { return false }

// TestReconnectStreams: streams of all kinds wait as calls do.
func TestReconnectStreams(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{watchKind, uploadKind, chatKind} {
		for _, hedged := range []bool{false, true} {
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				p := exact(idempotent, func(p *policy.Policy) {
					if hedged {
						p.Hedge.Delay = 20 * ms
					}
				})
				c := newClient(t, srv, nothing(t), named(p))
				away(t, srv, time.Second)
				synctest.Wait()
				a := c.open(k, append(k.sendsAll(), receives)...)
				require.NotNil(t, a.cs, "%v", &a.tl)
				assert.Equal(t, 1, srv.Count(k.method))
				for _, seen := range a.seen {
					assert.NotContains(t, seen, "(", "no error: %v", a.seen)
				}
				assert.Contains(t, a.seen[len(a.seen)-1], "1", "%v", a.seen)
			})
		}
	}
}

// TestReconnectHedged: the lead waits, and hedges do not wait beside it.
func TestReconnectHedged(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact(idempotent, func(p *policy.Policy) { p.Hedge.Delay = 10 * ms })))
		away(t, srv, time.Second)
		synctest.Wait()
		tl, err := c.call(t.Context(), testsrv.Put)
		require.NoError(t, err, "%v", tl)
		require.Len(t, tl.Attempts, 1, "%v", tl)
		for _, d := range tl.Denials {
			assert.Equal(t, interceptor.DeniedNotReady, d.Reason)
		}
		assert.Equal(t, 1, srv.Count(testsrv.Put))
	})
}

// TestReconnectThenHedge: what has waited for a connection is hedged as any other call.
func TestReconnectThenHedge(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact(idempotent, func(p *policy.Policy) { p.Hedge.Delay = 20 * ms })))
		away(t, srv, 500*ms)
		synctest.Wait()
		srv.Script(testsrv.Put, testsrv.Do(testsrv.Delay(3*time.Second), testsrv.OK()), testsrv.OK())
		tl, err := c.call(t.Context(), testsrv.Put)
		require.NoError(t, err)
		assert.Less(t, tl.Elapsed(), time.Second, "%v", tl)
		assert.Len(t, tl.Attempts, 2, "%v", tl)
	})
}

// TestReconnectHedgedInFlight: what was in flight when the server went away is made again, also
// if a hedge took its place that found no connection.
func TestReconnectHedgedInFlight(t *testing.T) {
	t.Parallel()
	for _, hedge := range []time.Duration{0, 50 * ms} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, named(exact(idempotent, func(p *policy.Policy) {
				p.Retry.MaxAttempts, p.Hedge.Delay = 2, hedge
			})), interceptor.WithTargetBudget(func(string) budget.Budget { return nil }))
			srv.Handle(testsrv.Put, func(testsrv.Arrival) testsrv.Step { return testsrv.Do(testsrv.Delay(20*ms), testsrv.OK()) })
			_, err := c.call(t.Context(), testsrv.Put)
			require.NoError(t, err)
			time.AfterFunc(10*ms, func() { away(t, srv, 200*ms) })
			tl, err := c.call(t.Context(), testsrv.Put)
			require.NoError(t, err, "%v", tl)
			assert.Equal(t, 3, srv.Count(testsrv.Put))
		})
	}
}

// TestReconnectWithinServiceConfig: the timeout of the service config bounds the call, what it
// has waited included.
func TestReconnectWithinServiceConfig(t *testing.T) {
	t.Parallel()
	for _, watched := range []bool{false, true} {
		for _, k := range []kind{watchKind, chatKind, {}} {
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				it := newInterceptor(t, named(exact(idempotent)))
				c := client{t, srv, srv.Conn(t, append(it.DialOptions(),
					grpc.WithDefaultServiceConfig(`{"methodConfig":[{"name":[{}],"timeout":"1.5s"}]}`))...)}
				for _, m := range []string{testsrv.Get, testsrv.Watch, testsrv.Chat} {
					srv.Script(m, testsrv.Hang())
				}
				away(t, srv, time.Second)
				synctest.Wait()
				began := time.Now()
				var err error
				var opts []grpc.CallOption
				if watched {
					opts = append(opts, interceptor.WithTimeline(new(interceptor.Timeline)))
				}
				if k.method == "" {
					req, reply := messages(testsrv.Get)
					err = c.conn.Invoke(t.Context(), testsrv.Get, req, reply, opts...)
				} else {
					cs, failed := c.conn.NewStream(t.Context(), k.desc(), k.method, opts...)
					require.NoError(t, failed)
					require.NoError(t, cs.SendMsg(k.request("a")))
					err = cs.RecvMsg(new(testv1.WatchResponse))
				}
				assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
				assert.Equal(t, 1500*ms, time.Since(began))
			})
		}
	}
}

// TestReconnectBelow: the same with an interceptor between rego and grpc, which sees each time
// that the attempt is made.
func TestReconnectBelow(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		var below atomic.Int32
		conn := srv.Conn(t, append(newInterceptor(t).DialOptions(), grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				below.Add(1)
				return invoker(ctx, method, req, reply, cc, opts...)
			}))...)
		c := client{t, srv, conn}
		away(t, srv, time.Second)
		synctest.Wait()
		var head metadata.MD
		var from peer.Peer
		tl, err := c.call(t.Context(), testsrv.Pay, grpc.Header(&head), grpc.Peer(&from))
		require.NoError(t, err, "%v", tl)
		assert.EqualValues(t, 2, below.Load())
		assert.NotEmpty(t, head)
		assert.NotNil(t, from.Addr)
	})
}

// waitsSeen counts the attempts that observers are told of, and those that wait.
type waitsSeen struct{ started, waited, ended atomic.Int32 }

func (w *waitsSeen) Start(ctx context.Context, e *interceptor.Event) context.Context {
	if e.Kind == interceptor.AttemptStart {
		w.started.Add(1)
	}
	return ctx
}

func (w *waitsSeen) Observe(_ context.Context, e *interceptor.Event) {
	switch e.Kind {
	case interceptor.ReconnectWait:
		w.waited.Add(1)
	case interceptor.AttemptEnd:
		w.ended.Add(1)
	default:
	}
}

// TestReconnectIsSeen: as one attempt that waits.
func TestReconnectIsSeen(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		var seen waitsSeen
		c := newClient(t, srv, interceptor.WithObserver(&seen))
		away(t, srv, time.Second)
		synctest.Wait()
		_, err := c.call(t.Context(), testsrv.Get)
		require.NoError(t, err)
		assert.EqualValues(t, 1, seen.started.Load())
		assert.EqualValues(t, 1, seen.waited.Load())
		assert.EqualValues(t, 1, seen.ended.Load())
	})
}

// TestReconnectAtRandom: calls of all kinds against a server that goes away and comes back at
// random. None that waits long enough fails without having been sent, and nothing stays.
func TestReconnectAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			r := rand.New(rand.NewPCG(seed, 1))
			it := newInterceptor(t, named(exact(idempotent)))
			c := client{t, srv, srv.Conn(t, it.DialOptions()...)}
			stop := make(chan struct{})
			var flaps sync.WaitGroup
			flaps.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Duration(r.IntN(1000)) * ms):
					}
					_ = srv.Refuse(true)
					if r.IntN(2) == 0 {
						srv.KillConns()
					}
					virtual.Sleep(time.Duration(r.IntN(1500)) * ms)
					_ = srv.Refuse(false)
				}
			})
			var calls sync.WaitGroup
			for n := range 60 {
				calls.Go(func() {
					virtual.Sleep(time.Duration(n) * 100 * ms)
					tl, err := c.call(t.Context(), testsrv.Get)
					assert.Equal(t, codes.OK, status.Code(err), "seed %d: %v", seed, tl)
					a := c.open(watchKind, append(watchKind.sendsAll(), receives)...)
					assert.NotNil(t, a.cs, "seed %d: %v", seed, &a.tl)
				})
			}
			calls.Wait()
			close(stop)
			flaps.Wait()
		})
	}
}

// TestNotSentKeepsItsLease: the attempt after one that was not sent has what that was granted,
// and each lease is released once.
func TestNotSentKeepsItsLease(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		var b counted
		c := newClient(t, srv, interceptor.WithTargetBudget(func(string) budget.Budget { return &b }))
		away(t, srv, time.Second)
		synctest.Wait()
		_, err := c.call(t.Context(), testsrv.Pay)
		require.NoError(t, err)
		require.NoError(t, srv.Refuse(true))
		srv.KillConns()
		synctest.Wait()
		for range 3 {
			tl, err := c.call(t.Context(), testsrv.Pay, interceptor.WithPolicy(exact(failsFast)))
			require.Error(t, err)
			assert.Equal(t, interceptor.EndAttemptsExhausted, tl.Reason)
		}
		assert.Equal(t, map[budget.Kind]int{budget.Original: 4}, b.acquired)
		assert.Equal(t, map[budget.Result]int{budget.Success: 1, budget.Unsent: 3}, b.released)
	})
}

// counted is a budget that grants all and notes what it was asked.
type counted struct {
	mu       sync.Mutex
	acquired map[budget.Kind]int
	released map[budget.Result]int
}

func (c *counted) Acquire(k budget.Kind) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.acquired == nil {
		c.acquired, c.released = make(map[budget.Kind]int), make(map[budget.Result]int)
	}
	c.acquired[k]++
	return true
}

func (c *counted) Release(_ budget.Kind, r budget.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.released[r]++
}

// pausing grants all, and counts what waits. It does not take back what has waited if full.
type pausing struct {
	counted
	full            bool
	paused, resumed int
}

func (p *pausing) Pause(budget.Kind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused++
}

func (p *pausing) Resume(budget.Kind) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resumed++
	return !p.full
}

// TestReconnectHoldsNoPlace: a retry that waits for a connection does not hold the place of
// another, and asks for its own again.
func TestReconnectHoldsNoPlace(t *testing.T) {
	t.Parallel()
	for _, full := range []bool{false, true} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			b := &pausing{full: full}
			c := newClient(t, srv, interceptor.WithPolicy(exact(idempotent, func(p *policy.Policy) { p.Retry.Backoff.Initial = policy.NoWait })),
				interceptor.WithTargetBudget(func(string) budget.Budget { return b }))
			srv.Handle(testsrv.Put, func(testsrv.Arrival) testsrv.Step { return testsrv.Do(testsrv.Delay(20*ms), testsrv.OK()) })
			time.AfterFunc(10*ms, func() { away(t, srv, 200*ms) })
			tl, err := c.call(t.Context(), testsrv.Put)
			assert.Equal(t, 1, b.paused)
			assert.Equal(t, 1, b.resumed)
			if !full {
				require.NoError(t, err, "%v", tl)
				assert.Equal(t, 1, b.released[budget.Success])
				return
			}
			assert.Equal(t, interceptor.EndBudgetDenied, tl.Reason, "%v", tl)
			require.Len(t, tl.Denials, 1)
			assert.Equal(t, interceptor.DeniedByBudget, tl.Denials[0].Reason)
			assert.Equal(t, 1, srv.Count(testsrv.Put))
		})
	}
}

// told is a trigger that keeps what it is told, and wants no hedge.
type told struct {
	mu    sync.Mutex
	ended []hedge.EndedAttempt
}

func (*told) Next(hedge.Call) (time.Duration, hedge.State) { return time.Hour, hedge.Ready }

func (h *told) Ended(a hedge.EndedAttempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = append(h.ended, a)
}

// TestReconnectIsNoLatency: what an attempt has waited for a connection says nothing of what
// the method takes.
func TestReconnectIsNoLatency(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		var h told
		c := newClient(t, srv, interceptor.WithTrigger("told", &h), interceptor.WithPolicy(exact(idempotent, func(p *policy.Policy) { p.Hedge.Trigger = "told" })))
		away(t, srv, time.Second)
		synctest.Wait()
		srv.Script(testsrv.Put, testsrv.Do(testsrv.Delay(20*ms), testsrv.OK()))
		_, err := c.call(t.Context(), testsrv.Put)
		require.NoError(t, err)
		require.Len(t, h.ended, 1)
		assert.Equal(t, 20*ms, h.ended[0].End.Sub(h.ended[0].Start))
	})
}
