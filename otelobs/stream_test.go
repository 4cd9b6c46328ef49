package otelobs_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// TestStream: a stream that is retried before its first message, breaks after it and
// is resumed.
func TestStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.Script(testsrv.Watch,
			testsrv.Do(testsrv.Delay(3*time.Millisecond), testsrv.Fail(codes.Unavailable, "secret")),
			testsrv.Do(testsrv.Send(1), testsrv.Delay(2*time.Millisecond), testsrv.Fail(codes.Unavailable, "secret")),
			testsrv.Send(1))
		resume := interceptor.WithResume(func(_ *testv1.WatchResponse, req *testv1.WatchRequest) (*testv1.WatchRequest, bool) {
			return req, true
		})
		s, err := r.watched(t).Watch(t.Context(), &testv1.WatchRequest{Id: "secret"}, resume)
		require.NoError(t, err)
		messages := 0
		for ; err == nil; messages++ {
			_, err = s.Recv()
		}
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, 3, messages, "two, and the end")
		assert.Equal(t, `
otelobs internal T/Watch 0s..105ms
    rego.end.reason=succeeded
    rego.attempt.count=3
    @3ms rego.wait rego.wait.duration=0.05 rego.wait.reason=backoff
    @53ms rego.commit rego.commit.reason=answer
    @55ms rego.wait rego.wait.duration=0.05 rego.wait.reason=backoff
    @105ms rego.commit rego.commit.reason=answer
  otelobs client Attempt.T/Watch 0s..3ms Error: UNAVAILABLE
      rego.attempt.result=failed
    otelgrpc server T/Watch 0s..3ms
  otelobs client Attempt.T/Watch 53ms..55ms Error: UNAVAILABLE
      rego.attempt.result=failed
    otelgrpc server T/Watch 53ms..55ms
  otelobs client Attempt.T/Watch 105ms..105ms
      rego.attempt.resumed=true
      rego.attempt.result=won
    otelgrpc server T/Watch 105ms..105ms
`, r.tree("rego.end.reason", "rego.attempt.count", "rego.attempt.result", "rego.attempt.resumed"))
	})
}

// TestAbandonedStream: the spans of a stream that nobody receives from end with its
// context.
func TestAbandonedStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		client := r.watched(t)
		r.Script(testsrv.Watch, testsrv.Do(testsrv.Send(1), testsrv.Hang()))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		defer cancel()
		s, err := client.Watch(ctx, &testv1.WatchRequest{})
		require.NoError(t, err)
		_, err = s.Recv()
		require.NoError(t, err)
		<-ctx.Done()
		synctest.Wait()
		assert.Equal(t, `
otelobs internal T/Watch 0s..20ms Error: CANCELLED
    rego.end.reason=caller-cancelled
    @0s rego.commit rego.commit.reason=answer
  otelobs client Attempt.T/Watch 0s..20ms Error: CANCELLED
    otelgrpc server T/Watch 0s..20ms
`, r.tree("rego.end.reason"))
	})
}
