package interceptor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// What errors say, and which errors are no reason to try again.

// TestErrorIsNoSuccess: a classifier that takes an error for a success ends the call with
// that error, whatever the kind of call.
func TestErrorIsNoSuccess(t *testing.T) {
	t.Parallel()
	lenient := interceptor.WithClassifier("lenient", classify.Func(func(a *classify.EndedAttempt) (o classify.Outcome) {
		if a.Code() == codes.NotFound {
			o.Class = classify.Success
		}
		return o
	}))
	for _, watched := range []bool{false, true} {
		for _, hedge := range []time.Duration{0, time.Hour} {
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				opts := []interceptor.Option{lenient, interceptor.WithPolicy(policy.Policy{Classifier: "lenient", Idempotency: classify.Idempotent, Hedge: policy.Hedge{Delay: hedge}})}
				if watched {
					opts = append(opts, interceptor.WithObserver(new(books)))
				}
				c := newClient(t, srv, opts...)
				for _, method := range []string{testsrv.Put, testsrv.Watch, testsrv.Upload, testsrv.Chat} {
					srv.Script(method, testsrv.Fail(codes.NotFound, "no such thing"))
				}
				check := func(err error) {
					require.Equal(t, codes.NotFound, status.Code(err))
					var e *interceptor.Error
					require.ErrorAs(t, err, &e)
					assert.Equal(t, interceptor.EndNonRetryable, e.Reason)
				}
				req, reply := messages(testsrv.Put)
				check(c.conn.Invoke(t.Context(), testsrv.Put, req, reply))
				client := testv1.NewTestServiceClient(c.conn)
				watch, err := client.Watch(t.Context(), &testv1.WatchRequest{})
				require.NoError(t, err)
				_, err = watch.Recv()
				check(err)
				upload, err := client.Upload(t.Context())
				require.NoError(t, err)
				_, err = upload.CloseAndRecv()
				check(err)
				chat, err := client.Chat(t.Context())
				require.NoError(t, err)
				_, err = chat.Recv()
				check(err)
			})
		}
	}
}

// TestLocalErrors: what this side has refused is not sent again, whatever codes are listed.
func TestLocalErrors(t *testing.T) {
	t.Parallel()
	all := exact(func(p *policy.Policy) {
		for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
			p.Retry.Codes = append(p.Retry.Codes, c)
		}
	})
	long := strings.Repeat("long ", 100)
	for name, r := range map[string]struct {
		opt  grpc.CallOption
		code codes.Code
	}{
		"request too large":      {grpc.MaxCallSendMsgSize(10), codes.ResourceExhausted},
		"reply too large":        {grpc.MaxCallRecvMsgSize(10), codes.ResourceExhausted},
		"no such compressor":     {grpc.UseCompressor("none-such"), codes.Internal},
		"codec cannot marshal":   {grpc.ForceCodec(brokenCodec{marshal: true}), codes.Internal},
		"codec cannot unmarshal": {grpc.ForceCodec(brokenCodec{}), codes.Internal},
	} {
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			c := newClient(t, srv, interceptor.WithPolicy(all))
			client := testv1.NewTestServiceClient(c.conn)
			check := func(kind string, err error, tl *interceptor.Timeline) {
				require.Equal(t, r.code, status.Code(err), "%s %s: %v", kind, name, err)
				require.Len(t, tl.Attempts, 1, "%s %s: %v", kind, name, tl)
				assert.Equal(t, classify.ReasonLocalError, tl.Attempts[0].Outcome.Reason, "%s %s", kind, name)
				assert.Zero(t, tl.Elapsed(), "%s %s", kind, name)
			}
			var tl interceptor.Timeline
			_, err := client.Put(t.Context(), &testv1.PutRequest{Id: long}, r.opt, interceptor.WithTimeline(&tl))
			check("unary", err, &tl)

			tl = interceptor.Timeline{}
			watch, err := client.Watch(t.Context(), &testv1.WatchRequest{Id: long}, r.opt, interceptor.WithTimeline(&tl))
			if err == nil {
				_, err = watch.Recv()
			}
			check("watch", err, &tl)

			tl = interceptor.Timeline{}
			upload, err := client.Upload(t.Context(), r.opt, interceptor.WithTimeline(&tl))
			if err == nil {
				if err = upload.Send(&testv1.UploadRequest{Id: long}); err == nil {
					_, err = upload.CloseAndRecv()
				}
			}
			check("upload", err, &tl)
		})
	}
}

type brokenCodec struct{ marshal bool }

func (brokenCodec) Name() string { return "proto" }
func (c brokenCodec) Marshal(m any) ([]byte, error) {
	if c.marshal {
		return nil, errors.New("cannot")
	}
	return (countingCodec{new(atomic.Int64)}).Marshal(m)
}
func (brokenCodec) Unmarshal([]byte, any) error { return errors.New("cannot") }

// TestErrorTellsTheStory: the text is that of a bare call; what the attempts before were
// told is there for those who ask.
func TestErrorTellsTheStory(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		noLeader := testsrv.Fail(codes.Unavailable, "shard 7 has no leader")
		srv.Script(testsrv.Put, noLeader, noLeader, testsrv.Hang())
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		tl, err := newClient(t, srv, interceptor.WithPolicy(exact())).call(ctx, testsrv.Put)
		assert.Equal(t, "rpc error: code = Canceled desc = context canceled", err.Error())
		assert.Equal(t, err.Error(), fmt.Sprintf("%v", err))
		assert.Equal(t, err.Error(), fmt.Sprintf("%s", err))
		assert.Equal(t, fmt.Sprintf("%q", err.Error()), fmt.Sprintf("%q", err))
		var e *interceptor.Error
		require.ErrorAs(t, err, &e)
		require.Len(t, e.Attempts, 3)
		assert.Equal(t, "rpc error: code = Unavailable desc = shard 7 has no leader", e.Attempts[0].Err.Error())
		assert.Equal(t, `rpc error: code = Canceled desc = context canceled
stopped after 3 attempts: caller-cancelled
  #1 original: Unavailable, answered, retryable: unavailable: rpc error: code = Unavailable desc = shard 7 has no leader
  #2 retry: Unavailable, answered, retryable: unavailable, waited 50ms (backoff): rpc error: code = Unavailable desc = shard 7 has no leader
  #3 retry: Canceled, unknown, abort: caller-done, waited 100ms (backoff): rpc error: code = Canceled desc = context canceled`,
			fmt.Sprintf("%+v", err))
		told, jsonErr := json.Marshal(tl)
		require.NoError(t, jsonErr)
		for _, text := range []string{tl.String(), string(told), fmt.Sprint(tl.LogValue())} {
			assert.NotContains(t, text, "shard 7", "what servers say is in no timeline")
		}
	})
}
