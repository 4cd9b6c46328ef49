package interceptor_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
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

// TestStreamReplay: what happens while an attempt replays 200 KB to a server that
// takes 64 KB unless it reads.
func TestStreamReplay(t *testing.T) {
	t.Parallel()
	failed := testsrv.Do(testsrv.Recv(4), testsrv.Delay(ms), down)
	all := large(200_000)
	for _, r := range []struct {
		name   string
		steps  []testsrv.Step
		app    []does
		sees   string
		served []string
		reason interceptor.EndReason
	}{
		{"to the end", []testsrv.Step{failed, testsrv.Do(testsrv.Delay(10*ms), testsrv.RecvAll(), testsrv.OK())},
			[]does{closes, receives}, "2 @61ms", []string{all, all + "."}, interceptor.EndSucceeded},
		{"the attempt fails", []testsrv.Step{failed, testsrv.Do(testsrv.Delay(10*ms), down), testsrv.Do(testsrv.RecvAll(), testsrv.OK())},
			[]does{closes, receives}, "3 @161ms", []string{all, "", all + "."}, interceptor.EndSucceeded},
		{"the attempt answers in the middle of it", []testsrv.Step{failed, testsrv.Do(testsrv.Recv(1), testsrv.OK())},
			[]does{closes, receives}, "2 @51ms", []string{all, large(50_000)}, interceptor.EndSucceeded},
		{"cancelled", []testsrv.Step{failed, testsrv.Hang()},
			[]does{closes, cancelsAfter(70 * ms), receives}, "Canceled (caller-cancelled) @70ms", []string{all, ""}, interceptor.EndCallerCancelled},
		{"cancelled as the attempt begins", []testsrv.Step{failed, testsrv.Do(testsrv.RecvAll(), testsrv.Hang())},
			[]does{closes, cancelsAfter(51 * ms), receives}, "Canceled (caller-cancelled) @51ms", nil, interceptor.EndCallerCancelled},
		{"the application sends on", []testsrv.Step{failed, testsrv.Do(testsrv.Delay(10*ms), testsrv.RecvAll(), testsrv.OK())},
			[]does{waits(55 * ms), sends("b"), noteNow, closes, receives}, "now @61ms, 2 @61ms", []string{all, all + "b."}, interceptor.EndSucceeded},
		{"the buffer gets full", []testsrv.Step{failed, testsrv.Do(testsrv.Delay(10*ms), testsrv.RecvAll(), testsrv.Delay(ms), down)},
			[]does{waits(55 * ms), sendsLarge(100_000), closes, receives}, "sent large @61ms, Unavailable (replay-buffer-full) @62ms", []string{all, large(300_000) + "."}, interceptor.EndReplayBufferFull},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				srv := testsrv.Start(t, testsrv.ServerOptions(grpc.InitialWindowSize(1<<16), grpc.InitialConnWindowSize(1<<20)))
				it := newInterceptor(t, named(exact(idempotent)), interceptor.WithTargetBudget(unlimited))
				c := client{t, srv, srv.Conn(t, it.DialOptions()...)}.ready()
				c.number(testsrv.Upload, r.steps...)
				a := c.open(uploadKind, append([]does{floods(4, 50_000)}, r.app...)...)
				synctest.Wait()
				assert.Equal(t, r.sees, strings.Join(a.seen, ", "), "%v", &a.tl)
				if r.served != nil {
					assert.Equal(t, r.served, served(srv, uploadKind))
				}
				assert.Equal(t, r.reason, a.tl.Reason)
				assert.Zero(t, it.Replayed())
			})
		})
	}
}

// TestStreamThrottled has gRFC A6's retry throttling at its threshold: no response
// is retried, and those that count as failures take a token.
func TestStreamThrottled(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name   string
		step   testsrv.Step
		reason interceptor.EndReason
		tokens float64
	}{
		{"retryable", down, interceptor.EndBudgetDenied, 4},
		{"not retryable", testsrv.Fail(codes.Internal, ""), interceptor.EndNonRetryable, 5},
		{"retryable, pushback of n ms", pushback("10"), interceptor.EndBudgetDenied, 4},
		{"not retryable, pushback of n ms", testsrv.Do(testsrv.Pushback("10"), testsrv.Fail(codes.Internal, "")), interceptor.EndNonRetryable, 5},
		{"retryable, pushback that forbids", pushback("-1"), interceptor.EndPushback, 4},
		{"not retryable, pushback that forbids", testsrv.Do(testsrv.Pushback("-1"), testsrv.Fail(codes.Internal, "")), interceptor.EndPushback, 4},
		{"success", testsrv.Send(1), interceptor.EndSucceeded, 5.1},
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			th, opt := throttled(t)
			for range 5 {
				th.Release(budget.Original, budget.Failure)
			}
			c := newClient(t, srv, named(exact(idempotent)), opt)
			srv.Script(testsrv.Watch, r.step)
			a := c.open(watchKind, sends("a"), closes, receives, receives)
			synctest.Wait()
			assert.Equal(t, 1, srv.Count(testsrv.Watch), r.name)
			assert.Equal(t, r.reason, a.tl.Reason, r.name)
			assert.InDelta(t, r.tokens, th.Balance(), 1e-9, r.name)
		})
	}
}

// TestStreamTransparentRetry: a stream that the server refuses is opened again by
// grpc itself, once and within its attempt; nothing of it is seen or counted.
func TestStreamTransparentRetry(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		refuse   int
		attempts int
		streams  int
	}{
		{1, 1, 2},
		{2, 2, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := newRefuser(r.refuse)
			conn, err := grpc.NewClient("passthrough:///refuser", append(
				newInterceptor(t, named(exact(idempotent))).DialOptions(),
				grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(srv.dial))...)
			require.NoError(t, err)
			c := client{t, nil, conn}.ready()
			ctx, cancel := context.WithTimeout(t.Context(), 250*ms)
			defer cancel()
			var tl interceptor.Timeline
			s, err := testv1.NewTestServiceClient(c.conn).Watch(ctx, &testv1.WatchRequest{}, interceptor.WithTimeline(&tl))
			require.NoError(t, err)
			_, err = s.Recv()
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
			assert.Len(t, tl.Attempts, r.attempts, "%v", &tl)
			require.NoError(t, conn.Close())
			<-srv.done
			assert.Equal(t, r.streams, srv.streams)
		})
	}
}

// TestStreamIdempotencyKey: a key goes with every attempt, and makes the stream one
// that may be retried.
func TestStreamIdempotencyKey(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, named(exact()))
		c.number(testsrv.Upload, testsrv.Do(testsrv.RecvAll(), down), testsrv.Do(testsrv.RecvAll(), testsrv.OK()))
		a := c.openWith(t.Context(), nil, uploadKind, []grpc.CallOption{interceptor.WithIdempotencyKey("k")}, sends("a"), closes, receives)
		assert.Equal(t, []string{"2 @50ms"}, a.seen)
		for _, at := range srv.Arrivals(testsrv.Upload) {
			assert.Equal(t, []string{"k"}, at.Metadata.Get(interceptor.IdempotencyKeyHeader))
		}
	})
}

// TestStreamInvalidPolicy fails before anything is sent, and OnFinish hears of it.
func TestStreamInvalidPolicy(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv)
		bad := exact()
		bad.Timeout = -1
		var told error
		_, err := c.conn.NewStream(t.Context(), watchKind.desc(), testsrv.Watch, interceptor.WithPolicy(bad), grpc.OnFinish(func(err error) { told = err }))
		assert.Equal(t, codes.Internal, status.Code(err))
		require.ErrorContains(t, err, "timeout")
		assert.Equal(t, err, told)
		assert.Zero(t, srv.Count(testsrv.Watch))
	})
}

// TestStreamMessageType: attempts that run side by side need messages of their own;
// where one cannot be made the first with a header is kept.
func TestStreamMessageType(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name   string
		wait   does // before RecvMsg
		seen   string
		commit interceptor.CommitReason
		raced  []string
	}{
		{"before a hedge", waits(0), "1 @150ms", interceptor.CommitAnswer, []string{"original 0s..150ms won", "no hedge 0s reply-type"}},
		{"beside a hedge", waits(120 * ms), "1 @150ms", interceptor.CommitMessageType, []string{"original 0s..150ms won", "hedge 100ms..150ms lost at 150ms", "no hedge 120ms reply-type"}},
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, named(after100(idempotent)), interceptor.WithTargetBudget(unlimited)).ready()
			c.number(testsrv.Watch, testsrv.Do(testsrv.Delay(150*ms), testsrv.Send(1)), testsrv.Hang())
			receivesBytes := func(a *app) {
				m := []byte("not empty")
				if err := a.cs.RecvMsg(&m); err != nil {
					a.note("%s", brief(err))
				} else {
					got := new(testv1.WatchResponse)
					require.NoError(a, proto.Unmarshal(m, got))
					a.note("%d", got.GetAttempt())
				}
			}
			a := c.openWith(t.Context(), nil, watchKind, []grpc.CallOption{grpc.ForceCodec(rawBytes{})}, sends("a"), closes, r.wait, receivesBytes, receivesBytes)
			synctest.Wait()
			require.Len(t, a.seen, 2)
			assert.Equal(t, r.seen, a.seen[0], "%s\n%v", r.name, &a.tl)
			assert.Equal(t, "EOF @150ms", a.seen[1])
			assert.Equal(t, r.commit, a.tl.Committed, r.name)
			assert.Equal(t, r.raced, raced(&a.tl), r.name)
		})
	}
}

// rawBytes receives messages as they are.
type rawBytes struct{}

func (rawBytes) Name() string { return "proto" }

func (rawBytes) Marshal(v any) ([]byte, error) { return proto.Marshal(v.(proto.Message)) }

func (rawBytes) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// TestLogIsGivenUp as soon as no other attempt can follow.
func TestLogIsGivenUp(t *testing.T) {
	t.Parallel()
	last := exact(idempotent, func(p *policy.Policy) { p.Retry.MaxAttempts = 2 })
	asGRPC := exact(idempotent, func(p *policy.Policy) { p.AsGRPC = true })
	open := testsrv.Do(testsrv.SendHeader(metadata.Pairs("n", "1")), testsrv.RecvAll(), testsrv.OK())
	for name, r := range map[string]struct {
		p      policy.Policy
		script []testsrv.Step
		kept   bool
	}{
		"an attempt is left":      {exact(idempotent), []testsrv.Step{open}, true},
		"the last attempt":        {last, []testsrv.Step{down, open}, false},
		"the header is there, A6": {asGRPC, []testsrv.Step{open}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				srv.Script(testsrv.Upload, r.script...)
				it := newInterceptor(t, named(r.p))
				cs, err := testv1.NewTestServiceClient(srv.Conn(t, it.DialOptions()...)).Upload(t.Context())
				require.NoError(t, err)
				require.NoError(t, cs.Send(&testv1.UploadRequest{Payload: make([]byte, 1000)}))
				virtual.Sleep(time.Second)
				require.NoError(t, cs.Send(&testv1.UploadRequest{Payload: make([]byte, 1000)}))
				synctest.Wait()
				assert.Equal(t, r.kept, it.Replayed() > 0, "%d bytes are kept", it.Replayed())
				_, err = cs.CloseAndRecv()
				require.NoError(t, err)
			})
		})
	}
}
