package interceptor_test

import (
	"context"
	"fmt"
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
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// TestStreamScripts has what the implementations of gRFC A6 test of streams, and
// rego's own rules, one by one. docs/conformance.md names its rows.
func TestStreamScripts(t *testing.T) {
	t.Parallel()
	type row struct {
		name   string
		kind   kind
		policy policy.Policy
		steps  []testsrv.Step // of the attempts, by number
		app    []does
		sees   string   // the application
		served []string // the server, attempt by attempt
		tl     string   // end reason, and why it was committed
		opts   []interceptor.Option
	}
	script := func(s ...testsrv.Step) []testsrv.Step { return s }
	app := func(d ...does) []does { return d }
	do, ok := testsrv.Do, testsrv.OK()
	retry := exact(idempotent)
	timeout := exact(idempotent, func(p *policy.Policy) { p.AttemptTimeout = 30 * ms })
	header := testsrv.SendHeader(metadata.Pairs("h", "1"))
	small := []interceptor.Option{interceptor.WithCallReplayLimit(1000)}
	for _, r := range []row{
		// What grpc-go tests of retries.
		{
			name: "a code that is not retryable", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), testsrv.Fail(codes.Internal, ""))),
			app:   app(sends("a"), receives),
			sees:  "Internal (non-retryable) @0s", served: []string{"a"}, tl: "non-retryable",
		},
		{
			name: "one retry is necessary", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), down), do(testsrv.Recv(1), testsrv.Send(1), testsrv.RecvAll())),
			app:   app(sends("a"), receives, closes, receives),
			sees:  "2.0 @50ms, EOF @50ms", served: []string{"a", "a."}, tl: "succeeded answer",
		},
		{
			name: "attempts run out", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), down)),
			app:   app(sends("a"), receives),
			sees:  "Unavailable (attempts-exhausted) @150ms", served: []string{"a", "a", "a"}, tl: "attempts-exhausted one-attempt",
		},
		{
			name: "many requests", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(3), down), do(testsrv.Recv(3), testsrv.Send(1), testsrv.Recv(1), testsrv.Send(1))),
			app:   app(sends("abc"), receives, sends("d"), receives, receives),
			sees:  "2.0 @50ms, 2.1 @50ms, EOF @50ms", served: []string{"abc", "abcd"}, tl: "succeeded answer",
		},
		{
			name: "requests during the backoff wait for it", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), down), do(testsrv.Recv(2), testsrv.Send(1))),
			app:   app(sends("a"), waits(10*ms), sends("b"), noteNow, receives, receives),
			sees:  "now @50ms, 2.0 @50ms, EOF @50ms", served: []string{"a", "ab"}, tl: "succeeded answer",
		},
		{
			name: "no retry after a message", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), testsrv.Send(1), down)),
			app:   app(sends("a"), receives, receives, receives),
			sees:  "1.0 @0s, Unavailable (committed) @0s, Unavailable (committed) @0s", served: []string{"a"}, tl: "committed answer",
		},
		{
			name: "retry through Header", kind: watchKind, policy: retry,
			steps: script(down, do(header, testsrv.Send(1))),
			app:   app(sends("a"), closes, asksHeader, receives, receives),
			sees:  "header [1] <nil> @50ms, 2.0 @50ms, EOF @50ms", served: []string{"a", "a"}, tl: "succeeded header",
		},
		{
			name: "no retry after Header", kind: watchKind, policy: retry,
			steps: script(do(header, testsrv.Delay(10*ms), down)),
			app:   app(sends("a"), closes, asksHeader, receives),
			sees:  "header [1] <nil> @0s, Unavailable (committed) @10ms", served: []string{"a"}, tl: "committed header",
		},
		{
			name: "no header, no retry left", kind: watchKind, policy: retry,
			steps: script(down),
			app:   app(sends("a"), closes, asksHeader, receives),
			sees:  "header [] <nil> @150ms, Unavailable (attempts-exhausted) @150ms", served: []string{"a", "a", "a"}, tl: "attempts-exhausted",
		},
		{
			name: "a header that nobody asked for commits nothing", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), header, testsrv.Delay(10*ms), down), do(testsrv.Recv(1), testsrv.Send(1))),
			app:   app(sends("a"), receives, receives),
			sees:  "2.0 @60ms, EOF @60ms", served: []string{"a", "a"}, tl: "succeeded answer",
		},
		{
			name: "Context commits nothing", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), down), do(testsrv.Recv(1), testsrv.Send(1))),
			app:   app(asksContext, sends("a"), receives, asksContext, receives),
			sees:  "peer @0s, 2.0 @50ms, peer @50ms, EOF @50ms", served: []string{"a", "a"}, tl: "succeeded answer",
		},
		{
			name: "CloseSend is replayed", kind: uploadKind, policy: retry,
			steps: script(do(testsrv.RecvAll(), down), do(testsrv.RecvAll(), ok)),
			app:   app(sends("ab"), closes, receives),
			sees:  "2 @50ms", served: []string{"ab.", "ab."}, tl: "succeeded answer",
		},
		{
			name: "pushback that is no number", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), pushback("soon"))),
			app:   app(sends("a"), receives),
			sees:  "Unavailable (pushback) @0s", served: []string{"a"}, tl: "pushback",
		},
		{
			name: "two pushbacks", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), pushback("1", "2"))),
			app:   app(sends("a"), receives),
			sees:  "Unavailable (pushback) @0s", served: []string{"a"}, tl: "pushback",
		},
		{
			name: "pushback of a second", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), pushback("1000")), do(testsrv.Recv(1), testsrv.Send(1))),
			app:   app(sends("a"), receives, receives),
			sees:  "2.0 @1s, EOF @1s", served: []string{"a", "a"}, tl: "succeeded answer",
		},
		{
			name: "a full buffer", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(2), testsrv.Delay(10*ms), down)),
			app:   app(sends("a"), sendsLarge(2000), receives),
			sees:  "sent large @0s, Unavailable (replay-buffer-full) @10ms", served: []string{"a" + large(2000)}, tl: "replay-buffer-full replay-buffer-full",
			opts: small,
		},
		{
			name: "a full buffer fails nothing", kind: uploadKind, policy: retry,
			steps: script(do(testsrv.RecvAll(), ok)),
			app:   app(sends("a"), sendsLarge(2000), sends("b"), closes, receives),
			sees:  "sent large @0s, 1 @0s", served: []string{"a" + large(2000) + "b."}, tl: "succeeded replay-buffer-full",
			opts: small,
		},
		{
			name: "a full buffer before there is a hedge", kind: chatKind, policy: after100(idempotent),
			steps: script(do(testsrv.Recv(1), testsrv.Delay(300*ms), testsrv.Send(1))),
			app:   app(sends("a"), receives, receives),
			sees:  "1.0 @300ms, EOF @300ms", served: []string{"a"}, tl: "succeeded replay-buffer-full",
			opts: []interceptor.Option{interceptor.WithCallReplayLimit(0)},
		},
		{
			name: "a full buffer during the backoff", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), down), do(testsrv.Recv(2), testsrv.Delay(10*ms), down)),
			app:   app(sends("a"), waits(10*ms), sendsLarge(2000), receives),
			sees:  "sent large @50ms, Unavailable (replay-buffer-full) @60ms", served: []string{"a", "a" + large(2000)}, tl: "replay-buffer-full replay-buffer-full",
			opts: small,
		},
		{
			name: "a full buffer, after the message that fits", kind: uploadKind, policy: retry,
			steps: script(do(testsrv.Recv(1), testsrv.Delay(10*ms), down), do(testsrv.RecvAll(), ok)),
			app:   app(sends("a"), waits(20*ms), sendsLarge(2000), closes, receives),
			sees:  "sent large @60ms, 2 @60ms", served: []string{"a", "a" + large(2000) + "."}, tl: "succeeded replay-buffer-full",
			opts: small,
		},

		// What grpc-java and grpc-dotnet test besides.
		{
			name: "SendMsg waits until an attempt takes the message", kind: uploadKind, policy: retry,
			steps: script(down, do(testsrv.Delay(ms), down), do(testsrv.RecvAll(), ok)),
			app:   app(waits(ms), sends("a"), noteNow, closes, receives),
			sees:  "now @51ms, 3 @152ms", served: []string{"", "", "a."}, tl: "succeeded one-attempt",
		},
		{
			name: "SendMsg after the end is EOF, the status is with RecvMsg", kind: uploadKind, policy: retry,
			steps: script(testsrv.Fail(codes.NotFound, "")),
			app:   app(waits(ms), sends("a"), closes, receives),
			sees:  "send a: EOF @1ms, NotFound (non-retryable) @1ms", served: []string{""}, tl: "non-retryable",
		},
		{
			name: "a clean end without a message", kind: watchKind, policy: retry,
			steps: script(ok),
			app:   app(sends("a"), closes, receives, receives),
			sees:  "EOF @0s, EOF @0s", served: []string{"a"}, tl: "succeeded answer",
		},
		{
			name: "no answer where there has to be one", kind: uploadKind, policy: retry,
			steps: script(do(testsrv.RecvAll(), testsrv.Fail(codes.Internal, "none"))),
			app:   app(closes, receives),
			sees:  "Internal (non-retryable) @0s", served: []string{"."}, tl: "non-retryable",
		},
		{
			name: "a second RecvMsg after the one answer", kind: uploadKind, policy: retry,
			steps: script(do(testsrv.RecvAll(), ok)),
			app:   app(sends("a"), closes, receives, receives),
			sees:  "1 @0s, EOF @0s", served: []string{"a."}, tl: "succeeded answer",
		},
		{
			name: "a second message of a retried chat", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), down), testsrv.Echo()),
			app:   app(sends("a"), receives, sends("b"), receives, closes, closes, receives),
			sees:  "2.0 @50ms, 2.1 @50ms, EOF @50ms", served: []string{"a", "ab."}, tl: "succeeded answer",
		},
		{
			name: "cancelled while it waits for a retry", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), down)),
			app:   app(sends("a"), cancelsAfter(20*ms), receives, sends("b")),
			sees:  "Canceled (caller-cancelled) @20ms, send b: EOF @20ms", served: []string{"a"}, tl: "caller-cancelled",
		},
		{
			name: "cancelled in the attempt", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), testsrv.Hang())),
			app:   app(sends("a"), cancelsAfter(20*ms), receives),
			sees:  "Canceled (caller-cancelled) @20ms", served: []string{"a"}, tl: "caller-cancelled",
		},
		{
			name: "cancelled after commit", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), testsrv.Send(1), testsrv.Hang())),
			app:   app(sends("a"), receives, cancelsAfter(20*ms), receives),
			sees:  "1.0 @0s, Canceled (caller-cancelled) @20ms", served: []string{"a"}, tl: "caller-cancelled answer",
		},
		{
			name: "the policy's timeout is for the whole stream", kind: chatKind, policy: exact(idempotent, func(p *policy.Policy) { p.Timeout = 200 * ms }),
			steps: script(do(testsrv.Recv(1), testsrv.Send(1), testsrv.Hang())),
			app:   app(sends("a"), receives, receives),
			sees:  "1.0 @0s, DeadlineExceeded (deadline) @200ms", served: []string{"a"}, tl: "deadline answer",
		},
		{
			name: "a wait that does not fit the deadline", kind: chatKind, policy: exact(idempotent, func(p *policy.Policy) { p.Timeout = 40 * ms }),
			steps: script(do(testsrv.Recv(1), down)),
			app:   app(sends("a"), receives),
			sees:  "Unavailable (deadline-too-close) @0s", served: []string{"a"}, tl: "deadline-too-close",
		},
		{
			name: "more attempts than the interceptor allows", kind: chatKind, policy: exact(idempotent, func(p *policy.Policy) { p.Retry.MaxAttempts = 50 }),
			steps: script(do(testsrv.Recv(1), down)),
			app:   app(sends("a"), receives),
			sees:  "Unavailable (attempts-exhausted) @750ms", served: []string{"a", "a", "a", "a", "a"}, tl: "attempts-exhausted one-attempt",
		},
		{
			name: "no budget", kind: chatKind, policy: retry,
			steps: script(do(testsrv.Recv(1), down)),
			app:   app(sends("a"), receives),
			sees:  "Unavailable (budget-denied) @0s", served: []string{"a"}, tl: "budget-denied",
			opts: []interceptor.Option{interceptor.WithTargetBudget(func(string) budget.Budget { return denies{} })},
		},

		// What rego adds.
		{
			name: "one attempt passes through", kind: chatKind, policy: exact(idempotent, func(p *policy.Policy) { p.Retry.MaxAttempts = 1 }),
			steps: script(do(testsrv.Recv(1), testsrv.Send(1), down)),
			app:   app(sends("a"), receives, receives),
			sees:  "1.0 @0s, Unavailable (attempts-exhausted) @0s", served: []string{"a"}, tl: "attempts-exhausted one-attempt",
		},
		{
			name: "retries off pass through", kind: uploadKind, policy: exact(idempotent, likeA6),
			steps: script(do(testsrv.RecvAll(), down)),
			app:   app(sends("a"), closes, receives, receives),
			sees:  "Unavailable (disabled) @0s, Unavailable (disabled) @0s", served: []string{"a."}, tl: "disabled one-attempt",
		},
		{
			name: "passed through, one answer", kind: uploadKind, policy: exact(idempotent, likeA6),
			steps: script(do(testsrv.RecvAll(), ok)),
			app:   app(sends("a"), closes, receives),
			sees:  "1 @0s", served: []string{"a."}, tl: "succeeded one-attempt",
		},
		{
			name: "may have been executed", kind: chatKind, policy: exact(),
			steps: script(do(testsrv.Recv(1), down)),
			app:   app(sends("a"), receives),
			sees:  "Unavailable (not-idempotent) @0s", served: []string{"a"}, tl: "not-idempotent",
		},
		{
			name: "may have been executed, but the server asks for it", kind: chatKind, policy: exact(),
			steps: script(do(testsrv.Recv(1), pushback("20")), do(testsrv.Recv(1), testsrv.Send(1))),
			app:   app(sends("a"), receives, receives),
			sees:  "2.0 @20ms, EOF @20ms", served: []string{"a", "a"}, tl: "succeeded answer",
		},
		{
			name: "a header, then a failure, while the application sends", kind: uploadKind, policy: retry,
			steps: script(do(testsrv.Recv(1), header, testsrv.Delay(10*ms), down), do(testsrv.RecvAll(), ok)),
			app:   app(sends("a"), waits(20*ms), sends("bc"), noteNow, closes, receives),
			sees:  "now @70ms, 2 @70ms", served: []string{"a", "abc."}, tl: "succeeded answer",
		},
		{
			name: "a failure while nobody looks is repaired", kind: uploadKind, policy: retry,
			steps: script(do(testsrv.Recv(1), down), do(testsrv.RecvAll(), ok)),
			app:   app(sends("a"), waits(time.Second), sends("b"), closes, receives),
			sees:  "2 @1s", served: []string{"a", "ab."}, tl: "succeeded answer",
		},
		{
			name: "the attempt timeout ends at the first message", kind: chatKind, policy: timeout,
			steps: script(do(testsrv.Recv(1), testsrv.Hang()), do(testsrv.Recv(1), testsrv.Delay(20*ms), testsrv.Send(1), testsrv.Delay(time.Second), testsrv.Send(1))),
			app:   app(sends("a"), receives, receives, receives),
			sees:  "2.0 @100ms, 2.1 @1.1s, EOF @1.1s", served: []string{"a", "a"}, tl: "succeeded answer",
		},
		{
			name: "the attempt timeout of a single attempt", kind: watchKind,
			policy: exact(idempotent, func(p *policy.Policy) { p.AttemptTimeout, p.Retry.MaxAttempts = 30*ms, 1 }),
			steps:  script(do(testsrv.Delay(100*ms), testsrv.Send(1))),
			app:    app(sends("a"), closes, receives, receives),
			sees:   "1.0 @100ms, EOF @100ms", served: []string{"a"}, tl: "succeeded one-attempt",
		},
		{
			name: "the attempt timeout of the last attempt leaves it to the deadline", kind: watchKind,
			policy: exact(idempotent, func(p *policy.Policy) { p.AttemptTimeout, p.Retry.MaxAttempts, p.Timeout = 30*ms, 2, time.Second }),
			steps:  script(testsrv.Hang(), do(testsrv.Delay(100*ms), testsrv.Send(1))),
			app:    app(sends("a"), closes, receives, receives),
			sees:   "2.0 @180ms, EOF @180ms", served: []string{"a", "a"}, tl: "succeeded answer",
		},
		{
			name: "the attempt timeout, may have been executed", kind: chatKind, policy: exact(func(p *policy.Policy) { p.AttemptTimeout = 30 * ms }),
			steps: script(do(testsrv.Recv(1), testsrv.Delay(100*ms), testsrv.Send(1))),
			app:   app(sends("a"), receives, receives),
			sees:  "1.0 @100ms, EOF @100ms", served: []string{"a"}, tl: "succeeded answer",
		},
		{
			name: "the attempt timeout does not blame a server for the application", kind: uploadKind, policy: timeout,
			steps: script(do(testsrv.RecvAll(), testsrv.Delay(20*ms), ok)),
			app:   app(sends("a"), waits(100*ms), sends("b"), waits(100*ms), closes, receives),
			sees:  "1 @220ms", served: []string{"ab."}, tl: "succeeded answer",
		},
		{
			name: "the attempt timeout of an attempt that is kept leaves it to the deadline", kind: uploadKind,
			policy: exact(idempotent, func(p *policy.Policy) { p.AttemptTimeout, p.Timeout = 30*ms, time.Second }),
			steps:  script(do(testsrv.RecvAll(), testsrv.Delay(100*ms), ok)),
			app:    app(sends("a"), sendsLarge(2000), closes, receives),
			sees:   "sent large @0s, 1 @100ms", served: []string{"a" + large(2000) + "."}, tl: "succeeded replay-buffer-full",
			opts: small,
		},
		{
			name: "the attempt timeout of an attempt that is kept, without a deadline", kind: uploadKind, policy: timeout,
			steps: script(do(testsrv.RecvAll(), testsrv.Delay(100*ms), ok)),
			app:   app(sends("a"), sendsLarge(2000), closes, receives),
			sees:  "sent large @0s, 1 @100ms", served: []string{"a" + large(2000) + "."}, tl: "succeeded replay-buffer-full",
			opts: small,
		},
		{
			name: "the attempt timeout of a chat that waits for its client", kind: chatKind, policy: timeout,
			steps: script(testsrv.Echo()),
			app:   app(waits(time.Second), sends("a"), receives, closes, receives),
			sees:  "1.0 @1s, EOF @1s", served: []string{"a."}, tl: "succeeded answer",
		},
		{
			name: "the attempt timeout in Header", kind: watchKind, policy: timeout,
			steps: script(testsrv.Hang(), do(header, testsrv.Send(1))),
			app:   app(sends("a"), closes, asksHeader, receives, receives),
			sees:  "header [1] <nil> @80ms, 2.0 @80ms, EOF @80ms", served: []string{"a", "a"}, tl: "succeeded header",
		},
		{
			name: "a connection that breaks before an answer", kind: watchKind, policy: retry,
			steps: script(testsrv.KillConn(), testsrv.Send(1)),
			app:   app(sends("a"), closes, receives, receives),
			sees:  "2.0 @50ms, EOF @50ms", served: []string{"a", "a"}, tl: "succeeded answer",
		},
		{
			name: "a connection that breaks after one", kind: watchKind, policy: retry,
			steps: script(do(testsrv.Send(1), testsrv.Delay(ms), testsrv.KillConn())),
			app:   app(sends("a"), closes, receives, receives),
			sees:  "1.0 @0s, Unavailable (committed) @1ms", served: []string{"a"}, tl: "committed answer",
		},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				opts := append([]interceptor.Option{interceptor.WithPolicy(r.policy), interceptor.WithTargetBudget(unlimited)}, r.opts...)
				it := newInterceptor(t, opts...)
				c := client{t, srv, srv.Conn(t, it.DialOptions()...)}.ready()
				c.number(r.kind.method, r.steps...)
				a := c.open(r.kind, r.app...)
				synctest.Wait()
				assert.Equal(t, r.sees, strings.Join(a.seen, ", "), "%v", &a.tl)
				assert.Equal(t, r.served, served(srv, r.kind), "%v", &a.tl)
				assert.Equal(t, r.tl, strings.TrimSpace(fmt.Sprint(a.tl.Reason, " ", a.tl.Committed)), "%v", &a.tl)
				assert.Zero(t, it.Replayed())
			})
		})
	}
}

// floods sends more than fits a connection whose server does not read.
func floods(n, bytes int) does {
	return func(a *app) {
		for range n {
			require.NoError(a, a.cs.SendMsg(a.request(large(bytes))))
		}
	}
}

func large(bytes int) string { return string(make([]byte, bytes)) }

func noteNow(a *app) { a.note("now") }

func asksContext(a *app) {
	if _, ok := peer.FromContext(a.cs.Context()); ok {
		a.note("peer")
	} else {
		a.note("no peer")
	}
}

func cancelsAfter(d time.Duration) does {
	return func(a *app) { time.AfterFunc(d, a.cancel) }
}

// TestStreamHedging has what is special to streams; that attempts race as those of
// unary calls do is in TestStreamResponses.
func TestStreamHedging(t *testing.T) {
	t.Parallel()
	type row struct {
		name     string
		kind     kind
		steps    []testsrv.Step
		app      []does
		sees     string
		served   []string
		attempts []string
		commit   interceptor.CommitReason
	}
	script := func(s ...testsrv.Step) []testsrv.Step { return s }
	app := func(d ...does) []does { return d }
	do, hang := testsrv.Do, testsrv.Hang()
	header := testsrv.SendHeader(metadata.Pairs("h", "1"))
	for _, r := range []row{
		{
			name: "each attempt reads the log at its own pace", kind: chatKind,
			steps: script(do(testsrv.Recv(1), hang), do(testsrv.Recv(3), testsrv.Send(1))),
			app:   app(sends("ab"), waits(150*ms), sends("c"), receives, receives), sees: "2.0 @150ms, EOF @150ms",
			served: []string{"a", "abc"}, attempts: []string{"original 0s..150ms lost at 150ms", "hedge 100ms..150ms won"}, commit: interceptor.CommitAnswer,
		},
		{
			name: "a header does not win, an answer does", kind: uploadKind,
			steps: script(do(header, hang), do(testsrv.RecvAll(), testsrv.Delay(50*ms), testsrv.OK())),
			app:   app(sends("a"), closes, receives), sees: "2 @150ms",
			served: []string{"", "a."}, attempts: []string{"original 0s..150ms lost at 150ms", "hedge 100ms..150ms won"}, commit: interceptor.CommitAnswer,
		},
		{
			name: "a clean end wins", kind: watchKind,
			steps: script(hang, do(testsrv.Delay(50*ms), testsrv.OK())),
			app:   app(sends("a"), closes, receives), sees: "EOF @150ms",
			served: []string{"a", "a"}, attempts: []string{"original 0s..150ms lost at 150ms", "hedge 100ms..150ms won"}, commit: interceptor.CommitAnswer,
		},
		{
			name: "Header is that of the attempt that is kept", kind: watchKind,
			steps: script(hang, do(header, testsrv.Delay(50*ms), testsrv.Send(1))),
			app:   app(sends("a"), closes, asksHeader, receives, receives), sees: "header [1] <nil> @100ms, 2.0 @150ms, EOF @150ms",
			served: []string{"a", "a"}, attempts: []string{"original 0s..100ms lost at 100ms", "hedge 100ms..150ms won"}, commit: interceptor.CommitHeader,
		},
		{
			name: "the winner goes on, the loser ends at once", kind: watchKind,
			steps: script(do(testsrv.Delay(150*ms), testsrv.Send(1), testsrv.Delay(time.Second), testsrv.Send(1)), hang),
			app:   app(sends("a"), closes, receives, receives, receives), sees: "1.0 @150ms, 1.1 @1.15s, EOF @1.15s",
			served: []string{"a", "a"}, attempts: []string{"original 0s..1.15s won", "hedge 100ms..150ms lost at 150ms"}, commit: interceptor.CommitAnswer,
		},
		{
			name: "a server that does not read does not hold the others up", kind: uploadKind,
			steps: script(hang, do(testsrv.RecvAll(), testsrv.OK())),
			app:   app(floods(6, 40_000), noteNow, closes, receives), sees: "now @100ms, 2 @100ms",
			served: []string{"", large(240_000) + "."}, attempts: []string{"original 0s..100ms lost at 100ms", "hedge 100ms..100ms won"}, commit: interceptor.CommitAnswer,
		},
		{
			name: "a full buffer keeps the attempt that has come furthest", kind: uploadKind,
			steps: script(hang, do(testsrv.RecvAll(), testsrv.Delay(50*ms), testsrv.OK())),
			app:   app(floods(5, 50_000), noteNow, sendsLarge(50_000), closes, receives), sees: "now @100ms, sent large @100ms, 2 @150ms",
			served: []string{"", large(300_000) + "."}, attempts: []string{"original 0s..100ms lost at 100ms", "hedge 100ms..150ms won"}, commit: interceptor.CommitBufferFull,
		},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				// Windows that do not grow: how much a server takes that does not read is known.
				srv := testsrv.Start(t, testsrv.ServerOptions(grpc.InitialWindowSize(1<<16), grpc.InitialConnWindowSize(1<<20)))
				p := after100(idempotent, func(p *policy.Policy) { p.Retry.MaxAttempts = 2 })
				it := newInterceptor(t, named(p), interceptor.WithTargetBudget(unlimited))
				c := client{t, srv, srv.Conn(t, it.DialOptions()...)}.ready()
				c.number(r.kind.method, r.steps...)
				a := c.open(r.kind, r.app...)
				synctest.Wait()
				assert.Equal(t, r.sees, strings.Join(a.seen, ", "), "%v", &a.tl)
				assert.Equal(t, r.served, served(srv, r.kind))
				assert.Equal(t, r.attempts, raced(&a.tl), "%v", &a.tl)
				assert.Equal(t, r.commit, a.tl.Committed)
				assert.Zero(t, it.Replayed())
			})
		})
	}
}

// TestReplayIsGivenUp: what the log holds is given back when the stream is committed,
// as the attempt that is kept has sent it.
func TestReplayIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := testsrv.Start(t, testsrv.ServerOptions(grpc.InitialWindowSize(1<<16), grpc.InitialConnWindowSize(1<<20)))
		it := newInterceptor(t, named(exact(idempotent)))
		c := client{t, srv, srv.Conn(t, it.DialOptions()...)}.ready()
		c.number(testsrv.Chat, testsrv.Do(testsrv.Recv(4), down),
			testsrv.Do(testsrv.Send(1), testsrv.Delay(10*ms), testsrv.Recv(4), testsrv.Delay(10*ms), testsrv.Send(1)))
		a := c.open(chatKind, floods(4, 50_000))
		assert.Greater(t, it.Replayed(), int64(200_000))
		receives(a) // of the second attempt, which cannot send all
		synctest.Wait()
		assert.Less(t, it.Replayed(), int64(200_000))
		assert.Positive(t, it.Replayed())
		virtual.Sleep(15 * ms)
		assert.Zero(t, it.Replayed(), "the stream goes on")
		receives(a)
		receives(a)
		assert.Equal(t, []string{"2.0 @50ms", "2.1 @70ms", "EOF @70ms"}, a.seen)
	})
}

// denies is a budget that has nothing for anybody.
type denies struct{}

func (denies) Acquire(k budget.Kind) bool         { return k == budget.Original }
func (denies) Release(budget.Kind, budget.Result) {}

// counter is an observer that counts.
type counter struct {
	mu     sync.Mutex
	events map[interceptor.EventKind]int
}

func (o *counter) Start(ctx context.Context, e *interceptor.Event) context.Context {
	o.Observe(ctx, e)
	return ctx
}

func (o *counter) Observe(_ context.Context, e *interceptor.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.events == nil {
		o.events = make(map[interceptor.EventKind]int)
	}
	o.events[e.Kind]++
}

// TestStreamEndings: however a stream ends, its timeline closes once, leases return
// and nothing is left running. That no goroutine stays the bubble checks.
func TestStreamEndings(t *testing.T) {
	t.Parallel()
	hang := testsrv.Hang()
	one := testsrv.Do(testsrv.Send(1), hang)
	for _, r := range []struct {
		name     string
		step     testsrv.Step // of each attempt
		app      []does
		reason   interceptor.EndReason
		code     codes.Code
		attempts int // 0 if it is a matter of luck
	}{
		{"clean end", testsrv.Send(1), []does{receives, receives}, interceptor.EndSucceeded, codes.OK, 1},
		{"error before commit", down, []does{receives}, interceptor.EndAttemptsExhausted, codes.Unavailable, 3},
		{"error after commit", testsrv.Do(testsrv.Send(1), down), []does{receives, receives}, interceptor.EndCommitted, codes.Unavailable, 1},
		{"cancel before commit", hang, []does{cancelsAfter(ms), receives}, interceptor.EndCallerCancelled, codes.Canceled, 1},
		{"cancel after commit", one, []does{receives, cancelsAfter(ms), receives}, interceptor.EndCallerCancelled, codes.Canceled, 1},
		{"deadline before commit", hang, []does{receives}, interceptor.EndDeadline, codes.DeadlineExceeded, 1},
		{"deadline after commit", one, []does{receives, receives}, interceptor.EndDeadline, codes.DeadlineExceeded, 1},
		{"abandoned at once", hang, []does{cancels}, interceptor.EndCallerCancelled, codes.Canceled, 1},
		{"abandoned before commit", one, []does{waits(ms), cancels}, interceptor.EndCallerCancelled, codes.Canceled, 1},
		{"abandoned after commit", one, []does{receives, cancels}, interceptor.EndCallerCancelled, codes.Canceled, 1},
		{"abandoned in a backoff", down, []does{waits(ms), cancels}, interceptor.EndCallerCancelled, codes.Canceled, 1},
		{"RecvMsg is never called", testsrv.Send(1), []does{waits(ms)}, interceptor.EndDeadline, codes.DeadlineExceeded, 1},
		{"RecvMsg is not called to the end", testsrv.Send(2), []does{receives}, interceptor.EndDeadline, codes.DeadlineExceeded, 1},
		{"the connection is closed before commit", hang, []does{closesConn, receives}, interceptor.EndNonRetryable, codes.Canceled, 0},
		{"the connection is closed after commit", one, []does{receives, closesConn, receives}, interceptor.EndNonRetryable, codes.Canceled, 1},
		{"the connection is closed in a backoff", down, []does{waits(ms), closesConn, receives}, interceptor.EndNonRetryable, codes.Canceled, 0},
		{"the connection is closed and nobody looks", hang, []does{closesConn}, interceptor.EndNonRetryable, codes.Canceled, 0},
		{"the connection is closed after commit and nobody looks", one, []does{receives, closesConn}, interceptor.EndNonRetryable, codes.Canceled, 1},
	} {
		for _, k := range []kind{watchKind, chatKind} {
			for _, hedged := range []bool{false, true} {
				if hedged && strings.HasSuffix(r.name, "in a backoff") {
					continue // the next hedge starts at once
				}
				t.Run(fmt.Sprint(r.name, k.method, ", hedged ", hedged), func(t *testing.T) {
					t.Parallel()
					bubble(t, func(t *testing.T, srv *testsrv.Server) {
						p := exact(idempotent)
						if hedged { // never, but ready for it
							p.Hedge.Delay = time.Minute
						}
						var seen counter
						l := &ledger{budget: budget.Default()}
						c := newClient(t, srv, named(p), l.inTarget(), interceptor.WithObserver(&seen)).ready()
						srv.Script(k.method, r.step)
						ctx, cancel := context.WithTimeout(t.Context(), time.Second)
						defer cancel()
						var finished atomic.Int32
						ops := append([]does{sends("a")}, r.app...)
						a := c.openWith(ctx, cancel, k, []grpc.CallOption{grpc.OnFinish(func(error) { finished.Add(1) })}, ops...)
						synctest.Wait()
						if finished.Load() == 0 {
							<-ctx.Done()
							synctest.Wait()
						}
						if r.attempts > 0 {
							assert.Len(t, a.tl.Attempts, r.attempts, "%v", &a.tl)
						}
						assert.Equal(t, r.reason, a.tl.Reason, "%v", &a.tl)
						assert.Equal(t, r.code, a.tl.Code)
						assert.Equal(t, int32(1), finished.Load(), "OnFinish")
						assert.Zero(t, l.held)
						assert.Equal(t, 1, seen.events[interceptor.CallStart])
						assert.Equal(t, 1, seen.events[interceptor.CallEnd])
						assert.Equal(t, len(a.tl.Attempts), seen.events[interceptor.AttemptStart])
						assert.Equal(t, len(a.tl.Attempts), seen.events[interceptor.AttemptEnd])
						assert.LessOrEqual(t, seen.events[interceptor.CallCommitted], 1)
					})
				})
			}
		}
	}
}

// TestStreamNotOpened: a stream that cannot be opened is retried before NewStream
// returns, as grpc does it.
func TestStreamNotOpened(t *testing.T) {
	t.Parallel()
	refusing := func(t *testing.T, f func(c client, srv *testsrv.Server)) {
		t.Helper()
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			require.NoError(t, srv.Refuse(true))
			f(newClient(t, srv, named(exact(failsFast))), srv)
		})
	}
	refusing(t, func(c client, srv *testsrv.Server) {
		a := c.open(chatKind)
		assert.Nil(c, a.cs)
		assert.Equal(c, []string{"open: Unavailable (attempts-exhausted) @150ms"}, a.seen, "%v", &a.tl)
		assert.Equal(c, classify.DeliveryNotSent, a.tl.Attempts[0].Delivery)
		assert.Zero(c, srv.Count(testsrv.Chat))
	})
	refusing(t, func(c client, srv *testsrv.Server) {
		p := exact(failsFast, func(p *policy.Policy) { p.Retry.Backoff.Initial = 2 * time.Second })
		time.AfterFunc(500*ms, func() { _ = srv.Refuse(false) }) // before grpc dials again
		ctx, cancel := context.WithCancel(c.Context())
		defer cancel()
		a := c.openWith(ctx, cancel, chatKind, []grpc.CallOption{interceptor.WithPolicy(p)}, noteNow, sends("a"), receives, closes, receives)
		assert.Equal(c, []string{"now @2s", "1.0 @2s", "EOF @2s"}, a.seen, "not sent is safe to retry: %v", &a.tl)
		assert.Equal(c, interceptor.EndSucceeded, a.tl.Reason)
	})
	refusing(t, func(c client, _ *testsrv.Server) {
		ctx, cancel := context.WithTimeout(c.Context(), 70*ms)
		defer cancel()
		a := c.openWith(ctx, cancel, chatKind, []grpc.CallOption{grpc.WaitForReady(true)})
		assert.Equal(c, []string{"open: DeadlineExceeded (deadline) @70ms"}, a.seen)
	})
	refusing(t, func(c client, _ *testsrv.Server) {
		p := exact(func(p *policy.Policy) { p.AttemptTimeout = 10 * ms })
		a := c.openWith(c.Context(), nil, chatKind, []grpc.CallOption{grpc.WaitForReady(true), interceptor.WithPolicy(p)})
		assert.Equal(c, []string{"open: DeadlineExceeded (attempts-exhausted) @180ms"}, a.seen, "attempts that wait for a connection time out")
	})
}

// TestStreamSameAsBare: what an application sees of its own mistakes, and of the
// end, is what it sees without rego.
func TestStreamSameAsBare(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name string
		kind kind
		step testsrv.Step
		app  []does
		opts []grpc.CallOption
	}{
		{"SendMsg after CloseSend", chatKind, testsrv.Do(testsrv.RecvAll(), testsrv.Hang()), []does{sends("a"), closes, sends("b"), receivesText}, nil},
		{"a message that is too large", uploadKind, testsrv.Do(testsrv.RecvAll(), testsrv.OK()), []does{sends("a"), sendsLarge(100), receivesText}, []grpc.CallOption{grpc.MaxCallSendMsgSize(50)}},
		{"the first message is too large", watchKind, testsrv.OK(), []does{sendsLarge(100), closes, receivesText}, []grpc.CallOption{grpc.MaxCallSendMsgSize(50)}},
		{"a second request of a server stream", watchKind, testsrv.Hang(), []does{sends("ab"), receivesText}, nil},
		{"a request after the end", watchKind, testsrv.Hang(), []does{cancels, waits(ms), sends("a"), closes, receivesText}, nil},
		{"a reply that is too large", chatKind, testsrv.Echo(), []does{sendsLarge(100), receivesText, receivesText}, []grpc.CallOption{grpc.MaxCallRecvMsgSize(50)}},
		{"what cannot be marshalled", uploadKind, testsrv.Do(testsrv.RecvAll(), testsrv.OK()), []does{sends("a"), sendsGarbage, receivesText}, nil},
		{"Header after the end", watchKind, testsrv.Do(testsrv.SendHeader(metadata.Pairs("h", "1")), testsrv.Send(1)), []does{sends("a"), closes, receives, receives, asksHeader}, nil},
		{"Header of a stream that failed", watchKind, testsrv.Fail(codes.NotFound, "none"), []does{sends("a"), closes, asksHeader, receivesText}, nil},
		{"the trailer", watchKind, testsrv.Do(testsrv.Trailer(metadata.Pairs("t", "1")), testsrv.Fail(codes.NotFound, "none")), []does{sends("a"), closes, receivesText, asksTrailer}, nil},
		{"the trailer of a success", chatKind, testsrv.Do(testsrv.Trailer(metadata.Pairs("t", "1")), testsrv.Send(1)), []does{receives, receives, asksTrailer}, nil},
		{"a compressor that does not exist", watchKind, testsrv.OK(), nil, []grpc.CallOption{grpc.UseCompressor("none")}},
		{"sends after the end", uploadKind, testsrv.Fail(codes.NotFound, "none"), []does{waits(ms), sends("ab"), receivesText, sends("c"), receivesText}, nil},
	} {
		for _, p := range []policy.Policy{exact(idempotent), after100(idempotent), exact(likeA6)} {
			t.Run(fmt.Sprint(r.name, p.Hedge.Delay, p.Retry.Off), func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T, srv *testsrv.Server) {
					srv.Script(r.kind.method, r.step)
					play := func(conn *grpc.ClientConn) (seen []string, header, trailer metadata.MD, from string) {
						var p peer.Peer
						var finished []string
						ctx, cancel := context.WithCancel(t.Context())
						opts := append([]grpc.CallOption{grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&p),
							grpc.OnFinish(func(err error) { finished = append(finished, fmt.Sprint("finished: ", err)) })}, r.opts...)
						a := client{t, srv, conn}.ready().openWith(ctx, cancel, r.kind, opts, r.app...)
						for i, s := range a.seen {
							a.seen[i], _, _ = strings.Cut(s, " @") // both run one after the other
						}
						cancel()
						synctest.Wait()
						if p.Addr != nil {
							from = p.Addr.String()
						}
						for i := range a.seen {
							a.seen[i], _, _ = strings.Cut(a.seen[i], " (")
							if strings.HasPrefix(a.seen[i], "1.") || a.seen[i] == "2.0" {
								a.seen[i] = "a message"
							}
						}
						return append(a.seen, finished...), header, trailer, from
					}
					seen, header, trailer, from := play(srv.Conn(t, grpc.WithDisableRetry()))
					regoSeen, regoHeader, regoTrailer, regoFrom := play(newClient(t, srv, named(p)).conn)
					assert.Equal(t, seen, regoSeen)
					assert.Equal(t, header, regoHeader)
					assert.Equal(t, trailer, regoTrailer)
					assert.Equal(t, from, regoFrom)
				})
			})
		}
	}
}

func receivesText(a *app) { a.note("%v", a.cs.RecvMsg(a.newReply())) }

func asksTrailer(a *app) { a.note("trailer %v", a.cs.Trailer().Get("t")) }

func sendsGarbage(a *app) { a.note("send garbage: %v", a.cs.SendMsg(make(chan int))) }

// TestStreamOutputs: the caller's options get what the attempt that is kept has, and
// nothing of others.
func TestStreamOutputs(t *testing.T) {
	t.Parallel()
	mark := func(n string, then ...testsrv.Step) testsrv.Step {
		return testsrv.Do(append([]testsrv.Step{testsrv.Header(metadata.Pairs("n", n)), testsrv.Trailer(metadata.Pairs("n", n))}, then...)...)
	}
	for _, r := range []struct {
		name  string
		p     policy.Policy
		first testsrv.Step
	}{
		{"retry", exact(idempotent), mark("1", down)},
		{"hedge", after100(idempotent), mark("1", testsrv.Hang())},
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, named(r.p), interceptor.WithTargetBudget(unlimited)).ready()
			c.number(testsrv.Watch, r.first, mark("2", testsrv.Send(1)))
			var header, trailer metadata.MD
			var from peer.Peer
			finished := 0
			a := c.openWith(t.Context(), nil, watchKind, []grpc.CallOption{
				grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from), grpc.OnFinish(func(error) { finished++ }), grpc.StaticMethod(),
			}, sends("a"), closes, receives, receives)
			synctest.Wait()
			require.Len(t, a.seen, 2, r.name)
			assert.Equal(t, []string{"2"}, header.Get("n"), r.name)
			assert.Equal(t, []string{"2"}, trailer.Get("n"), r.name)
			assert.Equal(t, []string{"2"}, a.cs.Trailer().Get("n"), r.name)
			assert.NotNil(t, from.Addr, r.name)
			assert.Equal(t, 1, finished, r.name)
		})
	}
}

// TestMessagesReused: what an attempt sends again is what was sent, whatever the
// application has made of the message since.
func TestMessagesReused(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, named(exact(idempotent)))
		c.number(testsrv.Chat, testsrv.Do(testsrv.Recv(2), testsrv.Delay(ms), down), testsrv.Do(testsrv.Recv(3), testsrv.Send(1)))
		a := c.openWith(t.Context(), nil, chatKind, nil)
		msg := new(testv1.ChatRequest)
		for _, payload := range []string{"a", "b", "c"} {
			msg.Payload = []byte(payload)
			require.NoError(t, a.cs.SendMsg(msg))
			synctest.Wait()
		}
		msg.Payload = []byte("d")
		receives(a)
		assert.Equal(t, []string{"ab", "abc"}, served(srv, chatKind))
	})
}

// TestSharedReplayLimit: all streams together stay within a limit, and what one
// gives back another can use.
func TestSharedReplayLimit(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		it := newInterceptor(t, named(exact(idempotent)), interceptor.WithReplayLimit(10_000))
		c := client{t, srv, srv.Conn(t, it.DialOptions()...)}.ready()
		srv.Script(testsrv.Upload, testsrv.Do(testsrv.RecvAll(), testsrv.OK()))
		first := c.open(uploadKind, sendsLarge(8000))
		assert.Greater(t, it.Replayed(), int64(8000))
		second := c.open(uploadKind, sendsLarge(8000))
		assert.Less(t, it.Replayed(), int64(10_000))
		third := c.open(uploadKind, sends("a"))
		for _, a := range []*app{first, second, third} {
			closes(a)
			receives(a)
		}
		assert.Equal(t, interceptor.CommitAnswer, first.tl.Committed)
		assert.Equal(t, interceptor.CommitBufferFull, second.tl.Committed)
		assert.Equal(t, interceptor.CommitAnswer, third.tl.Committed)
		assert.Zero(t, it.Replayed())
		fourth := c.open(uploadKind, sendsLarge(8000), closes, receives)
		assert.Equal(t, interceptor.CommitAnswer, fourth.tl.Committed)
	})
}

// TestStreamSoftFailure: a classifier may look at the one answer of a stream.
func TestStreamSoftFailure(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		srv.Script(testsrv.Upload, testsrv.Do(testsrv.RecvAll(), testsrv.Reply(&testv1.UploadResponse{Id: "of the first"})),
			testsrv.Do(testsrv.RecvAll(), testsrv.Reply(&testv1.UploadResponse{})))
		soft := classify.Reply(func(m *testv1.UploadResponse) bool { return m.GetAttempt() == 1 })
		c := newClient(t, srv, interceptor.WithClassifier("soft", soft), interceptor.WithPolicy(exact(idempotent, func(p *policy.Policy) { p.Classifier = "soft" })))
		// The codec adds to what is there, so that the first answer must not be.
		reply := new(testv1.UploadResponse)
		a := c.openWith(t.Context(), nil, uploadKind, []grpc.CallOption{grpc.ForceCodec(merges{})}, sends("a"), closes)
		require.NoError(t, a.cs.RecvMsg(reply))
		assert.Equal(t, int32(2), reply.GetAttempt(), "%v", &a.tl)
		assert.Empty(t, reply.GetId())
		assert.Equal(t, []string{"a.", "a."}, served(srv, uploadKind))
	})
}

// merges is a codec that does not empty what it unmarshals into.
type merges struct{ rawBytes }

func (merges) Unmarshal(data []byte, v any) error {
	return proto.UnmarshalOptions{Merge: true}.Unmarshal(data, v.(proto.Message))
}

// TestStreamMessagesAreNotJudged: the messages of a server stream are handed on as
// they come, whatever a classifier thinks of them.
func TestStreamMessagesAreNotJudged(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		soft := classify.Reply(func(*testv1.WatchResponse) bool { return true })
		c := newClient(t, srv, interceptor.WithClassifier("soft", soft), interceptor.WithPolicy(exact(idempotent, func(p *policy.Policy) { p.Classifier = "soft" })))
		srv.Script(testsrv.Watch, testsrv.Send(2))
		a := c.open(watchKind, sends("a"), closes, receives, receives, receives)
		assert.Equal(t, []string{"1.0 @0s", "1.1 @0s", "EOF @0s"}, a.seen, "%v", &a.tl)
	})
}

// TestStreamHeaderBesideRecvMsg: the header is there when it has arrived, also if
// another goroutine is waiting for the first message.
func TestStreamHeaderBesideRecvMsg(t *testing.T) {
	t.Parallel()
	for _, p := range []policy.Policy{exact(idempotent), after100(idempotent)} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, named(p)).ready()
			srv.Script(testsrv.Watch, testsrv.Do(testsrv.Delay(10*ms), testsrv.SendHeader(metadata.Pairs("h", "1")), testsrv.Delay(50*ms), testsrv.Send(1)))
			a := c.open(watchKind, sends("a"), closes)
			var receiving sync.WaitGroup
			receiving.Go(func() { assert.NoError(t, a.cs.RecvMsg(a.newReply())) })
			synctest.Wait()
			asksHeader(a)
			receiving.Wait()
			noteNow(a)
			receives(a)
			assert.Equal(t, []string{"header [1] <nil> @10ms", "now @60ms", "EOF @60ms"}, a.seen)
			assert.Equal(t, interceptor.CommitHeader, a.tl.Committed)
		})
	}
}

// TestStreamHeaderOfARetryBesideRecvMsg: who waits for the header gets that of the attempt which
// answers, also if another goroutine's RecvMsg has made it.
func TestStreamHeaderOfARetryBesideRecvMsg(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]policy.Policy{"retry": exact(idempotent), "hedged": after100(idempotent)} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, named(p)).ready()
			srv.Script(testsrv.Watch, after(10*ms, down),
				testsrv.Do(testsrv.SendHeader(metadata.Pairs("h", "2")), testsrv.Delay(20*ms), testsrv.Send(1)))
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			a := c.openWith(ctx, cancel, watchKind, nil, sends("a"), closes)
			var receiving sync.WaitGroup
			receiving.Go(func() { assert.NoError(t, a.cs.RecvMsg(a.newReply())) })
			synctest.Wait()
			began := time.Now()
			header, err := a.cs.Header()
			require.NoError(t, err, name)
			assert.Equal(t, []string{"2"}, header.Get("h"), name)
			assert.Less(t, time.Since(began), 100*ms, name)
			receiving.Wait()
			receives(a)
			assert.Equal(t, 2, srv.Count(testsrv.Watch), name)
		})
	}
}

// TestStreamContextEnds: the timer of the policy's timeout does not outlive the call.
func TestStreamContextEnds(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		var inside keepsContext
		c := newClient(t, srv, interceptor.WithObserver(&inside), interceptor.WithPolicy(exact(idempotent, func(p *policy.Policy) { p.Timeout = time.Hour })))
		srv.Script(testsrv.Watch, testsrv.Send(1))
		a := c.open(watchKind, sends("a"), closes, receives)
		require.NoError(t, inside.ctx.Err())
		receives(a)
		assert.ErrorIs(t, inside.ctx.Err(), context.Canceled)
	})
}

// keepsContext keeps the context of the last call that it was told of.
type keepsContext struct{ ctx context.Context }

func (o *keepsContext) Start(ctx context.Context, e *interceptor.Event) context.Context {
	if e.Kind == interceptor.CallStart {
		o.ctx = ctx
	}
	return ctx
}

func (o *keepsContext) Observe(context.Context, *interceptor.Event) {}

const garbage = "send garbage: rpc error: code = Internal desc = grpc: error while marshaling: proto: failed to marshal, message is chan int, want proto.Message @0s"

// TestStreamOptionsThatDoNotReachGRPC: an interceptor below keeps call options to
// itself, so that grpc tells nothing. What the application does tells as much.
func TestStreamOptionsThatDoNotReachGRPC(t *testing.T) {
	t.Parallel()
	mute := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, _ ...grpc.CallOption) (grpc.ClientStream, error) {
		return streamer(ctx, desc, cc, method)
	}
	for _, r := range []struct {
		kind kind
		app  []does
		sees string
	}{
		{watchKind, []does{sends("a"), closes, receives, receives}, "1.0 @0s, EOF @0s"},
		{uploadKind, []does{sends("a"), closes, receives}, "1 @0s"},
		{chatKind, []does{sends("a"), receives, closes, receives}, "1.0 @0s, EOF @0s"},
		{chatKind, []does{sends("a"), receives, sendsGarbage}, "1.0 @0s, " + garbage},
		{chatKind, []does{sendsGarbage}, garbage},
		{watchKind, []does{sendsGarbage}, garbage},
	} {
		for i, p := range []policy.Policy{exact(idempotent), exact(idempotent), exact(likeA6), after100(idempotent)} {
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				it := newInterceptor(t, named(p), interceptor.WithCallReplayLimit([]int{1000, 0, 1000, 0}[i]))
				c := client{t, srv, srv.Conn(t, grpc.WithChainStreamInterceptor(it.Stream(), mute), grpc.WithDisableRetry())}
				a := c.open(r.kind, r.app...)
				assert.Equal(t, r.sees, strings.Join(a.seen, ", "))
				assert.NotEqual(t, interceptor.EndUnfinished, a.tl.Reason)
			})
		}
	}
}

// meddler is a stream below the interceptor that calls more than it has to.
type meddler struct{ grpc.ClientStream }

func (m meddler) CloseSend() error {
	_ = m.ClientStream.CloseSend()
	return m.ClientStream.CloseSend()
}

func (m meddler) Header() (metadata.MD, error) {
	_, _ = m.ClientStream.Header()
	return m.ClientStream.Header()
}

func (m meddler) RecvMsg(msg any) error {
	err := m.ClientStream.RecvMsg(msg)
	if err != nil {
		_ = m.ClientStream.RecvMsg(proto.Clone(msg.(proto.Message)))
		_ = m.Trailer()
		_ = m.ClientStream.Context()
	}
	return err
}

func TestStreamAmongMeddlers(t *testing.T) {
	t.Parallel()
	meddle := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := streamer(ctx, desc, cc, method, opts...)
		if err != nil {
			return nil, err
		}
		return meddler{s}, nil
	}
	for _, k := range []kind{watchKind, chatKind, uploadKind} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			it := newInterceptor(t, named(exact(idempotent)))
			conn := srv.Conn(t, grpc.WithChainStreamInterceptor(meddle, it.Stream(), meddle), grpc.WithDisableRetry())
			c := client{t, srv, conn}
			c.number(k.method, k.reads(down), k.reads(testsrv.OK()))
			a := c.open(k, append(k.sendsAll(), receives)...)
			synctest.Wait()
			require.Len(t, a.seen, 1)
			assert.Contains(t, a.seen[0], "@50ms")
			assert.Equal(t, []string{k.all(), k.all()}, served(srv, k))
			assert.Equal(t, interceptor.EndSucceeded, a.tl.Reason)
		})
	}
}

// TestStreamPanics: what panics inside an attempt does so where the application
// calls, and the call is over.
func TestStreamPanics(t *testing.T) {
	t.Parallel()
	type where string
	for _, r := range []struct {
		at   where
		kind kind
		p    policy.Policy
	}{
		{"open", chatKind, exact(idempotent)},
		{"reopen", chatKind, exact(idempotent)},
		{"header", chatKind, exact(idempotent)},
		{"receive", chatKind, exact(idempotent)},
		{"replay", chatKind, exact(idempotent)},
		{"open", chatKind, after100(idempotent)},
		{"reopen", chatKind, after100(idempotent)},
		{"header", chatKind, after100(idempotent)},
		{"receive", chatKind, after100(idempotent)},
		{"replay", chatKind, after100(idempotent)},
		{"reopen", watchKind, exact(idempotent)},
		{"receive", watchKind, exact(idempotent)},
		{"receive", watchKind, after100(idempotent)},
		{"replay", watchKind, exact(idempotent)},
	} {
		t.Run(fmt.Sprint(r.at, r.kind.method, r.p.Hedge.Delay), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				var seen counter
				l := &ledger{budget: budget.Default()}
				it := newInterceptor(t, named(r.p), l.inTarget(), interceptor.WithObserver(&seen))
				opened := 0
				below := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
					opened++
					if r.at == "open" || r.at == "reopen" && opened == 2 {
						panic(r.at)
					}
					s, err := streamer(ctx, desc, cc, method, opts...)
					return panicker{s, string(r.at), opened}, err
				}
				c := client{t, srv, srv.Conn(t, grpc.WithChainStreamInterceptor(it.Stream(), below), grpc.WithDisableRetry())}.ready()
				srv.Script(r.kind.method, r.kind.reads(down))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var a *app
				assert.PanicsWithValue(t, r.at, func() {
					defer func() {
						if p := recover(); p != nil {
							panic(where(fmt.Sprint(p)))
						}
					}()
					a = c.openWith(ctx, cancel, r.kind, nil)
					sends("a")(a)
					closes(a)
					receives(a)
				})
				cancel()
				synctest.Wait()
				if a != nil { // whoever goes on nevertheless is not left waiting
					func() {
						defer func() { _ = recover() }() // it may panic again
						assert.Error(t, a.cs.RecvMsg(a.newReply()))
					}()
				}
				assert.Zero(t, l.held)
				assert.Zero(t, it.Replayed())
				assert.Equal(t, 1, seen.events[interceptor.CallEnd])
				assert.Equal(t, seen.events[interceptor.AttemptStart], seen.events[interceptor.AttemptEnd])
			})
		})
	}
}

type panicker struct {
	grpc.ClientStream
	at     string
	number int
}

func (p panicker) Header() (metadata.MD, error) {
	if p.at == "header" {
		panic(p.at)
	}
	return p.ClientStream.Header()
}

func (p panicker) RecvMsg(m any) error {
	if p.at == "receive" {
		panic(p.at)
	}
	return p.ClientStream.RecvMsg(m)
}

func (p panicker) SendMsg(m any) error {
	if p.at == "replay" && p.number == 2 {
		panic(p.at)
	}
	return p.ClientStream.SendMsg(m)
}
