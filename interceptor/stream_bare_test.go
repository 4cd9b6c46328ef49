package interceptor_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// An application and a server that are played once bare and once with rego for each of
// some policies. What is expected is what bare shows.

// play is what the server and the application of a stream do.
type play struct {
	name string
	kind kind
	step testsrv.Step // of every attempt
	then testsrv.Step // of all but the first, if they are others
	app  []does

	opts     func(*app) []grpc.CallOption
	below    grpc.DialOption // an interceptor below rego
	late     time.Duration   // how much later than bare something may be seen: docs/conformance.md says why
	unhedged bool            // hedged, it differs: docs/conformance.md says why
}

// nearBare are policies with which a stream shows what it shows bare: none retries what bare
// has an answer to, and none sends a hedge.
var nearBare = map[string]policy.Policy{
	"default":     exact(),
	"idempotent":  exact(idempotent),
	"hedged":      exact(idempotent, func(p *policy.Policy) { p.Hedge.Delay = time.Hour }),
	"one attempt": exact(idempotent, func(p *policy.Policy) { p.Retry.MaxAttempts = 1 }),
}

// sameAsBare fails if the application or the server sees something else than bare, or later.
func (p play) sameAsBare(t *testing.T) {
	t.Helper()
	t.Run(p.name, func(t *testing.T) {
		t.Parallel()
		bare := p.plays(t)
		for name, as := range nearBare {
			if p.unhedged && as.Hedge.Delay > 0 {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				got := p.plays(t, newInterceptor(t, named(as)).DialOptions()...)
				assert.Equal(t, bare.served, got.served)
				if p.late == 0 {
					assert.Equal(t, bare.seen, got.seen)
					return
				}
				assert.Equal(t, timeless(bare.seen), timeless(got.seen))
				assert.LessOrEqual(t, got.took, bare.took+p.late)
			})
		}
	})
}

// played is what came of it.
type played struct {
	seen   []string // by the application
	served []string // at the server: attempts that got the same are one
	took   time.Duration
}

func (p play) plays(t *testing.T, dial ...grpc.DialOption) (got played) {
	t.Helper()
	if p.below != nil {
		dial = append(dial, p.below)
	}
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		srv.Script(p.kind.method, p.step)
		if p.then != nil {
			srv.Script(p.kind.method, p.step, p.then)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a hang takes as long
		defer cancel()
		a := &app{T: t, kind: p.kind, conn: srv.Conn(t, dial...), cancel: cancel}
		client{t, srv, a.conn}.ready()
		a.began = time.Now()
		var opts []grpc.CallOption
		if p.opts != nil {
			opts = p.opts(a)
		}
		cs, err := a.conn.NewStream(ctx, p.kind.desc(), p.kind.method, opts...)
		require.NoError(t, err)
		a.cs = cs
		for _, op := range p.app {
			op(a)
		}
		got.took = time.Since(a.began)
		synctest.Wait()
		cancel()
		synctest.Wait()
		got.seen, got.served = a.seen, slices.Compact(served(srv, p.kind))
	})
	return got
}

// timeless is what was seen, without when.
func timeless(seen []string) (what []string) {
	for _, s := range seen {
		s, _, _ = strings.Cut(s, " @")
		what = append(what, s)
	}
	return what
}

// sendsText sends each letter as a message, and notes what it is told as it is.
func sendsText(payloads string) does {
	return func(a *app) {
		for _, c := range payloads {
			a.note("send %c: %v", c, a.cs.SendMsg(a.request(string(c))))
		}
	}
}

func closesText(a *app) { a.note("close: %v", a.cs.CloseSend()) }

// hearsEnd notes what OnFinish tells.
func hearsEnd(a *app) []grpc.CallOption {
	return []grpc.CallOption{grpc.OnFinish(func(err error) { a.note("finished: %v", err) })}
}

// asksHeaderAtEnd asks for the header in OnFinish.
func asksHeaderAtEnd(a *app) []grpc.CallOption {
	return []grpc.CallOption{grpc.OnFinish(func(error) { asksHeader(a) })}
}

// takes refuses what is larger.
func takes(bytes int) func(*app) []grpc.CallOption {
	return func(*app) []grpc.CallOption { return []grpc.CallOption{grpc.MaxCallRecvMsgSize(bytes)} }
}

// prepares encodes a message for the stream.
func prepares(a *app) {
	a.note("prepare: %v", new(grpc.PreparedMsg).Encode(a.cs, a.request("b")))
}

// TestEarlyAnswer: an upload that its server ends before all was sent, or with none or two
// answers, shows that as it does bare, and at once.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	// The server's method has become one that streams both ways. The client does not know.
	outdated := kind{testsrv.Chat, true, false, chatKind.newReply}
	late := []does{sendsText("a"), waits(50 * ms), sendsText("b")} // which is too late
	for _, p := range []play{
		{name: "sends on after CloseSend", kind: uploadKind, step: after(10*ms, testsrv.OK()), app: append(late, closesText, sendsText("c"), receivesText, receivesText)},
		{name: "too large", kind: uploadKind, step: after(10*ms, testsrv.Reply(&testv1.UploadResponse{Payload: make([]byte, 100)})), app: append(late, closesText, receivesText), opts: takes(4)},
		{name: "two answers", kind: outdated, step: after(10*ms, testsrv.Send(2)), app: append(late, closesText, receivesText)},
		{name: "two answers, waited for", kind: outdated, step: after(10*ms, testsrv.Send(2)), app: []does{sendsText("a"), closesText, receivesText}},
		{name: "no answer", kind: outdated, step: after(10*ms, testsrv.OK()), app: append(late, closesText, receivesText, receivesText), opts: hearsEnd},
		{name: "no answer to all that was sent", kind: outdated, step: after(10*ms, testsrv.OK()), app: []does{sendsText("a"), waits(50 * ms), closesText, receivesText}, opts: hearsEnd},
	} {
		p.sameAsBare(t)
	}
}

// TestEarlyAnswerArrives, over TCP, where it meets what is still sent.
func TestEarlyAnswerArrives(t *testing.T) {
	t.Parallel()
	srv := testsrv.Start(t, testsrv.TCP("127.0.0.1:0"), testsrv.NoRecording())
	srv.Script(testsrv.Upload, testsrv.Reply(&testv1.UploadResponse{Id: "stored"}))
	for name, p := range nearBare {
		uploads := testv1.NewTestServiceClient(newClient(t, srv, named(p)).ready().conn)
		for i := range 100 {
			cs, err := uploads.Upload(t.Context())
			require.NoError(t, err)
			for err == nil {
				err = cs.Send(&testv1.UploadRequest{Payload: []byte("a")})
			}
			answer, err := cs.CloseAndRecv()
			require.NoError(t, err, "%s: upload %d", name, i)
			require.Equal(t, "stored", answer.GetId())
		}
	}
}

// TestStreamCanBeAsked: an application may ask its stream for what it could ask a bare one,
// and whenever that has it.
func TestStreamCanBeAsked(t *testing.T) {
	t.Parallel()
	failed := testsrv.Do(testsrv.Delay(10*ms), testsrv.SendHeader(metadata.Pairs("h", "1")), testsrv.Fail(codes.NotFound, "none"))
	for _, p := range []play{
		{name: "for its header in OnFinish", kind: watchKind, step: failed, app: []does{sendsText("a"), closesText, receivesText}, opts: asksHeaderAtEnd},
		{name: "for its codec between two attempts", kind: uploadKind, step: after(10*ms, down), app: append([]does{sendsText("a")}, times(20, func(a *app) { waits(5 * ms)(a); prepares(a) }))},
	} {
		p.sameAsBare(t)
	}
}

// TestEmptyEndIsLeft: an upload that the server ends without an answer, and that nobody asks
// for it, ends with its context.
func TestEmptyEndIsLeft(t *testing.T) {
	t.Parallel()
	for name, p := range nearBare {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				srv.Handle(testsrv.Upload, func(testsrv.Arrival) testsrv.Step { return testsrv.OK() })
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				ended := false
				conn := srv.Conn(t, newInterceptor(t, named(p)).DialOptions()...)
				cs, err := testv1.NewTestServiceClient(conn).Upload(ctx, grpc.OnFinish(func(error) { ended = true }))
				require.NoError(t, err)
				_ = cs.Send(new(testv1.UploadRequest))
				virtual.Sleep(2 * time.Second)
				synctest.Wait()
				assert.True(t, ended)
			})
		})
	}
}
