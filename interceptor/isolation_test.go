package interceptor_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
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
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// answer is what one attempt of a scripted invoker does, in whatever it is given
// to write to: everything it writes bears its number.
func answer(number int, reply any, err error, opts []grpc.CallOption) error {
	mark := fmt.Sprint(number)
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = metadata.Pairs("attempt", mark)
		case grpc.TrailerCallOption:
			*o.TrailerAddr = metadata.Pairs("attempt", mark)
		case grpc.PeerCallOption:
			*o.PeerAddr = peer.Peer{Addr: address(mark)}
		case grpc.OnFinishCallOption:
			o.OnFinish(err)
		}
	}
	if err == nil {
		m := reply.(*testv1.GetResponse)
		m.Id, m.Payload, m.Attempt = mark, []byte(mark), int32(number)
	}
	return err
}

type address string

func (address) Network() string  { return "fake" }
func (a address) String() string { return string(a) }

// attemptNumber reads what the interceptor sends along.
func attemptNumber(ctx context.Context) int {
	md, _ := metadata.FromOutgoingContext(ctx)
	n := 0
	if v := md.Get("grpc-previous-rpc-attempts"); len(v) > 0 {
		_, _ = fmt.Sscan(v[0], &n)
	}
	return n + 1
}

var ties = flag.Int("ties", 50_000, "calls in which two attempts answer at the same instant")

// TestTies has the original and a hedge answer at the same instant, again and
// again: whoever wins, all of it is one attempt's, and nothing changes afterwards.
// Not parallel: it counts the goroutines of the whole process.
func TestTies(t *testing.T) {
	unary := newInterceptor(t, interceptor.WithTargetBudget(unlimited),
		interceptor.WithPolicy(policy.Policy{Hedge: policy.Hedge{Delay: policy.NoWait}, Retry: policy.Retry{MaxAttempts: 2}})).Unary()
	var wins [3]atomic.Int64
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range *ties / 4 {
				won := tie(t, unary, i)
				wins[won].Add(1)
			}
		})
	}
	wg.Wait()
	assert.Greater(t, wins[1].Load(), int64(*ties/1000), "the original hardly ever wins")
	assert.Greater(t, wins[2].Load(), int64(*ties/1000), "the hedge hardly ever wins")
	// A goroutine that has done its last may still have to return.
	for patience := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(patience); {
		runtime.Gosched()
	}
	assert.LessOrEqual(t, runtime.NumGoroutine(), before, "goroutines are left")
}

func tie(t *testing.T, unary grpc.UnaryClientInterceptor, i int) (won int) {
	var started atomic.Int32
	meet := func(ctx context.Context, _ string, _, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
		number := attemptNumber(ctx)
		for started.Add(1); started.Load() < 2; { // each waits for the other
			runtime.Gosched()
		}
		var err error
		if i%8 == number { // sometimes one of the two fails, in a way that the other survives
			err = status.Error(codes.Unavailable, "")
		}
		return answer(number, reply, err, opts)
	}
	var (
		reply           testv1.GetResponse
		header, trailer metadata.MD
		from            peer.Peer
		finished        int
		tl              interceptor.Timeline
	)
	opts := []grpc.CallOption{grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from), grpc.OnFinish(func(error) { finished++ }), grpc.StaticMethod()}
	if i%2 == 0 {
		opts = append(opts, interceptor.WithTimeline(&tl))
	}
	err := unary(t.Context(), testsrv.Get, &testv1.GetRequest{}, &reply, nil, meet, opts...)

	won = int(reply.GetAttempt())
	mark := fmt.Sprint(won)
	switch {
	case err != nil, won < 1, won > 2, finished != 1,
		reply.GetId() != mark, string(reply.GetPayload()) != mark,
		len(header.Get("attempt")) != 1, header.Get("attempt")[0] != mark,
		len(trailer.Get("attempt")) != 1, trailer.Get("attempt")[0] != mark,
		from.Addr == nil, from.Addr.String() != mark:
		assert.Fail(t, "torn", "err %v, finished %d, reply %v, header %v, trailer %v, peer %v", err, finished, &reply, header, trailer, from)
		return 0
	}
	if i%2 == 0 && (len(tl.Attempts) != 2 || tl.Attempts[won-1].Result != interceptor.AttemptWon || tl.Attempts[2-won].Result == interceptor.AttemptWon) {
		assert.Fail(t, "one winner", "%v", &tl)
	}
	// It is the caller's now: whatever an attempt still wrote would be a race.
	header.Set("attempt", "mine")
	trailer.Set("attempt", "mine")
	reply.Reset()
	from = peer.Peer{}
	return won
}

// tiedStream is the stream of an attempt that has its first message when another
// one has, and no second.
type tiedStream struct {
	grpc.ClientStream
	ctx      context.Context
	number   int
	started  *atomic.Int32
	received bool
	opts     []grpc.CallOption
}

func (s *tiedStream) SendMsg(any) error            { return nil }
func (s *tiedStream) CloseSend() error             { return nil }
func (s *tiedStream) Context() context.Context     { return s.ctx }
func (s *tiedStream) Header() (metadata.MD, error) { return nil, nil }
func (s *tiedStream) Trailer() metadata.MD         { return metadata.Pairs("attempt", fmt.Sprint(s.number)) }

func (s *tiedStream) RecvMsg(m any) error {
	if s.received {
		_ = answer(s.number, new(testv1.GetResponse), nil, s.opts)
		return io.EOF
	}
	s.received = true
	for s.started.Add(1); s.started.Load() < 2; {
		runtime.Gosched()
	}
	m.(*testv1.WatchResponse).Attempt = int32(s.number)
	return nil
}

// TestStreamTies has the original and a hedge of a stream receive their first
// messages at the same instant: one is kept, and the other one's is not seen.
func TestStreamTies(t *testing.T) {
	t.Parallel()
	l := &ledger{budget: budget.All()}
	it := newInterceptor(t, l.inTarget(), interceptor.WithPolicy(policy.Policy{
		Idempotency: classify.Idempotent,
		Hedge:       policy.Hedge{Delay: policy.NoWait}, Retry: policy.Retry{MaxAttempts: 2},
	}))
	for range 5000 {
		var started atomic.Int32
		streamer := func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return &tiedStream{ctx: ctx, number: attemptNumber(ctx), started: &started, opts: opts}, nil
		}
		var tl interceptor.Timeline
		var header metadata.MD
		s, err := it.Stream()(t.Context(), watchKind.desc(), nil, testsrv.Watch, streamer, grpc.Header(&header), interceptor.WithTimeline(&tl))
		require.NoError(t, err)
		var m testv1.WatchResponse
		require.NoError(t, s.RecvMsg(&m))
		won := int(m.GetAttempt())
		require.ErrorIs(t, s.RecvMsg(&m), io.EOF)
		require.Equal(t, []string{fmt.Sprint(won)}, header.Get("attempt"))
		require.Len(t, tl.Attempts, 2, "%v", &tl)
		require.Equal(t, interceptor.AttemptWon, tl.Attempts[won-1].Result, "%v", &tl)
		require.Equal(t, interceptor.AttemptLost, tl.Attempts[2-won].Result, "%v", &tl)
	}
	assert.Zero(t, l.held)
	assert.Zero(t, it.Replayed())
}

// TestTiesOverGRPC is the same with a real client and server.
func TestTiesOverGRPC(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(after100()), interceptor.WithTargetBudget(unlimited)).ready()
		srv.Handle(testsrv.Get, func(a testsrv.Arrival) testsrv.Step {
			number := fmt.Sprint(a.Previous + 1)
			return testsrv.Do(
				testsrv.Header(metadata.Pairs("attempt", number)), testsrv.Trailer(metadata.Pairs("attempt", number)),
				after(time.Duration(150-100*a.Previous)*ms, testsrv.Reply(&testv1.GetResponse{Id: number, Payload: make([]byte, 1000)})))
		})
		wins := map[string]int{}
		for range 2000 {
			var reply testv1.GetResponse
			var header, trailer metadata.MD
			var tl interceptor.Timeline
			require.NoError(t, c.conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{}, &reply,
				grpc.Header(&header), grpc.Trailer(&trailer), interceptor.WithTimeline(&tl)))
			require.Equal(t, 150*ms, tl.Elapsed())
			require.Len(t, tl.Attempts, 2)
			require.Equal(t, []string{reply.GetId()}, header.Get("attempt"))
			require.Equal(t, []string{reply.GetId()}, trailer.Get("attempt"))
			require.Len(t, reply.GetPayload(), 1000)
			wins[reply.GetId()]++
		}
		assert.Len(t, wins, 2, "both win now and then")
	})
}

// hedgeWins is an interceptor for calls of which the second attempt answers and
// the first only returns when it is cancelled, having written to its reply.
func hedgeWins(t *testing.T, write func(number int, reply any)) (grpc.UnaryClientInterceptor, grpc.UnaryInvoker) {
	t.Helper()
	unary := newInterceptor(t, interceptor.WithTargetBudget(unlimited),
		interceptor.WithPolicy(policy.Policy{Hedge: policy.Hedge{Delay: policy.NoWait}, Retry: policy.Retry{MaxAttempts: 2}})).Unary()
	return unary, func(ctx context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		number := attemptNumber(ctx)
		if number == 1 {
			<-ctx.Done()
		}
		write(number, reply)
		return ctx.Err()
	}
}

// TestReplies of all kinds are moved whole from the attempt that won.
func TestReplies(t *testing.T) {
	t.Parallel()
	t.Run("proto", func(t *testing.T) {
		t.Parallel()
		unary, invoker := hedgeWins(t, func(n int, reply any) {
			m := reply.(*testv1.PutResponse)
			m.Id, m.Attempt = fmt.Sprint(n), int32(n)
			if n == 1 {
				m.Payload = []byte("late")
			} else {
				m.ProtoReflect().SetUnknown([]byte{0x82, 0x7d, 0x01, 'x'}) // field 2000
			}
		})
		reply := &testv1.PutResponse{Payload: []byte("from before")}
		require.NoError(t, unary(t.Context(), testsrv.Put, nil, reply, nil, invoker))
		want := &testv1.PutResponse{Id: "2", Attempt: 2}
		want.ProtoReflect().SetUnknown([]byte{0x82, 0x7d, 0x01, 'x'})
		assert.True(t, proto.Equal(want, reply), "%v", reply)
	})
	t.Run("dynamicpb", func(t *testing.T) {
		t.Parallel()
		d := new(testv1.PutResponse).ProtoReflect().Descriptor()
		unary, invoker := hedgeWins(t, func(n int, reply any) {
			b, err := proto.Marshal(&testv1.PutResponse{Id: fmt.Sprint(n)})
			assert.NoError(t, err)
			assert.NoError(t, proto.Unmarshal(b, reply.(proto.Message)))
		})
		reply := dynamicpb.NewMessage(d)
		require.NoError(t, unary(t.Context(), testsrv.Put, nil, reply, nil, invoker))
		assert.Equal(t, "2", reply.Get(d.Fields().ByName("id")).String())
	})
	t.Run("other types", func(t *testing.T) {
		t.Parallel()
		unary, invoker := hedgeWins(t, func(n int, reply any) {
			reply.(*plainReply).Raw = json.RawMessage(fmt.Sprint(n))
		})
		var reply plainReply
		require.NoError(t, unary(t.Context(), testsrv.Put, nil, &reply, nil, invoker))
		assert.Equal(t, "2", string(reply.Raw))
	})
	t.Run("bytes", func(t *testing.T) {
		t.Parallel()
		unary, invoker := hedgeWins(t, func(n int, reply any) { *reply.(*[]byte) = []byte{byte(n)} })
		var reply []byte
		require.NoError(t, unary(t.Context(), testsrv.Put, nil, &reply, nil, invoker))
		assert.Equal(t, []byte{2}, reply)
	})
	// Those of which no second one can be made are not hedged.
	for name, reply := range map[string]any{
		"none":                        nil,
		"a map":                       map[string]string{},
		"a nil pointer":               (*plainReply)(nil),
		"filled by the caller":        &plainReply{Raw: json.RawMessage("1")},
		"around a message":            &wrapper{PutResponse: new(testv1.PutResponse)},
		"around nothing":              &wrapper{},
		"around a nil interface":      &wrapsAny{},
		"a struct that is no pointer": plainReply{},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				unary := newInterceptor(t, interceptor.WithTargetBudget(unlimited), interceptor.WithPolicy(after100())).Unary()
				var tl interceptor.Timeline
				err := unary(t.Context(), testsrv.Put, nil, reply, nil,
					func(_ context.Context, _ string, _, got any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
						virtual.Sleep(time.Second)
						assert.Equal(t, reply, got)
						return nil
					}, interceptor.WithTimeline(&tl))
				require.NoError(t, err)
				assert.Equal(t, "original 0s..1s won", raced(&tl)[0])
				assert.Contains(t, raced(&tl)[1], "reply-type")
				assert.Len(t, tl.Attempts, 1)
			})
		})
	}
}

// wrapper and wrapsAny have the methods of a message, but are none by themselves.
type (
	wrapper struct {
		*testv1.PutResponse
	}
	wrapsAny struct{ proto.Message }
)

// TestHedgedOverCodecs: a codec of the caller's own decodes into the reply that
// it is given.
func TestHedgedOverCodecs(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, interceptor.WithPolicy(after100()), interceptor.WithTargetBudget(unlimited)).ready()
		srv.Script(testsrv.Put, testsrv.Hang(), testsrv.OK())
		var reply plainReply
		err := c.conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{Id: "7"}, &reply, grpc.ForceCodec(plainCodec{}))
		require.NoError(t, err)
		var got testv1.PutResponse
		require.NoError(t, proto.Unmarshal(reply.Raw, &got))
		assert.EqualValues(t, 2, got.GetAttempt())
	})
}

// TestEveryOptionThatWritesIsPrivate reads grpc's source: of its call options,
// those whose after has a body write for the caller, and OnFinish calls it. A new
// one has to be added to what attempts have of their own.
func TestEveryOptionThatWritesIsPrivate(t *testing.T) {
	t.Parallel()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", "google.golang.org/grpc").Output()
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "*.go"))
	require.NoError(t, err)
	var writing []string
	for _, f := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		require.NoError(t, err)
		for _, d := range parsed.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && fn.Recv != nil && fn.Name.Name == "after" && len(fn.Body.List) > 0 {
				writing = append(writing, fn.Recv.List[0].Type.(*ast.Ident).Name)
			}
		}
	}
	slices.Sort(writing)
	assert.Equal(t, []string{"HeaderCallOption", "PeerCallOption", "TrailerCallOption"}, writing)
}

// TestHedgePanics surface on the caller's goroutine, whoever else is running.
func TestHedgePanics(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, r := range []struct {
		name string
		torn int // the number of the attempt
		how  func()
	}{
		{"the original panics", 1, func() { panic(boom) }},
		{"a hedge panics", 2, func() { panic(boom) }},
		{"the original exits", 1, runtime.Goexit},
		{"a hedge exits", 2, runtime.Goexit},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b, seen := grantHedges(5), new(recorder)
				unary := newInterceptor(t, interceptor.WithPolicy(after100()), interceptor.WithObserver(seen), interceptor.WithLogger(silent),
					b.inTarget()).Unary()
				var running atomic.Int64
				invoker := func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
					running.Add(1)
					defer running.Add(-1)
					if attemptNumber(ctx) == r.torn {
						virtual.Sleep(150 * ms)
						r.how()
					}
					<-ctx.Done()
					virtual.Sleep(10 * ms) // others take their time
					return ctx.Err()
				}
				var p any
				returned := false
				done := make(chan struct{})
				go func() { // Goexit may end it
					defer close(done)
					defer func() { p = recover() }()
					_ = unary(t.Context(), testsrv.Get, nil, new(testv1.GetResponse), nil, invoker)
					returned = true
				}()
				<-done
				assert.False(t, returned)
				assert.Zero(t, running.Load(), "no attempt outlives its call")
				if r.how != nil && p != nil {
					assert.Equal(t, boom, p)
				}
				assert.Zero(t, b.held, "leases return")
				starts := strings.Count(strings.Join(seen.events, "\n"), "attempt-start ")
				ends := strings.Count(strings.Join(seen.events, "\n"), "attempt-end ")
				assert.Positive(t, starts)
				assert.Equal(t, starts, ends, "%v", seen.events)
				assert.Equal(t, "call-end in call-start", seen.events[len(seen.events)-1])
			})
		})
	}
}
