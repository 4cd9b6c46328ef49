package interceptor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// TestSameAsBare makes the same call bare and through rego, against the same
// script, and compares everything a caller can see.
func TestSameAsBare(t *testing.T) {
	t.Parallel()
	md := testsrv.Do(testsrv.Header(metadata.Pairs("h", "1")), testsrv.Trailer(metadata.Pairs("t", "2")))
	for name, steps := range map[string]testsrv.Step{
		"ok":               testsrv.Do(md, testsrv.OK()),
		"error":            testsrv.Do(md, testsrv.Fail(codes.NotFound, "no such thing", retryInfo)),
		"header, error":    testsrv.Do(md, testsrv.SendHeader(nil), testsrv.Fail(codes.Internal, "oops")),
		"attempts run out": testsrv.Do(md, testsrv.Fail(codes.Unavailable, "down", retryInfo)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				srv.Script(testsrv.Put, steps)
				type seen struct {
					reply           *testv1.PutResponse
					header, trailer metadata.MD
					text            string
					status          *status.Status
					finished        []string
				}
				call := func(conn *grpc.ClientConn) (s seen, addr string) {
					s.reply = new(testv1.PutResponse)
					var p peer.Peer
					err := conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{Id: "1", Payload: []byte("x")}, s.reply,
						grpc.Header(&s.header), grpc.Trailer(&s.trailer), grpc.Peer(&p), grpc.OnFinish(func(err error) {
							s.finished = append(s.finished, status.Convert(err).String())
						}))
					if err != nil {
						s.text = err.Error()
						s.status, _ = status.FromError(err)
					}
					s.reply.Attempt = 0 // which arrival served it
					return s, p.Addr.String()
				}
				want, wantPeer := call(srv.Conn(t))
				got, gotPeer := call(newClient(t, srv, interceptor.WithPolicy(exact())).conn)
				assert.True(t, proto.Equal(want.reply, got.reply))
				assert.True(t, proto.Equal(want.status.Proto(), got.status.Proto()))
				want.reply, got.reply, want.status, got.status = nil, nil, nil, nil
				assert.Equal(t, want, got)
				assert.Len(t, got.finished, 1)
				assert.Equal(t, wantPeer, gotPeer)
			})
		})
	}
}

// TestOutputsOfTheDecidingAttempt: metadata of failed attempts is not seen.
func TestOutputsOfTheDecidingAttempt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact()))
		srv.Script(testsrv.Put,
			testsrv.Do(testsrv.Trailer(metadata.Pairs("first", "x")), testsrv.Fail(codes.Unavailable, "")),
			testsrv.Do(testsrv.Header(metadata.Pairs("second", "y")), testsrv.OK()))
		var h1, h2, tr metadata.MD
		finished := 0
		_, err := c.call(t.Context(), testsrv.Put, grpc.Header(&h1), grpc.Header(&h2), grpc.Trailer(&tr),
			grpc.OnFinish(func(error) { finished++ }))
		require.NoError(t, err)
		assert.Empty(t, tr.Get("first"))
		assert.Equal(t, []string{"y"}, h1.Get("second"))
		h1.Set("second", "z")
		assert.Equal(t, []string{"y"}, h2.Get("second"), "targets share nothing")
		assert.Equal(t, 1, finished)
	})
}

// TestOutputsOfAnAttemptThatWasNotSent: as from a bare call, nothing is written.
func TestOutputsOfAnAttemptThatWasNotSent(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		require.NoError(t, srv.Refuse(true))
		before := metadata.Pairs("mine", "1")
		header, trailer := before, before
		_, err := newClient(t, srv).call(t.Context(), testsrv.Put, grpc.Header(&header), grpc.Trailer(&trailer))
		require.Error(t, err)
		assert.Equal(t, before, header)
		assert.Equal(t, before, trailer)
	})
}

// TestOptionsOfTheCallerAreOnlyRead: spare capacity of the caller's slice belongs
// to the caller.
func TestOptionsOfTheCallerAreOnlyRead(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(exact()))
		srv.Script(testsrv.Put, down, testsrv.OK())
		sentinel := grpc.MaxCallSendMsgSize(1)
		opts := []grpc.CallOption{grpc.StaticMethod(), sentinel, sentinel, sentinel}
		err := c.conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{Id: "long enough to be too large"}, new(testv1.PutResponse), opts[:1]...)
		require.NoError(t, err)
		assert.Equal(t, sentinel, opts[1])
		assert.Equal(t, sentinel, opts[3])
	})
}

// TestFeaturesPassThrough: what grpc can do, it does on every attempt.
func TestFeaturesPassThrough(t *testing.T) {
	t.Parallel()
	put := func(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
		return conn.Invoke(ctx, testsrv.Put, &testv1.PutRequest{Id: "1", Payload: make([]byte, 4096)}, new(testv1.PutResponse), opts...)
	}
	t.Run("compression", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(exact()))
			srv.Script(testsrv.Put, down, testsrv.OK())
			require.NoError(t, put(t.Context(), c.conn, grpc.UseCompressor(gzip.Name)))
			require.Equal(t, 2, srv.Count(testsrv.Put))
			assert.Len(t, srv.Arrivals(testsrv.Put)[1].Request().(*testv1.PutRequest).GetPayload(), 4096)
		})
	})
	t.Run("unknown compressor", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv)
			tl, err := c.call(t.Context(), testsrv.Put, grpc.UseCompressor("none-such"))
			assert.Equal(t, codes.Internal, status.Code(err))
			assert.Len(t, tl.Attempts, 1)
		})
	})
	t.Run("per-RPC credentials", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(exact()))
			srv.Script(testsrv.Put, down, testsrv.OK())
			require.NoError(t, put(t.Context(), c.conn, grpc.PerRPCCredentials(bearer("secret"))))
			for _, a := range srv.Arrivals(testsrv.Put) {
				assert.Equal(t, []string{"secret"}, a.Metadata.Get("authorization"))
			}
		})
	})
	t.Run("wait for ready", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv)
			require.NoError(t, srv.Refuse(true))
			time.AfterFunc(5*time.Second, func() { _ = srv.Refuse(false) })
			tl, err := c.call(t.Context(), testsrv.Pay, grpc.WaitForReady(true))
			require.NoError(t, err)
			assert.Len(t, tl.Attempts, 1)
		})
	})
	t.Run("wait for ready with an attempt timeout is not sent", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(exact(func(p *policy.Policy) { p.AttemptTimeout = 100 * ms })))
			require.NoError(t, srv.Refuse(true))
			time.AfterFunc(200*ms, func() { _ = srv.Refuse(false) })
			tl, err := c.call(t.Context(), testsrv.Pay, grpc.WaitForReady(true))
			require.Error(t, err, "%v", tl)
			assert.Len(t, tl.Attempts, 3, "%v", tl)
			assert.Zero(t, srv.Count(testsrv.Pay))
		})
	})
	t.Run("receive limit", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv)
			err := put(t.Context(), c.conn, grpc.MaxCallRecvMsgSize(10))
			assert.Equal(t, codes.ResourceExhausted, status.Code(err))
			assert.Equal(t, 1, srv.Count(testsrv.Put), "an error made on this side is not retried")
		})
	})
	t.Run("send limit", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv)
			err := put(t.Context(), c.conn, grpc.MaxCallSendMsgSize(10))
			assert.Equal(t, codes.ResourceExhausted, status.Code(err))
			var e *interceptor.Error
			require.ErrorAs(t, err, &e)
			assert.Len(t, e.Attempts, 1)
		})
	})
	t.Run("custom codec", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(exact()))
			srv.Script(testsrv.Put, down, testsrv.OK())
			require.NoError(t, put(t.Context(), c.conn, grpc.ForceCodec(countingCodec{new(atomic.Int64)})))
		})
	})
	t.Run("reply of no proto type", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(exact()))
			srv.Script(testsrv.Put, down, testsrv.OK())
			var reply plainReply
			err := c.conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{Id: "7"}, &reply, grpc.ForceCodec(plainCodec{}))
			require.NoError(t, err)
			assert.NotEmpty(t, reply.Raw)
		})
	})
	t.Run("default call options and other interceptors", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			var above, below int
			count := func(n *int) grpc.UnaryClientInterceptor {
				return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
					*n++
					return invoker(ctx, method, req, reply, cc, opts...)
				}
			}
			var tl interceptor.Timeline
			opts := append([]grpc.DialOption{grpc.WithChainUnaryInterceptor(count(&above))},
				newInterceptor(t, interceptor.WithPolicy(exact())).DialOptions()...)
			opts = append(opts, grpc.WithChainUnaryInterceptor(count(&below)),
				grpc.WithDefaultCallOptions(interceptor.WithTimeline(&tl)))
			srv.Script(testsrv.Put, down, testsrv.OK())
			require.NoError(t, put(t.Context(), srv.Conn(t, opts...)))
			assert.Equal(t, 1, above)
			assert.Equal(t, 2, below)
			assert.Len(t, tl.Attempts, 2)
		})
	})
	t.Run("call options without the interceptor", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			require.NoError(t, put(t.Context(), srv.Conn(t), interceptor.WithPolicy(exact()), interceptor.WithIdempotencyKey("")))
		})
	})
	t.Run("streams", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			srv.Script(testsrv.Watch, testsrv.Send(3))
			s, err := testv1.NewTestServiceClient(newClient(t, srv).conn).Watch(t.Context(), &testv1.WatchRequest{Id: "1"})
			require.NoError(t, err)
			n := 0
			for ; err == nil; n++ {
				_, err = s.Recv()
			}
			require.ErrorIs(t, err, io.EOF)
			assert.Equal(t, 4, n)
		})
	})
	t.Run("closed connection", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			bare, c := srv.Conn(t), newClient(t, srv)
			_, _ = bare.Close(), c.conn.Close()
			want := put(t.Context(), bare)
			got := put(t.Context(), c.conn)
			assert.Equal(t, want.Error(), got.Error())
			assert.Equal(t, status.Code(want), status.Code(got))
			assert.Equal(t, codes.Canceled, status.Code(got))
		})
	})
}

// TestOptionsThatDoNotReachGRPC: an interceptor below that drops the options, or
// answers by itself, leaves no evidence, and no evidence is no proof that nothing
// was sent.
func TestOptionsThatDoNotReachGRPC(t *testing.T) {
	t.Parallel()
	unary := newInterceptor(t, interceptor.WithPolicy(exact())).Unary()
	sent := 0
	var tl interceptor.Timeline
	err := unary(t.Context(), testsrv.Pay, nil, nil, nil,
		func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
			sent++
			return status.Error(codes.Unavailable, "who knows")
		}, interceptor.WithTimeline(&tl))
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.Equal(t, interceptor.EndNotIdempotent, tl.Reason)
	assert.Equal(t, 1, sent)
}

// TestRawErrors: what an interceptor below returns without a status has none here either.
func TestRawErrors(t *testing.T) {
	t.Parallel()
	unary := newInterceptor(t).Unary()
	for _, bare := range []error{
		context.Canceled, context.DeadlineExceeded, errors.New("plain"), io.EOF,
		fmt.Errorf("limiter: %w", context.DeadlineExceeded),
		fmt.Errorf("wrapped: %w", status.Error(codes.NotFound, "no such thing")),
	} {
		err := unary(t.Context(), testsrv.Put, nil, nil, nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return bare })
		want, wantOK := status.FromError(bare)
		got, gotOK := status.FromError(err)
		assert.Equal(t, wantOK, gotOK, "%v", bare)
		assert.Equal(t, want.String(), got.String(), "%v", bare)
		assert.Equal(t, status.Code(bare), status.Code(err), "%v", bare)
		assert.Equal(t, bare.Error(), err.Error())
		assert.ErrorIs(t, err, bare)
	}
}

type bearer string

func (t bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": string(t)}, nil
}
func (bearer) RequireTransportSecurity() bool { return false }

// countingCodec is the proto codec under rego's watch.
type countingCodec struct{ n *atomic.Int64 }

func (c countingCodec) Marshal(v any) ([]byte, error) {
	c.n.Add(1)
	return proto.Marshal(v.(proto.Message))
}
func (countingCodec) Unmarshal(b []byte, v any) error { return proto.Unmarshal(b, v.(proto.Message)) }
func (countingCodec) Name() string                    { return "proto" }

// plainReply is no proto message.
type plainReply struct{ Raw json.RawMessage }

type plainCodec struct{ encoding.Codec }

func (plainCodec) Marshal(v any) ([]byte, error) { return proto.Marshal(v.(proto.Message)) }
func (plainCodec) Unmarshal(b []byte, v any) error {
	v.(*plainReply).Raw = append(json.RawMessage(nil), b...)
	return nil
}
func (plainCodec) Name() string { return "proto" }
