package interceptor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
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

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// A stream test is a script: what the server does in each attempt, what the
// application does, what it sees, and what the server saw.

// kind is one of the four kinds of calls, all made as streams.
type kind struct {
	method         string
	client, server bool // which of them streams
	newReply       func() proto.Message
}

var (
	unaryKind  = kind{testsrv.Get, false, false, func() proto.Message { return new(testv1.GetResponse) }}
	watchKind  = kind{testsrv.Watch, false, true, func() proto.Message { return new(testv1.WatchResponse) }}
	uploadKind = kind{testsrv.Upload, true, false, func() proto.Message { return new(testv1.UploadResponse) }}
	chatKind   = kind{testsrv.Chat, true, true, func() proto.Message { return new(testv1.ChatResponse) }}
	kinds      = []kind{unaryKind, watchKind, uploadKind, chatKind}
)

func (k kind) desc() *grpc.StreamDesc {
	return &grpc.StreamDesc{ClientStreams: k.client, ServerStreams: k.server}
}

func (k kind) request(payload string) proto.Message {
	switch k.method {
	case testsrv.Get:
		return &testv1.GetRequest{Payload: []byte(payload)}
	case testsrv.Watch:
		return &testv1.WatchRequest{Payload: []byte(payload)}
	case testsrv.Upload:
		return &testv1.UploadRequest{Payload: []byte(payload)}
	}
	return &testv1.ChatRequest{Payload: []byte(payload)}
}

// app is an application with a stream, and what it has seen.
type app struct {
	*testing.T
	kind
	cs     grpc.ClientStream
	conn   *grpc.ClientConn
	cancel context.CancelFunc
	began  time.Time
	seen   []string
	tl     interceptor.Timeline
}

// does is what the application does. What it does next does not wait for it to
// return if it runs beside.
type does func(*app)

func (a *app) note(format string, args ...any) {
	a.seen = append(a.seen, fmt.Sprintf(format, args...)+fmt.Sprintf(" @%v", time.Since(a.began)))
}

// brief is an error as the transcript has it.
func brief(err error) string {
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Sprint(err)
	}
	var e *interceptor.Error
	if errors.As(err, &e) {
		return fmt.Sprintf("%s (%s)", status.Code(err), e.Reason)
	}
	return status.Code(err).String()
}

// sends each letter as a message, and notes only what fails.
func sends(payloads string) does {
	return func(a *app) {
		for _, p := range payloads {
			if err := a.cs.SendMsg(a.request(string(p))); err != nil {
				a.note("send %c: %s", p, brief(err))
			}
		}
	}
}

// sendsLarge sends a message of so many bytes.
func sendsLarge(bytes int) does {
	return func(a *app) {
		if err := a.cs.SendMsg(a.request(string(make([]byte, bytes)))); err != nil {
			a.note("send large: %s", brief(err))
		} else {
			a.note("sent large")
		}
	}
}

func closes(a *app) { require.NoError(a, a.cs.CloseSend()) }

// receives notes a message as attempt.index, the attempt being that of the server.
func receives(a *app) {
	m := a.newReply()
	if err := a.cs.RecvMsg(m); err != nil {
		a.note("%s", brief(err))
		return
	}
	f := m.ProtoReflect().Descriptor().Fields()
	s := fmt.Sprint(m.ProtoReflect().Get(f.ByName("attempt")).Int())
	if i := f.ByName("index"); i != nil {
		s += fmt.Sprintf(".%d", m.ProtoReflect().Get(i).Int())
	}
	a.note("%s", s)
}

// asksHeader notes the value of "h".
func asksHeader(a *app) {
	md, err := a.cs.Header()
	a.note("header %v %s", md.Get("h"), brief(err))
}

func cancels(a *app) { a.cancel() }

func closesConn(a *app) { require.NoError(a, a.conn.Close()) }

func waits(d time.Duration) does { return func(*app) { virtual.Sleep(d) } }

// open opens a stream through c, and has the application do what it does.
func (c client) open(k kind, ops ...does) *app {
	c.Helper()
	ctx, cancel := context.WithCancel(c.Context())
	c.Cleanup(cancel)
	return c.openWith(ctx, cancel, k, nil, ops...)
}

func (c client) openWith(ctx context.Context, cancel context.CancelFunc, k kind, opts []grpc.CallOption, ops ...does) *app {
	c.Helper()
	a := &app{T: c.T, kind: k, conn: c.conn, cancel: cancel, began: time.Now()}
	cs, err := c.conn.NewStream(ctx, k.desc(), k.method, append(opts, interceptor.WithTimeline(&a.tl))...)
	if err != nil {
		a.note("open: %s", brief(err))
		return a
	}
	a.cs = cs
	for _, op := range ops {
		op(a)
	}
	return a
}

// served is what arrived at the server: the payloads of each attempt, with a dot if
// it saw the end.
func served(srv *testsrv.Server, k kind) (seen []string) {
	for _, a := range srv.Arrivals(k.method) {
		s := ""
		for _, r := range a.Received {
			s += string(r.(interface{ GetPayload() []byte }).GetPayload())
		}
		if a.HalfClosed {
			s += "."
		}
		seen = append(seen, s)
	}
	return seen
}

func idempotent(p *policy.Policy) { p.Idempotency = classify.Idempotent }

// sendsAll is what the application of a kind sends.
func (k kind) sendsAll() []does {
	if k.client {
		return []does{sends("abc"), closes}
	}
	return []does{sends("a"), closes}
}

// reads is what the server of a kind does first.
func (k kind) reads(then ...testsrv.Step) testsrv.Step {
	if k.client {
		then = append([]testsrv.Step{testsrv.RecvAll()}, then...)
	}
	return testsrv.Do(then...)
}

// shows makes the server show something that commits the attempt once the
// application has it: a message, or where there is only one a header.
func (k kind) shows() testsrv.Step {
	if k.server {
		return testsrv.Send(1)
	}
	return testsrv.SendHeader(metadata.Pairs("h", "1"))
}

func (k kind) looks() does {
	if k.server {
		return receives
	}
	return asksHeader
}

// all is what the server of a kind has seen of an attempt.
func (k kind) all() string {
	if k.client {
		return "abc."
	}
	return "a"
}

// TestStreamResponses has what gRFC A6 says of responses, for all four kinds, with
// retries and with hedging, before and after the stream is committed.
func TestStreamResponses(t *testing.T) {
	t.Parallel()
	ok := testsrv.OK()
	fatal := testsrv.Fail(codes.NotFound, "")
	type row struct {
		name     string
		hedge    bool
		response testsrv.Step // of the first attempt
		shown    bool         // after something was shown to the application
		sees     string       // the application, at the end
		attempts []string
	}
	retry := []row{
		{"OK", false, ok, false, "1 @10ms", []string{"original 0s..10ms won"}},
		{"fatal", false, fatal, false, "NotFound (non-retryable) @10ms", []string{"original 0s..10ms failed"}},
		{"retryable", false, down, false, "2 @70ms", []string{"original 0s..10ms failed", "retry 60ms..70ms won"}},
		{"pushback that forbids", false, pushback("-1"), false, "Unavailable (pushback) @10ms", []string{"original 0s..10ms failed"}},
		{"pushback of 20 ms", false, pushback("20"), false, "2 @40ms", []string{"original 0s..10ms failed", "retry 30ms..40ms won"}},

		{"OK", false, ok, true, "1 @20ms", []string{"original 0s..20ms won"}},
		{"fatal", false, fatal, true, "NotFound (non-retryable) @20ms", []string{"original 0s..20ms failed"}},
		{"retryable", false, down, true, "Unavailable (committed) @20ms", []string{"original 0s..20ms failed"}},
		{"pushback that forbids", false, pushback("-1"), true, "Unavailable (pushback) @20ms", []string{"original 0s..20ms failed"}},
		{"pushback of 20 ms", false, pushback("20"), true, "Unavailable (committed) @20ms", []string{"original 0s..20ms failed"}},
	}
	hedge := []row{
		{"OK", true, ok, false, "1 @150ms", []string{"original 0s..150ms won", "hedge 100ms..150ms lost at 150ms"}},
		{"fatal", true, fatal, false, "NotFound (non-retryable) @150ms", []string{"original 0s..150ms failed", "hedge 100ms..150ms cancelled at 150ms"}},
		{"retryable", true, down, false, "2 @300ms", []string{"original 0s..150ms failed", "hedge 100ms..300ms won", "hedge 150ms..300ms lost at 300ms", "hedge 250ms..300ms lost at 300ms"}},
		{"pushback that forbids", true, pushback("-1"), false, "2 @300ms", []string{"original 0s..150ms failed", "hedge 100ms..300ms won"}},
		{"pushback of 20 ms", true, pushback("20"), false, "2 @300ms", []string{"original 0s..150ms failed", "hedge 100ms..300ms won", "hedge 170ms..300ms lost at 300ms", "hedge 270ms..300ms lost at 300ms"}},

		{"OK", true, ok, true, "1 @200ms", []string{"original 0s..200ms won", "hedge 100ms..150ms lost at 150ms"}},
		{"fatal", true, fatal, true, "NotFound (non-retryable) @200ms", []string{"original 0s..200ms failed", "hedge 100ms..150ms lost at 150ms"}},
		{"retryable", true, down, true, "Unavailable (committed) @200ms", []string{"original 0s..200ms failed", "hedge 100ms..150ms lost at 150ms"}},
		{"pushback that forbids", true, pushback("-1"), true, "Unavailable (pushback) @200ms", []string{"original 0s..200ms failed", "hedge 100ms..150ms lost at 150ms"}},
		{"pushback of 20 ms", true, pushback("20"), true, "Unavailable (committed) @200ms", []string{"original 0s..200ms failed", "hedge 100ms..150ms lost at 150ms"}},
	}
	for _, k := range kinds {
		for _, r := range append(retry, hedge...) {
			p, first, before, later := exact(idempotent), 10*ms, 0*ms, 10*ms
			name := fmt.Sprintf("%s, retry, %s", k.method, r.name)
			if r.hedge {
				p, before, later = after100(idempotent), 140*ms, 200*ms
				name = fmt.Sprintf("%s, hedge, %s", k.method, r.name)
			}
			first += before
			response := k.reads(testsrv.Delay(first), r.response)
			app := append(k.sendsAll(), receives)
			var shown []string
			if r.shown {
				name += ", after commit"
				second := 10 * ms
				if r.hedge {
					second = 50 * ms
				}
				response = k.reads(testsrv.Delay(first), k.shows(), testsrv.Delay(second), r.response)
				app = append(k.sendsAll(), k.looks(), receives)
				shown = []string{fmt.Sprintf("header [1] <nil> @%v", first)}
				if k.server {
					shown = []string{fmt.Sprintf("1.0 @%v", first)}
				}
			}
			last := r.sees
			if k.server && (last[0] == '1' || last[0] == '2') {
				if r.shown {
					last = "EOF" + last[1:]
				} else {
					last = last[:1] + ".0" + last[1:]
				}
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T, srv *testsrv.Server) {
					c := newClient(t, srv, named(p), interceptor.WithTargetBudget(unlimited)).ready()
					answer := k.reads(testsrv.Delay(later), testsrv.OK())
					if k.server { // OK alone sends nothing
						answer = k.reads(testsrv.Delay(later), testsrv.Send(1))
						if !r.shown && r.name == "OK" {
							response = k.reads(testsrv.Delay(first), testsrv.Send(1))
						}
					}
					c.number(k.method, response, answer)
					a := c.open(k, app...)
					if k.server && !r.shown && a.tl.Reason == interceptor.EndUnfinished {
						at := a.seen[len(a.seen)-1]
						receives(a)
						assert.Contains(t, a.seen[len(a.seen)-1], "EOF")
						a.seen = a.seen[:len(a.seen)-1]
						assert.Equal(t, at, a.seen[len(a.seen)-1])
					}
					assert.Equal(t, append(shown, last), a.seen, "%v", &a.tl)
					assert.Equal(t, r.attempts, raced(&a.tl), "%v", &a.tl)
					synctest.Wait()
					for i, s := range served(srv, k) {
						assert.Equal(t, k.all(), s, "attempt %d", i+1)
					}
				})
			})
		}
	}
}

// brokenStream ends as grpc at times has a stream end whose connection was cut: well,
// though the server has said nothing.
type brokenStream struct {
	grpc.ClientStream
	ctx  context.Context
	opts []grpc.CallOption
}

func (*brokenStream) Header() (metadata.MD, error) { return nil, nil }
func (*brokenStream) Trailer() metadata.MD         { return nil }
func (*brokenStream) CloseSend() error             { return nil }
func (s *brokenStream) Context() context.Context   { return s.ctx }

func (s *brokenStream) SendMsg(m any) error {
	interceptor.Asked(s.opts, m)
	return nil
}

func (s *brokenStream) RecvMsg(any) error {
	for _, o := range s.opts {
		switch o := o.(type) {
		case grpc.PeerCallOption:
			o.PeerAddr.Addr = address("server")
		case grpc.OnFinishCallOption:
			o.OnFinish(nil)
		}
	}
	return io.EOF
}

// TestEndWithoutAnswer: it is not taken for success.
func TestEndWithoutAnswer(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		srv.Script(testsrv.Watch, testsrv.Do(testsrv.Send(2)))
		broken := 0
		cut := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if broken++; broken > 1 {
				return streamer(ctx, desc, cc, method, opts...)
			}
			return &brokenStream{ctx: ctx, opts: opts}, nil
		}
		it := newInterceptor(t)
		c := testv1.NewTestServiceClient(srv.Conn(t, append(it.DialOptions(), grpc.WithChainStreamInterceptor(cut))...))
		for _, p := range []policy.Policy{exact(idempotent), exact(idempotent, func(p *policy.Policy) { p.Hedge.Delay = time.Second })} {
			broken = 0
			var tl interceptor.Timeline
			s, err := c.Watch(t.Context(), &testv1.WatchRequest{}, interceptor.WithPolicy(p), interceptor.WithTimeline(&tl))
			require.NoError(t, err)
			n := 0
			for ; err == nil; n++ {
				_, err = s.Recv()
			}
			require.ErrorIs(t, err, io.EOF)
			assert.Equal(t, 3, n, "two messages and the end")
			require.Len(t, tl.Attempts, 2)
			assert.Equal(t, codes.Unavailable, tl.Attempts[0].Code)
			assert.Equal(t, classify.DeliveryUnknown, tl.Attempts[0].Delivery)

			broken = 0
			s, err = c.Watch(t.Context(), &testv1.WatchRequest{}, interceptor.WithPolicy(p), interceptor.WithIdempotency(classify.NotIdempotent))
			require.NoError(t, err)
			_, err = s.Recv()
			require.Equal(t, codes.Unavailable, status.Code(err))
		}
	})
}
