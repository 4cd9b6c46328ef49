package interceptor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/otelobs"
	"github.com/rego-go/rego/policy"
)

// Calls that a client with rego made worse off than one without. Each test is one kind of
// fault; internal/twin looks for others at random.

// TestWaitForReadyStaysWithItsPolicy: what a policy says of one method is not said of the
// calls that come after, of other methods and other interceptors.
func TestWaitForReadyStaysWithItsPolicy(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		waits := policy.Rule{Methods: []string{testsrv.Get}, Policy: policy.Policy{WaitForReady: true}}
		var most int
		count := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			most = max(most, len(opts))
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		one := srv.Conn(t, append(newInterceptor(t, interceptor.WithRules(waits)).DialOptions(), grpc.WithChainUnaryInterceptor(count))...)
		two := srv.Conn(t, newInterceptor(t).DialOptions()...)
		for range 1000 {
			require.NoError(t, one.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{}, new(testv1.GetResponse)))
		}
		assert.LessOrEqual(t, most, 8, "options do not pile up")
		require.NoError(t, srv.Refuse(true))
		srv.KillConns()
		synctest.Wait()
		for range 32 {
			for _, conn := range []*grpc.ClientConn{one, two} {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				err := conn.Invoke(ctx, testsrv.Pay, &testv1.PayRequest{}, new(testv1.PayResponse))
				assert.Equal(t, codes.Unavailable, status.Code(err), "not at its deadline")
				cancel()
			}
		}
	})
}

// note and addingCodec: a codec that adds to the message, as encoding/json does.
type note struct {
	Name, Error string
	Tags        map[string]int
}

type addingCodec struct{}

func (addingCodec) Name() string                       { return "json" }
func (addingCodec) Marshal(m any) ([]byte, error)      { return json.Marshal(m) }
func (addingCodec) Unmarshal(data []byte, m any) error { return json.Unmarshal(data, m) }

var _ encoding.Codec = addingCodec{}

// TestReplyOfTheAttemptAlone: nothing of a failed attempt's message is in the reply.
func TestReplyOfTheAttemptAlone(t *testing.T) {
	t.Parallel()
	attempts := []string{`{"Name":"first","Error":"partial","Tags":{"first":1}}`, `{"Name":"second","Tags":{"second":1}}`}
	for name, r := range map[string]struct {
		policy policy.Policy
		before note
		want   note
		err    codes.Code
	}{
		"retry":                 {exact(idempotent), note{}, note{Name: "second", Tags: map[string]int{"second": 1}}, codes.OK},
		"hedge":                 {exact(idempotent, func(p *policy.Policy) { p.Hedge.Delay = time.Hour }), note{}, note{Name: "second", Tags: map[string]int{"second": 1}}, codes.OK},
		"one that is not empty": {exact(idempotent), note{Error: "before"}, note{Name: "first", Error: "partial", Tags: map[string]int{"first": 1}}, codes.Unavailable},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			invoker := func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
				var err error
				if n++; n == 1 {
					err = status.Error(codes.Unavailable, "after its message")
				}
				require.NoError(t, addingCodec{}.Unmarshal([]byte(attempts[n-1]), reply))
				for _, o := range opts {
					switch o := o.(type) {
					case grpc.HeaderCallOption:
						*o.HeaderAddr = metadata.Pairs("arrived", "yes")
					case grpc.OnFinishCallOption:
						o.OnFinish(err)
					}
				}
				return err
			}
			got := r.before
			err := newInterceptor(t, interceptor.WithPolicy(r.policy)).Unary()(t.Context(), testsrv.Put, nil, &got, nil, invoker, grpc.ForceCodec(addingCodec{}))
			assert.Equal(t, r.err, status.Code(err), name)
			assert.Equal(t, r.want, got, name)
		})
	}
}

// books is an observer that counts what begins and what ends.
type books struct {
	counter
	codes []codes.Code
}

func (b *books) Start(ctx context.Context, e *interceptor.Event) context.Context {
	b.Observe(ctx, e)
	return ctx
}

func (b *books) Observe(ctx context.Context, e *interceptor.Event) {
	b.counter.Observe(ctx, e)
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.Kind == interceptor.CallEnd {
		b.codes = append(b.codes, e.Timeline.Code)
	}
}

func (b *books) check(t *testing.T, calls int) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	assert.Equal(t, calls, b.events[interceptor.CallStart])
	assert.Equal(t, calls, b.events[interceptor.CallEnd])
	assert.Equal(t, b.events[interceptor.AttemptStart], b.events[interceptor.AttemptEnd])
}

// TestPanicsKeepTheBooks: whoever panics, each call and each attempt ends once, and the
// panic is the caller's.
func TestPanicsKeepTheBooks(t *testing.T) {
	t.Parallel()
	t.Run("OnFinish", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			b := new(books)
			c := newClient(t, srv, interceptor.WithObserver(b))
			for range 10 {
				assert.PanicsWithValue(t, "OnFinish", func() {
					_, _ = c.call(t.Context(), testsrv.Put, grpc.OnFinish(func(error) { panic("OnFinish") }))
				})
			}
			b.check(t, 10)
			assert.NotContains(t, b.codes, codes.Unknown, "they ended well")
		})
	})
	for name, opts := range map[string]func(*atomic.Int64) []interceptor.Option{
		"classifier": func(n *atomic.Int64) []interceptor.Option {
			return []interceptor.Option{interceptor.WithClassifier("mine", classify.Func(func(*classify.EndedAttempt) classify.Outcome {
				if n.Add(1)%7 == 0 {
					panic("mine")
				}
				return classify.Outcome{}
			}))}
		},
		"budget": func(n *atomic.Int64) []interceptor.Option {
			return []interceptor.Option{
				interceptor.WithClassifier("mine", nil),
				interceptor.WithTargetBudget(func(string) budget.Budget { return bombBudget{n} }),
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, n := new(books), new(atomic.Int64)
			p := policy.Policy{Classifier: "mine", Idempotency: classify.Idempotent, Hedge: policy.Hedge{Delay: policy.NoWait}, Retry: policy.Retry{MaxAttempts: 4, Backoff: policy.Backoff{Initial: policy.NoWait}}}
			it := newInterceptor(t, append([]interceptor.Option{interceptor.WithTargetBudget(unlimited), interceptor.WithObserver(b), interceptor.WithPolicy(p)}, opts(n)...)...)
			unary := it.Unary()
			const calls = 3000
			var panics int
			for i := range calls {
				func() {
					defer func() {
						if p := recover(); p != nil {
							assert.Equal(t, "mine", p)
							panics++
						}
					}()
					_ = unary(t.Context(), testsrv.Put, nil, new(testv1.PutResponse), nil,
						func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
							runtime.Gosched()
							if (i+attemptNumber(ctx))%3 == 0 {
								return nil
							}
							return status.Error(codes.Unavailable, "")
						})
				}()
			}
			assert.Positive(t, panics)
			b.check(t, calls)
		})
	}
}

// bombBudget panics now and then.
type bombBudget struct{ n *atomic.Int64 }

func (b bombBudget) tick() {
	if b.n.Add(1)%11 == 0 {
		panic("mine")
	}
}
func (b bombBudget) Acquire(budget.Kind) bool           { b.tick(); return true }
func (b bombBudget) Release(budget.Kind, budget.Result) { b.tick() }

// TestCallsFromWithin: what a program gives the interceptor may itself make calls through
// it.
func TestCallsFromWithin(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		var conn *grpc.ClientConn
		inner := 0
		call := func() {
			if inner++; inner < 20 {
				assert.NoError(t, conn.Invoke(t.Context(), testsrv.Pay, &testv1.PayRequest{}, new(testv1.PayResponse)))
			}
		}
		it := newInterceptor(t,
			interceptor.WithTargetBudget(func(string) budget.Budget { call(); return budget.Default() }),
			interceptor.WithLogger(slog.New(callingHandler{call})),
			interceptor.WithPolicies(new(policy.Store)))
		conn = srv.Conn(t, it.DialOptions()...)
		require.NoError(t, conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{}, new(testv1.PutResponse)))
		_ = conn.Invoke(t.Context(), testv1.AnnotatedService_Invalid_FullMethodName, &testv1.InvalidRequest{}, new(testv1.InvalidResponse))
		assert.GreaterOrEqual(t, inner, 2, "the budget's maker, and the logger")
	})
}

type callingHandler struct{ call func() }

func (callingHandler) Enabled(context.Context, slog.Level) bool    { return true }
func (h callingHandler) Handle(context.Context, slog.Record) error { h.call(); return nil }
func (h callingHandler) WithAttrs([]slog.Attr) slog.Handler        { return h }
func (h callingHandler) WithGroup(string) slog.Handler             { return h }

// TestNothingIsHarmless: nil where an option, a set, an observer is expected, and an
// interceptor that New has not made.
func TestNothingIsHarmless(t *testing.T) {
	t.Parallel()
	_, err := interceptor.New(nil, interceptor.DualOption{}, interceptor.WithObserver(nil))
	require.NoError(t, err)
	require.NotNil(t, otelobs.New(nil))
	_, err = policy.NewStore(policy.Set{}, nil)
	require.NoError(t, err)
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		for _, it := range []*interceptor.Interceptor{nil, new(interceptor.Interceptor)} {
			conn := srv.Conn(t, append(it.DialOptions(), grpc.WithChainUnaryInterceptor(it.Unary()), grpc.WithChainStreamInterceptor(it.Stream()))...)
			require.NoError(t, conn.Invoke(t.Context(), testsrv.Pay, &testv1.PayRequest{}, new(testv1.PayResponse)))
			watch, err := testv1.NewTestServiceClient(conn).Watch(t.Context(), &testv1.WatchRequest{})
			require.NoError(t, err)
			_, err = watch.Recv()
			require.NoError(t, err)
		}
		c := newClient(t, srv)
		_, err := c.call(t.Context(), testsrv.Pay, interceptor.CallOption{}, interceptor.DualOption{}, interceptor.WithObserver(nil),
			interceptor.WithTimeline(nil), interceptor.WithResume[testv1.WatchResponse, testv1.WatchRequest](nil))
		require.NoError(t, err)
	})
}

// TestOneLayer: of two interceptors on a connection one makes attempts, and the other says
// once that it does not.
func TestOneLayer(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		var log bytes.Buffer
		logger := interceptor.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))
		all := interceptor.WithTargetBudget(unlimited)
		twice := newInterceptor(t, logger, all, interceptor.WithPolicy(exact()))
		other := newInterceptor(t, logger, all, interceptor.WithPolicy(exact()))
		for name, opts := range map[string][]grpc.DialOption{
			"twice":       append(twice.DialOptions(), twice.DialOptions()...),
			"two of them": append(twice.DialOptions(), other.DialOptions()...),
		} {
			log.Reset()
			conn := srv.Conn(t, opts...)
			for _, method := range []string{testsrv.Put, testsrv.Watch} {
				for range 2 {
					before := srv.Count(method)
					srv.Script(method, down)
					var tl interceptor.Timeline
					opts := []grpc.CallOption{interceptor.WithTimeline(&tl), interceptor.WithIdempotency(classify.Idempotent)}
					if method == testsrv.Put {
						require.Error(t, conn.Invoke(t.Context(), method, &testv1.PutRequest{}, new(testv1.PutResponse), opts...))
					} else {
						watch, err := testv1.NewTestServiceClient(conn).Watch(t.Context(), &testv1.WatchRequest{}, opts...)
						require.NoError(t, err)
						_, err = watch.Recv()
						require.Error(t, err)
					}
					assert.Len(t, tl.Attempts, 3, name)
					assert.Equal(t, 3, srv.Count(method)-before, name)
				}
			}
			assert.Equal(t, 1, strings.Count(log.String(), "two of rego's interceptors"), "%s: %s", name, log.String())
		}
	})
}

// TestAnsweredBelow: an interceptor below that answers by itself, as a cache does, writes
// to the options it is given, and the caller gets that.
func TestAnsweredBelow(t *testing.T) {
	t.Parallel()
	cache := func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
		reply.(*testv1.GetResponse).Id = "cached"
		for _, o := range opts {
			switch o := o.(type) {
			case grpc.HeaderCallOption:
				*o.HeaderAddr = metadata.Pairs("from", "cache")
			case grpc.TrailerCallOption:
				*o.TrailerAddr = metadata.Pairs("age", "1")
			case grpc.PeerCallOption:
				o.PeerAddr.Addr = address("cache")
			}
		}
		return nil
	}
	for name, p := range map[string]policy.Policy{"retries": exact(idempotent), "hedging": after100(), "nothing": {Retry: policy.Retry{Off: true}}} {
		var header, trailer metadata.MD
		var from peer.Peer
		reply := new(testv1.GetResponse)
		require.NoError(t, newInterceptor(t, interceptor.WithPolicy(p)).Unary()(t.Context(), testsrv.Get, new(testv1.GetRequest), reply, nil, cache,
			grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from)), name)
		assert.Equal(t, "cached", reply.GetId(), name)
		assert.Equal(t, []string{"cache"}, header.Get("from"), name)
		assert.Equal(t, []string{"1"}, trailer.Get("age"), name)
		assert.Equal(t, address("cache"), from.Addr, name)
	}
}

var targets = flag.Int("targets", 2000, "how many targets TestTargetsAreLetGo dials and closes")

// TestTargetsAreLetGo: a client that dials addresses in turn keeps nothing of those it
// has closed.
func TestTargetsAreLetGo(t *testing.T) {
	srv := testsrv.Start(t, testsrv.NoRecording(), testsrv.TCP("127.0.0.1:0"))
	it := newInterceptor(t, interceptor.WithPolicy(after100()))
	visit := func(n int) {
		opts := append(it.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(srv.DialContext))
		conn, err := grpc.NewClient(fmt.Sprintf("passthrough:///pod-%d", n), opts...)
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close()) }()
		for m := range 10 {
			// The server does not know them, which is an answer, too.
			_ = conn.Invoke(t.Context(), fmt.Sprintf("/rego.test.v1.TestService/Made%d", m), new(testv1.GetRequest), new(testv1.GetResponse))
		}
	}
	heap := func() int64 {
		runtime.GC() // cleanups run after it, and let go of more
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for n := range 100 {
		visit(n)
	}
	before := heap()
	for n := range *targets {
		visit(100 + n)
	}
	var per int64
	assert.Eventually(t, func() bool {
		per = (heap() - before) / int64(*targets)
		return per < 100
	}, time.Minute, 100*time.Millisecond)
	t.Logf("%d bytes per closed target", per)
	runtime.KeepAlive(it)
}
