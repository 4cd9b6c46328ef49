package interceptor

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
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
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/hedge"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// attemptDoes is what an attempt does to what grpc would write, and returns.
type attemptDoes func(ctx context.Context, reply any) error

// asGRPC is an invoker whose attempts do one thing after the other, and write all that grpc
// does.
func asGRPC(does ...attemptDoes) grpc.UnaryInvoker {
	var n atomic.Int64
	return func(ctx context.Context, _ string, _, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
		do := does[min(int(n.Add(1)), len(does))-1]
		err := do(ctx, reply)
		for _, o := range opts {
			switch o := o.(type) {
			case grpc.HeaderCallOption:
				*o.HeaderAddr = metadata.Pairs("of", "this call")
			case grpc.TrailerCallOption:
				*o.TrailerAddr = metadata.Pairs("of", "this call")
			case grpc.PeerCallOption:
				*o.PeerAddr = peer.Peer{Addr: fakeAddr{}}
			case grpc.OnFinishCallOption:
				o.OnFinish(err)
			}
		}
		return err
	}
}

func answers(_ context.Context, reply any) error {
	reply.(*testv1.GetResponse).Id = "1"
	return nil
}

func fails(code codes.Code) attemptDoes {
	return func(context.Context, any) error { return status.Error(code, "failed") }
}

func hangs(ctx context.Context, _ any) error {
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

// TestStateIsNew: whatever has become of a call, its state is that of a new one
// afterwards.
func TestStateIsNew(t *testing.T) { // not beside others: what is over with its first attempt is in the pool
	fast := policy.Policy{Idempotency: classify.Idempotent, Retry: policy.Retry{Backoff: policy.Backoff{Initial: policy.NoWait}}}
	with := func(change func(p *policy.Policy)) policy.Policy { p := fast; change(&p); return p }
	hedged := with(func(p *policy.Policy) { p.Hedge.Delay = time.Millisecond })
	var header, trailer metadata.MD
	var p peer.Peer
	var tl Timeline
	panics := func(context.Context, any) error { panic("below") }
	for name, r := range map[string]struct {
		policy policy.Policy
		does   []attemptDoes
		opts   []grpc.CallOption
		after  time.Duration // the caller cancels
		panics bool
	}{
		"success":                   {fast, []attemptDoes{answers}, nil, 0, false},
		"stub's option":             {fast, []attemptDoes{answers}, stubOptions, 0, false},
		"many options":              {fast, []attemptDoes{answers}, slices.Repeat(stubOptions, 40), 0, false},
		"outputs":                   {fast, []attemptDoes{answers}, []grpc.CallOption{grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&p), grpc.OnFinish(func(error) {})}, 0, false},
		"watched":                   {fast, []attemptDoes{answers}, []grpc.CallOption{WithTimeline(&tl), WithObserver(nobody{})}, 0, false},
		"waits for ready":           {with(func(p *policy.Policy) { p.WaitForReady = true }), []attemptDoes{answers}, nil, 0, false},
		"timeouts":                  {with(func(p *policy.Policy) { p.Timeout, p.AttemptTimeout = time.Second, time.Second }), []attemptDoes{answers}, nil, 0, false},
		"key and idempotency":       {fast, []attemptDoes{answers}, []grpc.CallOption{WithIdempotencyKey("k"), WithIdempotency(classify.Idempotent)}, 0, false},
		"policy of the call":        {fast, []attemptDoes{answers}, []grpc.CallOption{WithPolicy(policy.Policy{Timeout: time.Second})}, 0, false},
		"invalid policy":            {fast, []attemptDoes{answers}, []grpc.CallOption{WithPolicy(policy.Policy{Timeout: -1})}, 0, false},
		"fatal":                     {fast, []attemptDoes{fails(codes.NotFound)}, nil, 0, false},
		"fatal, watched, outputs":   {fast, []attemptDoes{fails(codes.NotFound)}, []grpc.CallOption{WithTimeline(&tl), grpc.Header(&header), grpc.OnFinish(func(error) {})}, 0, false},
		"retried":                   {fast, []attemptDoes{fails(codes.Unavailable), fails(codes.Unavailable), answers}, nil, 0, false},
		"retried, watched, outputs": {fast, []attemptDoes{fails(codes.Unavailable), answers}, []grpc.CallOption{WithTimeline(&tl), grpc.Header(&header), grpc.Peer(&p)}, 0, false},
		"attempts run out":          {fast, []attemptDoes{fails(codes.Unavailable)}, nil, 0, false},
		"left in a wait":            {with(func(p *policy.Policy) { p.Retry.Backoff.Initial = time.Hour; p.Retry.Backoff.Max = time.Hour }), []attemptDoes{fails(codes.Unavailable)}, []grpc.CallOption{grpc.OnFinish(func(error) {})}, time.Second, false},
		"left in an attempt":        {fast, []attemptDoes{hangs}, nil, time.Second, false},
		"attempt times out":         {with(func(p *policy.Policy) { p.AttemptTimeout = time.Second }), []attemptDoes{hangs, answers}, nil, 0, false},
		"attempts time out":         {with(func(p *policy.Policy) { p.AttemptTimeout = time.Second }), []attemptDoes{hangs}, nil, 0, false},
		"hedge not sent":            {hedged, []attemptDoes{answers}, nil, 0, false},
		"hedge wins":                {hedged, []attemptDoes{hangs, answers}, []grpc.CallOption{grpc.Header(&header), grpc.OnFinish(func(error) {})}, 0, false},
		"hedge fails":               {hedged, []attemptDoes{hangs, fails(codes.InvalidArgument)}, nil, 0, false},
		"hedges left":               {hedged, []attemptDoes{hangs}, nil, time.Second, false},
		"hedge waits for a budget":  {with(func(p *policy.Policy) { p.Hedge.Delay, p.Budget = time.Millisecond, "none" }), []attemptDoes{hangs}, nil, time.Second, false},
		"trigger":                   {with(func(p *policy.Policy) { p.Hedge.Trigger = "fixed" }), []attemptDoes{hangs, answers}, nil, 0, false},
		"panic below":               {fast, []attemptDoes{panics}, nil, 0, true},
		"panic of a hedge":          {hedged, []attemptDoes{hangs, panics}, nil, 0, true},
		"OnFinish panics":           {fast, []attemptDoes{answers}, []grpc.CallOption{grpc.OnFinish(func(error) { panic("OnFinish") })}, 0, true},
	} {
		for _, below := range []string{"an interceptor", "grpc", "grpc, and the first attempt has no state"} {
			t.Run(name+", below is "+below, func(t *testing.T) { // one at a time: outputs are shared
				synctest.Test(t, func(t *testing.T) {
					it, err := New(WithPolicy(r.policy), WithTargetBudget(unlimited), WithBudget("none", noHedges{}), WithTrigger("fixed", hedge.Fixed(time.Millisecond)), WithLogger(slog.New(slog.DiscardHandler)))
					require.NoError(t, err)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if r.after > 0 {
						time.AfterFunc(r.after, cancel)
					}
					u := newUnary()
					if u.endsInTime = below != "an interceptor"; !u.endsInTime {
						u.standAlone()
					}
					d, reply, invoker := it.door(true), new(testv1.GetResponse), asGRPC(r.does...)
					over := false
					func() {
						defer func() { assert.Equal(t, r.panics, recover() != nil) }()
						if below == "grpc, and the first attempt has no state" {
							it.target(nil).plan(benchMethod).method.clocked.Store(false)
							over = u.firstSucceeds(ctx, d, benchMethod, "request", reply, nil, invoker, r.opts)
						}
						if !over {
							_ = u.serve(ctx, d, benchMethod, "request", reply, nil, invoker, r.opts)
						}
					}()
					if r.panics {
						return // it is not used again
					}
					assert.False(t, u.endsLater)
					fresh := newUnary()
					if !over {
						u.reset()
					}
					fresh.place, fresh.unmeasured = u.place, u.unmeasured
					fresh.reset()
					fresh.endsInTime = over // it is asked for each call
					assert.Empty(t, strangers("unary", reflect.ValueOf(u).Elem(), reflect.ValueOf(fresh).Elem()))
				})
			})
		}
	}
}

// noHedges is a budget that grants none.
type noHedges struct{}

func (noHedges) Acquire(k budget.Kind) bool         { return k != budget.Hedge }
func (noHedges) Release(budget.Kind, budget.Result) {}

type nobody struct{}

func (nobody) Start(ctx context.Context, _ *Event) context.Context { return ctx }
func (nobody) Observe(context.Context, *Event)                     {}

// strangers returns the paths at which a value differs from a new one. Functions and
// pointers differ if one of them is nil: those of a new one point into itself. Of slices
// it looks at all there is room for.
func strangers(path string, v, fresh reflect.Value) (paths []string) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[sync.Cond]() { // it counts who has waited
			return nil
		}
		for i := range v.NumField() {
			paths = append(paths, strangers(path+"."+v.Type().Field(i).Name, v.Field(i), fresh.Field(i))...)
		}
	case reflect.Slice:
		if v.Len() != fresh.Len() {
			return []string{path}
		}
		v, fresh = v.Slice(0, v.Cap()), fresh.Slice(0, fresh.Cap())
		if v.Len() != fresh.Len() {
			return []string{path}
		}
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			paths = append(paths, strangers(fmt.Sprintf("%s[%d]", path, i), v.Index(i), fresh.Index(i))...)
		}
	case reflect.Pointer, reflect.Func, reflect.Interface, reflect.Map, reflect.Chan:
		if v.IsNil() != fresh.IsNil() {
			return []string{path}
		}
	default:
		if !v.Equal(fresh) {
			return []string{path}
		}
	}
	return paths
}

// TestGRPCIsKnown: grpc's own invoker is recognised, and nothing else is taken for it.
func TestGRPCIsKnown(t *testing.T) {
	t.Parallel()
	var own, wrapped bool
	look := func(to *bool) grpc.UnaryClientInterceptor {
		return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			*to = endsInTime(invoker)
			return invoker(ctx, method, req, reply, cc, opts...)
		}
	}
	conn, err := grpc.NewClient("passthrough:///nobody", append((*Interceptor)(nil).DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithChainUnaryInterceptor(look(&wrapped), look(&own)))...)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, conn.Invoke(ctx, benchMethod, nil, nil))
	assert.True(t, own)
	assert.False(t, wrapped)
	assert.False(t, endsInTime(asGRPC(answers)))
}

// TestReturnedEarly: what grpc writes after its call has returned is seen by nobody else.
func TestReturnedEarly(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]int{"once": 1, "twice, one of them in time": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				it, err := New(WithLogger(slog.New(slog.DiscardHandler)))
				require.NoError(t, err)
				unary := it.Unary()
				alice := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
					late := asGRPC(answers)
					if ends == 2 {
						_ = asGRPC(fails(codes.Unavailable))(ctx, method, req, reply, cc, opts...)
					}
					go func() {
						virtual.Sleep(time.Second)
						_ = late(ctx, method, req, reply, cc, opts...)
					}()
					return status.Error(codes.DeadlineExceeded, "early")
				}
				var told []error
				err = unary(t.Context(), benchMethod, nil, new(testv1.GetResponse), nil, alice, grpc.OnFinish(func(err error) { told = append(told, err) }))
				require.Equal(t, codes.DeadlineExceeded, status.Code(err))
				bob := func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
					virtual.Sleep(2 * time.Second)
					for _, o := range opts {
						switch o := o.(type) {
						case grpc.HeaderCallOption:
							assert.Empty(t, *o.HeaderAddr)
						case grpc.TrailerCallOption:
							assert.Empty(t, *o.TrailerAddr)
						case grpc.PeerCallOption:
							assert.Nil(t, o.PeerAddr.Addr)
						}
					}
					return nil
				}
				for range 20 {
					require.NoError(t, unary(t.Context(), benchMethod, nil, new(testv1.GetResponse), nil, bob))
				}
				synctest.Wait()
				require.Len(t, told, 1, "as bare, when grpc has ended the call")
			})
		})
	}
}
