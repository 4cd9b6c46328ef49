package testsrv_test

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

func TestRPCBehavior(t *testing.T) {
	t.Parallel()
	const scripted = codes.Code(99) // the words decide nothing, the script goes on
	for _, tt := range []struct {
		values   []string
		previous int
		code     codes.Code
		took     time.Duration
	}{
		{[]string{"error-code-14"}, 0, codes.Unavailable, 0},
		{[]string{"error-code-5"}, 2, codes.NotFound, 0},
		{[]string{"error-code-0"}, 0, codes.OK, 0},
		{[]string{"sleep-3"}, 0, scripted, 3 * time.Second},
		{[]string{"sleep-0"}, 0, scripted, 0},
		{[]string{"keep-open"}, 0, codes.DeadlineExceeded, time.Minute},
		{[]string{"sleep-3600"}, 0, codes.DeadlineExceeded, time.Minute},
		{[]string{"sleep-4294967295"}, 0, codes.DeadlineExceeded, time.Minute},
		{[]string{"sleep-2,error-code-8"}, 0, codes.ResourceExhausted, 2 * time.Second},
		{[]string{" sleep-1 , sleep-1 ", "error-code-8"}, 0, codes.ResourceExhausted, 2 * time.Second}, // repeated
		{[]string{"error-code-8,sleep-2"}, 0, codes.ResourceExhausted, 0},                              // in order
		{[]string{"succeed-on-retry-attempt-2,error-code-14"}, 0, codes.Unavailable, 0},
		{[]string{"succeed-on-retry-attempt-2,error-code-14"}, 1, codes.Unavailable, 0},
		{[]string{"succeed-on-retry-attempt-2,error-code-14"}, 2, codes.OK, 0},
		{[]string{"succeed-on-retry-attempt-2,error-code-14"}, 3, codes.Unavailable, 0},
		{[]string{"succeed-on-retry-attempt-0", "error-code-14"}, 0, codes.OK, 0},
		{[]string{"succeed-on-retry-attempt-1"}, 0, scripted, 0},
		{[]string{"hostname=here error-code-14"}, 0, codes.Unavailable, 0},
		{[]string{"hostname=there error-code-14"}, 0, scripted, 0},
		{[]string{"hostname=there error-code-14,error-code-5"}, 0, codes.NotFound, 0}, // for its word alone
		{[]string{"hostname=here sleep-1,hostname=there keep-open,hostname=here error-code-4"}, 0, codes.DeadlineExceeded, time.Second},
		{[]string{"hostname=here keep-open"}, 0, codes.DeadlineExceeded, time.Minute},
		{[]string{"hostname=here"}, 0, codes.InvalidArgument, 0},
		{[]string{"error-code-"}, 0, codes.InvalidArgument, 0},
		{[]string{"error-code-x"}, 0, codes.InvalidArgument, 0},
		{[]string{"sleep--1"}, 0, codes.InvalidArgument, 0},
		{[]string{"sleep-4294967296"}, 0, codes.InvalidArgument, 0},
		{[]string{"succeed-on-retry-attempt-"}, 0, codes.InvalidArgument, 0},
		{[]string{"dance"}, 0, codes.InvalidArgument, 0},
		{[]string{"dance-3"}, 0, codes.InvalidArgument, 0},
		{[]string{""}, 0, codes.InvalidArgument, 0},
		{nil, 0, scripted, 0},
	} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testsrv.Start(t, testsrv.Hostname("here"))
				c := client(t, s)
				s.Script(testsrv.Get, testsrv.Fail(scripted, "the script"))
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				md := metadata.MD{"rpc-behavior": tt.values}
				if tt.previous > 0 {
					md.Set("grpc-previous-rpc-attempts", strconv.Itoa(tt.previous))
				}
				start := time.Now()
				_, err := c.Get(metadata.NewOutgoingContext(ctx, md), &testv1.GetRequest{})
				assert.Equal(t, tt.code, status.Code(err), "%q after %d: %v", tt.values, tt.previous, err)
				assert.Equal(t, tt.took, time.Since(start), "%q after %d", tt.values, tt.previous)
			})
		})
	}
}

func TestRPCBehaviorOfStreams(t *testing.T) {
	t.Parallel()
	s := testsrv.Start(t)
	c := client(t, s)
	for _, tt := range []struct {
		word string
		code codes.Code
	}{
		{"error-code-14", codes.Unavailable},
		{"succeed-on-retry-attempt-0", codes.OK},
	} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "rpc-behavior", tt.word)
		upload, err := c.Upload(ctx)
		require.NoError(t, err)
		_, err = upload.CloseAndRecv()
		assert.Equal(t, tt.code, status.Code(err), tt.word)

		watch, err := c.Watch(ctx, &testv1.WatchRequest{})
		require.NoError(t, err)
		_, err = watch.Recv()
		assert.Equal(t, tt.code, status.Code(err), tt.word)
	}
}
