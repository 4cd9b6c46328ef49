package interceptor_test

import (
	"context"
	"fmt"
	"io"
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
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// Streams that a client with rego made worse off than one without.

// slowObserver takes its time.
type slowObserver struct{}

func (slowObserver) Start(ctx context.Context, _ *interceptor.Event) context.Context { return ctx }
func (slowObserver) Observe(context.Context, *interceptor.Event)                     { virtual.Sleep(20 * ms) }

// TestCloseSendMeetsTheFirstMessage: the server sees the end, also while an observer is
// told that the stream is committed.
func TestCloseSendMeetsTheFirstMessage(t *testing.T) {
	t.Parallel()
	for i := range 300 {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			var opts []interceptor.Option
			if i%2 == 0 {
				opts = append(opts, interceptor.WithObserver(slowObserver{}))
			}
			c := newClient(t, srv, append(opts, named(exact(idempotent)))...)
			srv.Script(testsrv.Chat, testsrv.Do(testsrv.Recv(1), testsrv.Delay(10*ms), testsrv.Send(1), testsrv.RecvAll()))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cs, err := testv1.NewTestServiceClient(c.conn).Chat(ctx)
			require.NoError(t, err)
			require.NoError(t, cs.Send(new(testv1.ChatRequest)))
			var reader sync.WaitGroup
			reader.Go(func() {
				_, err := cs.Recv()
				if assert.NoError(t, err) {
					_, err = cs.Recv()
					assert.ErrorIs(t, err, io.EOF)
				}
			})
			virtual.Sleep(10*ms + time.Duration(i/4)*ms/4)
			began := time.Now()
			require.NoError(t, cs.CloseSend())
			assert.Zero(t, time.Since(began), "an observer holds nothing up that it does not look at")
			reader.Wait()
			require.NoError(t, ctx.Err())
		})
	}
}

// TestOutputsBeforeTheEndIsTold, over TCP, where goroutines meet as they like.
func TestOutputsBeforeTheEndIsTold(t *testing.T) {
	srv := testsrv.Start(t, testsrv.TCP("127.0.0.1:0"))
	c := newClient(t, srv, named(exact(idempotent)))
	md := metadata.Pairs("n", "1")
	srv.Script(testsrv.Upload, testsrv.Do(testsrv.Header(md), testsrv.Trailer(md), testsrv.RecvAll(), testsrv.OK()))
	client := testv1.NewTestServiceClient(c.conn)
	for range 300 {
		var header, trailer metadata.MD
		var from peer.Peer
		finished := 0
		cs, err := client.Upload(t.Context(), grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from), grpc.OnFinish(func(error) { finished++ }))
		require.NoError(t, err)
		require.NoError(t, cs.Send(new(testv1.UploadRequest)))
		_, err = cs.CloseAndRecv()
		require.NoError(t, err)
		require.Equal(t, []string{"1"}, header.Get("n"))
		require.Equal(t, []string{"1"}, trailer.Get("n"))
		require.NotNil(t, from.Addr)
		require.Equal(t, 1, finished)
	}
}

// TestSendIntoADeadStream: the application hears of it, whether the server has failed or
// the connection.
func TestSendIntoADeadStream(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]testsrv.Step{"fails": testsrv.Fail(codes.PermissionDenied, "no"), "dies": testsrv.KillConn()} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv)
			srv.Script(testsrv.Upload, testsrv.Do(testsrv.SendHeader(nil), testsrv.Recv(2), last))
			cs, err := testv1.NewTestServiceClient(c.conn).Upload(t.Context())
			require.NoError(t, err)
			sent := 0
			for err = cs.Send(new(testv1.UploadRequest)); err == nil && sent < 100; sent++ {
				virtual.Sleep(ms)
				err = cs.Send(new(testv1.UploadRequest))
			}
			require.ErrorIs(t, err, io.EOF, name)
			assert.LessOrEqual(t, sent, 3, name)
			_, err = cs.CloseAndRecv()
			require.Error(t, err)
			assert.Equal(t, 1, srv.Count(testsrv.Upload), name)
		})
	}
}

// refusing is a stream below that refuses what is sent, or received.
type refusing struct {
	grpc.ClientStream
	send, recv bool
}

var errNotValid = status.Error(codes.InvalidArgument, "not valid")

func (r refusing) SendMsg(m any) error {
	if r.send {
		return errNotValid
	}
	return r.ClientStream.SendMsg(m)
}

func (r refusing) RecvMsg(m any) error {
	if r.recv {
		return errNotValid
	}
	return r.ClientStream.RecvMsg(m)
}

// TestRefusedBelow: what an interceptor below says is said at once.
func TestRefusedBelow(t *testing.T) {
	t.Parallel()
	for _, p := range []policy.Policy{exact(idempotent), after100(idempotent), exact(func(p *policy.Policy) { p.Retry.MaxAttempts = 1 })} {
		for _, send := range []bool{true, false} {
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				below := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
					cs, err := streamer(ctx, desc, cc, method, opts...)
					return refusing{cs, send, !send}, err
				}
				srv.Script(testsrv.Chat, testsrv.Hang())
				conn := srv.Conn(t, append(newInterceptor(t, named(p)).DialOptions(), grpc.WithChainStreamInterceptor(below))...)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				cs, err := testv1.NewTestServiceClient(conn).Chat(ctx)
				require.NoError(t, err)
				began := time.Now()
				if send {
					err = cs.Send(new(testv1.ChatRequest))
				} else {
					_, err = cs.Recv()
				}
				assert.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
				assert.Zero(t, time.Since(began), "%v %+v", send, p)
			})
		}
	}
}

// TestHeaderAfterTheEnd is that of the stream that has decided, with messages and without.
func TestHeaderAfterTheEnd(t *testing.T) {
	t.Parallel()
	md := metadata.Pairs("n", "1")
	for name, r := range map[string]struct {
		kind kind
		step testsrv.Step
	}{
		"failed after its header":  {watchKind, testsrv.Do(testsrv.SendHeader(md), testsrv.Fail(codes.NotFound, ""))},
		"no rows":                  {watchKind, testsrv.Do(testsrv.SendHeader(md))},
		"a unary method":           {unaryKind, testsrv.Do(testsrv.Header(md), testsrv.OK())},
		"an upload that has ended": {uploadKind, testsrv.Do(testsrv.SendHeader(md), testsrv.RecvAll(), testsrv.OK())},
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, named(exact(idempotent)))
			srv.Script(r.kind.method, r.step)
			cs, err := c.conn.NewStream(t.Context(), r.kind.desc(), r.kind.method)
			require.NoError(t, err)
			require.NoError(t, cs.SendMsg(r.kind.request("a")))
			require.NoError(t, cs.CloseSend())
			for err == nil {
				err = cs.RecvMsg(r.kind.newReply())
			}
			header, err := cs.Header()
			require.NoError(t, err)
			assert.Equal(t, []string{"1"}, header.Get("n"), name)
		})
	}
}

// TestContextEndsWithTheStream, also one that was taken before the stream is committed, and
// has what grpc keeps there.
func TestContextEndsWithTheStream(t *testing.T) {
	t.Parallel()
	for _, p := range []policy.Policy{exact(idempotent), after100(idempotent)} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, named(p)).ready()
			srv.Script(testsrv.Chat, testsrv.Do(testsrv.Recv(1), testsrv.Send(1)))
			cs, err := testv1.NewTestServiceClient(c.conn).Chat(context.Background())
			require.NoError(t, err)
			ctx := cs.Context()
			var prepared grpc.PreparedMsg
			require.NoError(t, prepared.Encode(cs, &testv1.ChatRequest{Payload: []byte("a")}))
			require.NoError(t, cs.SendMsg(&prepared))
			for err == nil {
				_, err = cs.Recv()
			}
			require.ErrorIs(t, err, io.EOF)
			<-ctx.Done()
			assert.Equal(t, []string{"a"}, served(srv, chatKind))
		})
	}
}

// frame is a message of a codec that knows nothing of protobuf.
type frame struct {
	payload []byte
	live    map[string]int // which the application goes on to use
}

type frameCodec struct{}

func (frameCodec) Name() string { return "frames" }
func (frameCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(append([]byte(nil), v.(*frame).payload...))}, nil
}
func (frameCodec) Unmarshal(data mem.BufferSlice, v any) error {
	v.(*frame).payload = data.Materialize()
	return nil
}

// TestFramesAreSentAgain: messages of every type are, as they were, and nobody looks into
// them.
func TestFramesAreSentAgain(t *testing.T) {
	t.Parallel()
	for _, p := range []policy.Policy{exact(idempotent), after100(idempotent, func(p *policy.Policy) { p.Hedge.Delay = policy.NoWait })} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			var served []string
			var mu sync.Mutex
			var attempts atomic.Int32
			raw := testsrv.Start(t, testsrv.Services(func(r grpc.ServiceRegistrar) {
				r.RegisterService(&grpc.ServiceDesc{ServiceName: "raw.Store", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
					StreamName: "Put", ClientStreams: true, ServerStreams: true,
					Handler: func(_ any, ss grpc.ServerStream) error {
						n := attempts.Add(1)
						var got []string
						for {
							f := new(frame)
							if err := ss.RecvMsg(f); err != nil {
								break
							}
							if got = append(got, string(f.payload)); len(got) == 3 && n == 1 {
								return status.Error(codes.Unavailable, "down")
							}
						}
						mu.Lock()
						served = append(served, strings.Join(got, " "))
						mu.Unlock()
						return ss.SendMsg(&frame{payload: []byte("stored")})
					},
				}}}, struct{}{})
			}), testsrv.ServerOptions(grpc.ForceServerCodecV2(frameCodec{})))
			conn := raw.Conn(t, append(newInterceptor(t, interceptor.WithRules(policy.Rule{Methods: []string{"/raw.Store/Put"}, Policy: p})).DialOptions(),
				grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frameCodec{})))...)
			cs, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/raw.Store/Put")
			require.NoError(t, err)
			f := &frame{payload: make([]byte, 5), live: map[string]int{}}
			for i, word := range []string{"one  ", "two  ", "three", "four ", "five "} {
				copy(f.payload, word)
				f.live[word] = i
				require.NoError(t, cs.SendMsg(f))
				synctest.Wait()
			}
			require.NoError(t, cs.CloseSend())
			answer := new(frame)
			require.NoError(t, cs.RecvMsg(answer))
			assert.Equal(t, "stored", string(answer.payload))
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			for _, s := range served {
				assert.Equal(t, "one   two   three four  five ", s)
			}
			assert.NotEmpty(t, served)
			_ = srv
		})
	}
}

// inProcess is a transport that hands messages over as they are, and has no headers.
type inProcess struct {
	grpc.ClientStream
	ctx  context.Context
	sent []string
	got  int
}

func (s *inProcess) Header() (metadata.MD, error) { return nil, nil }
func (s *inProcess) Trailer() metadata.MD         { return nil }
func (s *inProcess) CloseSend() error             { return nil }
func (s *inProcess) Context() context.Context     { return s.ctx }
func (s *inProcess) SendMsg(m any) error {
	s.sent = append(s.sent, string(m.(*testv1.ChatRequest).GetPayload()))
	return nil
}

func (s *inProcess) RecvMsg(m any) error {
	if s.got++; s.got > 2 {
		return io.EOF
	}
	m.(*testv1.ChatResponse).Payload = fmt.Append(nil, s.got)
	return nil
}

// TestOtherTransports than grpc's lose nothing.
func TestOtherTransports(t *testing.T) {
	t.Parallel()
	for _, p := range []policy.Policy{exact(idempotent), after100(idempotent)} {
		synctest.Test(t, func(t *testing.T) {
			other := new(inProcess)
			streamer := func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
				other.ctx = ctx
				return other, nil
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cs, err := newInterceptor(t, named(p)).Stream()(ctx, chatKind.desc(), nil, testsrv.Chat, streamer)
			require.NoError(t, err)
			require.NoError(t, cs.SendMsg(&testv1.ChatRequest{Payload: []byte("a")}))
			require.NoError(t, cs.CloseSend())
			for i := range 2 {
				m := new(testv1.ChatResponse)
				require.NoError(t, cs.RecvMsg(m))
				assert.Equal(t, fmt.Sprint(i+1), string(m.GetPayload()))
			}
			require.ErrorIs(t, cs.RecvMsg(new(testv1.ChatResponse)), io.EOF)
			assert.Equal(t, []string{"a"}, other.sent)
		})
	}
}

// TestAliveDoesNotTimeOut: a stream that has a header, or takes what is sent, is not cut by an
// attempt timeout, nor hedged for being silent.
func TestAliveDoesNotTimeOut(t *testing.T) {
	t.Parallel()
	timed := exact(idempotent, func(p *policy.Policy) { p.AttemptTimeout = 300 * ms })
	t.Run("a silent watch", func(t *testing.T) {
		t.Parallel()
		for _, p := range []policy.Policy{timed, after100(idempotent)} {
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				c := newClient(t, srv, named(p)).ready()
				srv.Script(testsrv.Watch, testsrv.Do(testsrv.SendHeader(nil), testsrv.Delay(1500*ms), testsrv.Send(1)))
				a := c.open(watchKind, sends("a"), closes, receives, receives)
				assert.Equal(t, []string{"1.0 @1.5s", "EOF @1.5s"}, a.seen)
				assert.Equal(t, 1, srv.Count(testsrv.Watch))
			})
		}
	})
	t.Run("a chat that uploads", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, named(timed))
			srv.Script(testsrv.Chat, testsrv.Do(testsrv.RecvAll(), testsrv.Send(1)))
			cs, err := testv1.NewTestServiceClient(c.conn).Chat(t.Context())
			require.NoError(t, err)
			var reader sync.WaitGroup
			reader.Go(func() {
				_, err := cs.Recv()
				assert.NoError(t, err)
			})
			for range 25 {
				virtual.Sleep(20 * ms)
				require.NoError(t, cs.Send(new(testv1.ChatRequest)))
			}
			require.NoError(t, cs.CloseSend())
			reader.Wait()
			assert.Equal(t, 1, srv.Count(testsrv.Chat))
		})
	})
}

// TestCancelledUpload is never complete, hedged or not.
func TestCancelledUpload(t *testing.T) {
	srv := testsrv.Start(t, testsrv.TCP("127.0.0.1:0"), testsrv.NoRecording())
	p := exact(idempotent, func(p *policy.Policy) { p.Hedge.Delay = ms })
	client := testv1.NewTestServiceClient(newClient(t, srv, named(p), interceptor.WithTargetBudget(unlimited)).conn)
	for range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		cs, err := client.Upload(ctx)
		require.NoError(t, err)
		require.NoError(t, cs.Send(new(testv1.UploadRequest)))
		cancel()
		_, err = cs.CloseAndRecv()
		require.Equal(t, codes.Canceled, status.Code(err), "%v", err)
	}
}

// TestBidirectionalStreamsAreHedgedByName: opening one may have effects of its own.
func TestBidirectionalStreamsAreHedgedByName(t *testing.T) {
	t.Parallel()
	for selector, hedged := range map[string]bool{testsrv.Chat: true, "/rego.test.v1.TestService/*": false, "*": false} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithRules(policy.Rule{Methods: []string{selector}, Policy: after100(idempotent)})).ready()
			srv.Script(testsrv.Chat, after(250*ms, testsrv.Echo()))
			a := c.open(chatKind, sends("a"), closes, receives, receives)
			if hedged {
				assert.Equal(t, 3, srv.Count(testsrv.Chat), "%v", &a.tl)
			} else {
				assert.Equal(t, 1, srv.Count(testsrv.Chat), "%v", &a.tl)
				require.Len(t, a.tl.Denials, 1)
				assert.Equal(t, interceptor.DeniedNotNamed, a.tl.Denials[0].Reason)
			}
		})
	}
}

// TestResumedForLong: a stream that is resumed goes on as long as it gets on, and a header
// that the application asked for commits nothing. What gets on pays for what does not.
func TestResumedForLong(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, named(exact(idempotent)))
		srv.Handle(testsrv.Watch, func(a testsrv.Arrival) testsrv.Step {
			if a.Previous%3 == 0 {
				return testsrv.Do(testsrv.SendHeader(nil), down) // and before its first message
			}
			return testsrv.Do(testsrv.Send(2), testsrv.Delay(time.Second), down)
		})
		same := interceptor.WithResume(func(_ *testv1.WatchResponse, req *testv1.WatchRequest) (*testv1.WatchRequest, bool) { return req, true })
		cs, err := testv1.NewTestServiceClient(c.conn).Watch(t.Context(), new(testv1.WatchRequest), same)
		require.NoError(t, err)
		_, err = cs.Header()
		require.NoError(t, err)
		for range 200 {
			_, err := cs.Recv()
			require.NoError(t, err)
		}
		assert.NoError(t, err)
	})
}

// TestSentIsSent: a message that the server has answered with a failure has been sent, however
// late the application's goroutine hears of it.
func TestSentIsSent(t *testing.T) {
	srv := testsrv.Start(t, testsrv.TCP("127.0.0.1:0"), testsrv.NoRecording())
	srv.Script(testsrv.Chat, testsrv.Do(testsrv.Recv(1), testsrv.Fail(codes.Unknown, "no")))
	for _, p := range []policy.Policy{exact(idempotent), exact(idempotent, func(p *policy.Policy) { p.Hedge.Delay = time.Hour })} {
		client := testv1.NewTestServiceClient(newClient(t, srv, named(p)).ready().conn)
		for range 2000 {
			cs, err := client.Chat(t.Context())
			require.NoError(t, err)
			require.NoError(t, cs.Send(new(testv1.ChatRequest)))
			_, err = cs.Recv()
			require.Equal(t, codes.Unknown, status.Code(err))
		}
	}
}

// TestLongPollIsRetried: what the events of a method usually wait for is not what an attempt
// costs, so one that fails shortly before the deadline is made again.
func TestLongPollIsRetried(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, named(exact(idempotent)))
		poll := after(600*ms, testsrv.Send(1))
		srv.Script(testsrv.Watch, poll)
		for range 50 {
			c.open(watchKind, sends("a"), closes, receives, receives)
		}
		srv.Script(testsrv.Watch, after(500*ms, down), testsrv.Send(1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a := c.openWith(ctx, cancel, watchKind, nil, sends("a"), closes, receives, receives)
		assert.Equal(t, []string{"52.0 @550ms", "EOF @550ms"}, a.seen, "%v", &a.tl)
	})
}
