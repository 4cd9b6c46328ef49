package interceptor_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// Interceptors below rego that do more, or less, than to hand a call on.

// invocation is a call of grpc with its options left open.
type invocation func(opts ...grpc.CallOption) error

// below makes an interceptor of what it does with one.
func below(f func(ctx context.Context, reply any, opts []grpc.CallOption, call func(context.Context, any) invocation) error) grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return f(ctx, reply, opts, func(ctx context.Context, reply any) invocation {
			return func(opts ...grpc.CallOption) error { return invoker(ctx, method, req, reply, cc, opts...) }
		})
	})
}

func without[O any](opts []grpc.CallOption) []grpc.CallOption {
	return slices.DeleteFunc(slices.Clone(opts), func(o grpc.CallOption) bool {
		_, is := o.(O)
		return is
	})
}

// TestExecutedOnce: what an interceptor below does to options and errors makes no request
// that may have been executed look as if it had not been sent.
func TestExecutedOnce(t *testing.T) {
	t.Parallel()
	asChannel := grpc.WithDefaultServiceConfig(`{"methodConfig":[{"name":[{}],"retryPolicy":
		{"maxAttempts":4,"initialBackoff":"0.01s","maxBackoff":"0.01s","backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}}]}`)
	for name, r := range map[string]struct {
		step  testsrv.Step
		dial  grpc.DialOption
		below grpc.DialOption
	}{
		"drops the peer": {testsrv.KillConn(), grpc.EmptyDialOption{},
			below(func(ctx context.Context, reply any, opts []grpc.CallOption, call func(context.Context, any) invocation) error {
				return call(ctx, reply)(without[grpc.PeerCallOption](opts)...)
			})},
		"drops the header, under a retryPolicy": {testsrv.Do(testsrv.SendHeader(metadata.Pairs("a", "b")), down), asChannel,
			below(func(ctx context.Context, reply any, opts []grpc.CallOption, call func(context.Context, any) invocation) error {
				return call(ctx, reply)(without[grpc.HeaderCallOption](opts)...)
			})},
		"drops all, under a retryPolicy": {testsrv.Do(testsrv.SendHeader(metadata.Pairs("a", "b")), down), asChannel,
			below(func(ctx context.Context, reply any, _ []grpc.CallOption, call func(context.Context, any) invocation) error {
				return call(ctx, reply)()
			})},
		"makes another call, which is not sent": {testsrv.KillConn(), grpc.EmptyDialOption{},
			below(func(ctx context.Context, reply any, opts []grpc.CallOption, call func(context.Context, any) invocation) error {
				err := call(ctx, reply)(opts...)
				gone, cancel := context.WithCancel(ctx)
				cancel()
				_ = call(gone, new(testv1.PayResponse))(opts...)
				return err
			})},
		"makes another call, which is not processed, and returns its error": {testsrv.KillConn(), grpc.EmptyDialOption{},
			below(func(ctx context.Context, reply any, opts []grpc.CallOption, call func(context.Context, any) invocation) error {
				_ = call(ctx, reply)(opts...)
				return call(ctx, reply)(append(opts, grpc.PerRPCCredentials(draining{}))...)
			})},
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			conn := srv.Conn(t, append(newInterceptor(t).DialOptions(), r.dial, r.below)...)
			srv.Script(testsrv.Pay, r.step)
			err := conn.Invoke(t.Context(), testsrv.Pay, new(testv1.PayRequest), new(testv1.PayResponse))
			assert.Equal(t, codes.Unavailable, status.Code(err), name)
			assert.Equal(t, 1, srv.Count(testsrv.Pay), name)
		})
	}
}

// draining are credentials with which a call fails like one that the server has not processed.
type draining struct{}

func (draining) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return nil, status.Error(codes.Unavailable, "the connection is draining")
}

func (draining) RequireTransportSecurity() bool { return false }

// TestLeftRunning: an attempt that an interceptor below leaves running writes nothing of
// the caller's when another one has decided.
func TestLeftRunning(t *testing.T) {
	t.Parallel()
	detach := below(func(ctx context.Context, reply any, opts []grpc.CallOption, call func(context.Context, any) invocation) error {
		done := make(chan error, 1)
		own := proto.Clone(reply.(proto.Message))
		go func() { done <- call(context.WithoutCancel(ctx), own)(opts...) }()
		select {
		case err := <-done:
			proto.Merge(reply.(proto.Message), own)
			return err
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	})
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		conn := srv.Conn(t, append(newInterceptor(t, interceptor.WithPolicy(after100())).DialOptions(), detach)...)
		client{t, srv, conn}.ready().number(testsrv.Get,
			testsrv.Do(testsrv.Delay(time.Second), testsrv.Header(metadata.Pairs("of", "original")), testsrv.OK()),
			testsrv.Do(testsrv.Header(metadata.Pairs("of", "hedge")), testsrv.OK()))
		var header metadata.MD
		require.NoError(t, conn.Invoke(t.Context(), testsrv.Get, new(testv1.GetRequest), new(testv1.GetResponse), grpc.Header(&header)))
		assert.Equal(t, []string{"hedge"}, header.Get("of"))
		header.Set("of", "mine")
		virtual.Sleep(5 * time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"mine"}, header.Get("of"))
	})
}

// TestOptionsInPlace: an interceptor below may do with its options as it likes.
func TestOptionsInPlace(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		var limits int
		filter := below(func(ctx context.Context, reply any, opts []grpc.CallOption, call func(context.Context, any) invocation) error {
			kept := opts[:0]
			for _, o := range opts {
				if _, ok := o.(grpc.MaxRecvMsgSizeCallOption); ok {
					limits++
				} else {
					kept = append(kept, o)
				}
			}
			return call(ctx, reply)(kept...)
		})
		conn := srv.Conn(t, append(newInterceptor(t, interceptor.WithPolicy(exact(idempotent))).DialOptions(), filter)...)
		srv.Script(testsrv.Get, down, down, testsrv.OK())
		require.NoError(t, conn.Invoke(t.Context(), testsrv.Get, new(testv1.GetRequest), new(testv1.GetResponse), grpc.MaxCallRecvMsgSize(1<<20), grpc.UseCompressor("gzip")))
		assert.Equal(t, 3, limits, "each attempt has it")
	})
}

// TestHedgeThatCannotBeTaken: that the reply of a hedge is too large says nothing of the
// original's.
func TestHedgeThatCannotBeTaken(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(after100())).ready()
		c.number(testsrv.Get, after(300*ms, testsrv.OK()), testsrv.Reply(&testv1.GetResponse{Payload: make([]byte, 2000)}))
		tl, err := c.call(t.Context(), testsrv.Get, grpc.MaxCallRecvMsgSize(1000))
		require.NoError(t, err, "%v", tl)
		assert.Equal(t, 300*ms, tl.Elapsed())
	})
}

// TestReplacementsAreGivenBack: the lease of an attempt that was to take the place of
// one that timed out, and does not.
func TestReplacementsAreGivenBack(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		l := &ledger{budget: budget.All()}
		p := after100(func(p *policy.Policy) { p.AttemptTimeout, p.Hedge.Delay = 200*ms, time.Hour })
		c := newClient(t, srv, interceptor.WithPolicy(p), l.inTarget()).ready()
		for range 200 {
			srv.Script(testsrv.Put, testsrv.Do(testsrv.Delay(200*ms), testsrv.Pushback("10"), down), testsrv.OK())
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			_, _ = c.call(ctx, testsrv.Put)
			cancel()
		}
		assert.Zero(t, l.held)
	})
}

// TestCauseBelow: below rego the caller's cause is what it is bare.
func TestCauseBelow(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		boom := errors.New("boom")
		var cause error
		look := below(func(ctx context.Context, reply any, opts []grpc.CallOption, call func(context.Context, any) invocation) error {
			err := call(ctx, reply)(opts...)
			cause = context.Cause(ctx)
			return err
		})
		p := exact(func(p *policy.Policy) { p.AttemptTimeout = time.Second })
		conn := srv.Conn(t, append(newInterceptor(t, interceptor.WithPolicy(p)).DialOptions(), look)...)
		srv.Script(testsrv.Put, testsrv.Hang())
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(10*ms, func() { cancel(boom) })
		require.Error(t, conn.Invoke(ctx, testsrv.Put, new(testv1.PutRequest), new(testv1.PutResponse)))
		assert.Equal(t, boom, cause)
	})
}

// TestAnotherConnectionBelow: one that an interceptor below forwards to has its own rego.
func TestAnotherConnectionBelow(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		inner := srv.Conn(t, newInterceptor(t, interceptor.WithPolicy(policy.Policy{Timeout: time.Second})).DialOptions()...)
		outer := srv.Conn(t, append(newInterceptor(t).DialOptions(), grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				return inner.Invoke(ctx, method, req, reply, opts...)
			}))...)
		srv.Script(testsrv.Pay, testsrv.Hang())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		require.Error(t, outer.Invoke(ctx, testsrv.Pay, new(testv1.PayRequest), new(testv1.PayResponse)))
		assert.Equal(t, time.Second, time.Since(began))
	})
}

// TestMethodsPastTheLimit: a method of a proto file is what it is, however many names a
// client has made up before.
func TestMethodsPastTheLimit(t *testing.T) {
	t.Parallel()
	n := 0
	unary := newInterceptor(t, interceptor.WithTargetBudget(unlimited)).Unary()
	invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		n++
		return status.Error(codes.Unavailable, "down")
	}
	for i := range 17_000 {
		require.Error(t, unary(t.Context(), fmt.Sprintf("/made.up.Service/M%d", i), nil, new(testv1.PutResponse), nil, invoker))
	}
	n = 0
	require.Error(t, unary(t.Context(), testsrv.Put, nil, new(testv1.PutResponse), nil, invoker))
	assert.Equal(t, 3, n, "its proto file says that it is idempotent")
}

// TestReplyOfTheDecidingAttemptBelow: a codec, or a cache, that an interceptor below brings
// may add to a message.
func TestReplyOfTheDecidingAttemptBelow(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		n := 0
		cache := below(func(ctx context.Context, reply any, opts []grpc.CallOption, call func(context.Context, any) invocation) error {
			if n++; n > 1 {
				proto.Merge(reply.(proto.Message), &testv1.GetResponse{Id: "cached"})
				return nil
			}
			_ = call(ctx, reply)(opts...)
			return status.Error(codes.Unavailable, "down")
		})
		conn := srv.Conn(t, append(newInterceptor(t, interceptor.WithPolicy(exact(idempotent))).DialOptions(), cache)...)
		srv.Script(testsrv.Get, testsrv.Reply(&testv1.GetResponse{Payload: []byte("partial")}))
		reply := new(testv1.GetResponse)
		require.NoError(t, conn.Invoke(t.Context(), testsrv.Get, new(testv1.GetRequest), reply))
		assert.True(t, proto.Equal(&testv1.GetResponse{Id: "cached"}, reply), "%v", reply)
	})
}

// TestReplyThatHoldsSomething: an interceptor below that answers with what the caller's reply holds
// finds it there in each attempt.
func TestReplyThatHoldsSomething(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		notModified := below(func(ctx context.Context, reply any, opts []grpc.CallOption, call func(context.Context, any) invocation) error {
			err := call(ctx, reply)(opts...)
			if status.Code(err) == codes.FailedPrecondition {
				return nil
			}
			return err
		})
		conn := srv.Conn(t, append(newInterceptor(t).DialOptions(), notModified)...)
		for name, step := range map[string]testsrv.Step{
			"cached": testsrv.Fail(codes.FailedPrecondition, "not modified"),
			"new":    testsrv.Reply(&testv1.GetResponse{Id: "new"}),
		} {
			srv.Script(testsrv.Get, down, down, step)
			reply := &testv1.GetResponse{Id: "cached"}
			require.NoError(t, conn.Invoke(t.Context(), testsrv.Get, new(testv1.GetRequest), reply))
			assert.Equal(t, name, reply.GetId())
		}
		assert.Equal(t, 6, srv.Count(testsrv.Get))
	})
}
