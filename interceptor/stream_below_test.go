package interceptor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
)

// Interceptors below rego that do more, or less, to a stream than to hand it on.

// opener opens a stream of grpc with its context and options left open.
type opener func(ctx context.Context, opts ...grpc.CallOption) (grpc.ClientStream, error)

// opens makes an interceptor of how it opens a stream.
func opens(f func(ctx context.Context, opts []grpc.CallOption, open opener) (grpc.ClientStream, error)) grpc.DialOption {
	return grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return f(ctx, opts, func(ctx context.Context, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(ctx, desc, cc, method, opts...)
		})
	})
}

// altered is a stream of which some methods are others. It hands on what is nil.
type altered struct {
	grpc.ClientStream
	send, recv func(m any, next func(any) error) error
	close      func(next func() error) error
	header     func() (metadata.MD, error)
}

// alters makes an interceptor of how each stream is altered.
func alters(f func() altered) grpc.DialOption {
	return opens(func(ctx context.Context, opts []grpc.CallOption, open opener) (grpc.ClientStream, error) {
		cs, err := open(ctx, opts...)
		if err != nil {
			return nil, err
		}
		s := f()
		s.ClientStream = cs
		return s, nil
	})
}

func (s altered) SendMsg(m any) error {
	if s.send == nil {
		return s.ClientStream.SendMsg(m)
	}
	return s.send(m, s.ClientStream.SendMsg)
}

func (s altered) RecvMsg(m any) error {
	if s.recv == nil {
		return s.ClientStream.RecvMsg(m)
	}
	return s.recv(m, s.ClientStream.RecvMsg)
}

func (s altered) CloseSend() error {
	if s.close == nil {
		return s.ClientStream.CloseSend()
	}
	return s.close(s.ClientStream.CloseSend)
}

func (s altered) Header() (metadata.MD, error) {
	if s.header == nil {
		return s.ClientStream.Header()
	}
	return s.header()
}

// stamps changes each message before it hands it on.
func stamps() altered {
	return altered{send: func(m any, next func(any) error) error {
		r := m.(*testv1.UploadRequest)
		r.Payload = append(r.Payload, " stamped "...)
		return next(r)
	}}
}

// limits ends the sending after two messages, though grpc's stream goes on.
func limits() altered {
	n := 0
	return altered{send: func(m any, next func(any) error) error {
		if n++; n > 2 {
			return io.EOF
		}
		return next(m)
	}}
}

// idles ends the receiving by itself, though grpc's stream goes on.
func idles() altered {
	return altered{recv: func(any, func(any) error) error {
		virtual.Sleep(50 * ms)
		return io.EOF
	}}
}

// swallows takes a server that is gone for the end.
func swallows() altered {
	return altered{recv: func(m any, next func(any) error) error {
		if err := next(m); status.Code(err) != codes.Unavailable {
			return err
		}
		return io.EOF
	}}
}

// headless has another header than grpc.
func headless(err error) func() altered {
	return func() altered {
		return altered{header: func() (metadata.MD, error) { return nil, err }}
	}
}

// flushes closes, and has something to say of it.
func flushes() altered {
	return altered{close: func(next func() error) error {
		return errors.Join(next(), errors.New("nothing to flush"))
	}}
}

// tagged is an application's message, with more to it than what is sent.
type tagged struct {
	*testv1.UploadRequest
	tenant string
}

// routes looks at what an application's message has besides.
func routes() altered {
	return altered{send: func(m any, next func(any) error) error {
		if r, ok := m.(*tagged); !ok || r.tenant != "x" {
			return fmt.Errorf("no route for %T", m)
		}
		return next(m)
	}}
}

func sendsTagged(a *app) {
	a.note("send: %v", a.cs.SendMsg(&tagged{a.request("a").(*testv1.UploadRequest), "x"}))
}

// forgets has no option by which grpc tells that a stream has ended.
var forgets = opens(func(ctx context.Context, opts []grpc.CallOption, open opener) (grpc.ClientStream, error) {
	return open(ctx, without[grpc.OnFinishCallOption](opts)...)
})

// triesTwice opens a stream with a context that has ended, which fails, and then once more.
var triesTwice = opens(func(ctx context.Context, opts []grpc.CallOption, open opener) (grpc.ClientStream, error) {
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if cs, err := open(gone, opts...); err == nil {
		return cs, nil
	}
	return open(ctx, opts...)
})

// opensTwo opens a stream, gives it up, and opens another.
var opensTwo = opens(func(ctx context.Context, opts []grpc.CallOption, open opener) (grpc.ClientStream, error) {
	tried, cancel := context.WithCancel(ctx)
	defer cancel()
	if cs, err := open(tried, opts...); err != nil {
		return cs, err
	}
	virtual.Sleep(ms) // the server counts them
	return open(ctx, opts...)
})

// shadows opens another stream beside, and receives what comes of it.
var shadows = opens(func(ctx context.Context, opts []grpc.CallOption, open opener) (grpc.ClientStream, error) {
	go func() {
		cs, err := open(ctx, opts...)
		if err != nil {
			return
		}
		_ = cs.CloseSend()
		for err == nil {
			err = cs.RecvMsg(new(emptypb.Empty))
		}
	}()
	virtual.Sleep(ms)
	return open(ctx, opts...)
})

// refreshing makes its stream again, once, when the server says that the token is too old.
type refreshing struct {
	now   atomic.Pointer[altered] // the stream that is used
	again func() (grpc.ClientStream, error)

	mu   sync.Mutex
	sent []any
}

var refreshes = opens(func(ctx context.Context, opts []grpc.CallOption, open opener) (grpc.ClientStream, error) {
	r := &refreshing{again: func() (grpc.ClientStream, error) { return open(ctx, opts...) }}
	cs, err := open(ctx, opts...)
	r.now.Store(&altered{ClientStream: cs})
	return r, err
})

func (r *refreshing) Header() (metadata.MD, error) { return r.now.Load().Header() }
func (r *refreshing) Trailer() metadata.MD         { return r.now.Load().Trailer() }
func (r *refreshing) CloseSend() error             { return r.now.Load().CloseSend() }
func (r *refreshing) Context() context.Context     { return r.now.Load().Context() }

func (r *refreshing) SendMsg(m any) error {
	r.mu.Lock()
	r.sent = append(r.sent, m)
	r.mu.Unlock()
	return r.now.Load().SendMsg(m)
}

func (r *refreshing) RecvMsg(m any) error {
	err := r.now.Load().RecvMsg(m)
	if r.again == nil || status.Code(err) != codes.Unauthenticated {
		return err
	}
	cs, err := r.again()
	if err != nil {
		return err
	}
	r.now.Store(&altered{ClientStream: cs})
	r.again = nil
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.sent {
		if err := cs.SendMsg(m); err != nil {
			return err
		}
	}
	if err := cs.CloseSend(); err != nil {
		return err
	}
	return cs.RecvMsg(m)
}

// TestStreamBelowSameAsBare: what an interceptor below does to a stream, the application
// and the server see as without rego.
func TestStreamBelowSameAsBare(t *testing.T) {
	t.Parallel()
	asks := []does{sendsText("a"), closesText, receivesText}
	header := testsrv.SendHeader(metadata.Pairs("h", "1"))
	plays := []play{
		{name: "changes what is sent", below: alters(stamps), kind: uploadKind, step: testsrv.Echo(), app: []does{sendsText("ab"), closesText, receives}},
		{name: "looks at the type of what is sent", below: alters(routes), kind: uploadKind, step: testsrv.Echo(), app: []does{sendsTagged, sendsTagged, closesText, receives}},
		{name: "ends the sending", below: alters(limits), kind: uploadKind, step: testsrv.Echo(), app: []does{sendsText("abc"), closesText, receives}, late: time.Second},
		{name: "ends the receiving of a watch", below: alters(idles), kind: watchKind, step: testsrv.Hang(), app: asks},
		{name: "ends the receiving of a chat", below: alters(idles), kind: chatKind, step: testsrv.Hang(), app: asks},
		{name: "takes a failure for the end", below: alters(swallows), kind: watchKind, step: after(300*ms, testsrv.KillConn()), app: asks},
		{name: "has no header", below: alters(headless(nil)), kind: chatKind, step: testsrv.Do(header, testsrv.Hang()), app: []does{sendsText("a"), asksHeader}},
		{name: "fails for the header", below: alters(headless(status.Error(codes.DataLoss, ""))), kind: chatKind, step: testsrv.Do(header, testsrv.Hang()), app: []does{sendsText("a"), asksHeader}},
		{name: "fails to close, and has closed", below: alters(flushes), kind: chatKind, step: testsrv.Do(testsrv.RecvAll(), testsrv.Delay(50*ms), testsrv.Send(1)), app: []does{sendsText("a"), closesText, receives, receives}, unhedged: true},
	}
	slow := testsrv.Do(testsrv.Send(1), testsrv.Delay(20*ms), testsrv.Send(1), testsrv.Delay(20*ms), testsrv.OK())
	app := []does{sendsText("a"), closesText, receives, waits(10 * ms), receives, receives}
	for end, step := range map[string]testsrv.Step{"refused": testsrv.Fail(codes.Unavailable, ""), "answered": testsrv.Send(1), "empty": testsrv.OK()} {
		plays = append(plays, play{name: "shadows, " + end, below: shadows, kind: chatKind, step: after(3*ms, step), then: slow, app: app})
	}
	plays = append(plays, play{name: "shadows without a request", below: shadows, kind: watchKind, step: slow, app: app})
	for _, k := range []kind{watchKind, chatKind} {
		plays = append(plays, play{name: "refreshes, and more comes, " + path.Base(k.method), below: refreshes, kind: k, step: after(5*ms, testsrv.Fail(codes.Unauthenticated, "")), then: slow, app: app})
	}
	for _, k := range kinds {
		plays = append(plays,
			play{name: "removes OnFinish, " + path.Base(k.method), below: forgets, kind: k, step: after(10*ms, testsrv.Fail(codes.NotFound, "none")), app: asks, late: time.Second},
			play{name: "opens two, " + path.Base(k.method), below: opensTwo, kind: k, step: testsrv.Echo(), app: []does{waits(20 * ms), sendsText("a"), closesText, receives, receives, waits(20 * ms), receives}},
			play{name: "refreshes, " + path.Base(k.method), below: refreshes, kind: k, step: after(5*ms, testsrv.Fail(codes.Unauthenticated, "")),
				then: after(5*ms, testsrv.Echo()), app: []does{sendsText("a"), closesText, receives, receives, waits(20 * ms), receives}},
			play{name: "opens twice, " + path.Base(k.method), below: triesTwice, kind: k, step: testsrv.Echo(), app: []does{waits(20 * ms), sendsText("a"), closesText, receives}})
	}
	for _, p := range plays {
		p.sameAsBare(t)
	}
}

// TestUntoldAndSentLate: an application that sends into a stream which has failed is told
// so, though an interceptor below keeps OnFinish from rego.
func TestUntoldAndSentLate(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{uploadKind, chatKind} {
		play{
			name: path.Base(k.method), below: forgets, kind: k, step: after(10*ms, testsrv.Fail(codes.NotFound, "none")),
			app: []does{sendsText("a"), waits(50 * ms), sendsText("b"), closesText, receivesText}, late: time.Second,
		}.sameAsBare(t)
	}
}
