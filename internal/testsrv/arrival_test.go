package testsrv_test

import (
	"sync"
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

func TestArrivals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testsrv.Start(t)
		c := client(t, s)
		s.Script(testsrv.Pay, testsrv.Do(testsrv.Delay(time.Second), testsrv.Fail(codes.Aborted, "again")), testsrv.Hang())

		ctx := metadata.AppendToOutgoingContext(t.Context(), "grpc-previous-rpc-attempts", "3", "key", "k", "key", "l")
		start := time.Now()
		_, err := c.Pay(ctx, &testv1.PayRequest{Id: "p"})
		require.Error(t, err)
		hung := make(chan struct{})
		go func() {
			defer close(hung)
			_, _ = c.Pay(t.Context(), &testv1.PayRequest{Id: "q"})
		}()
		synctest.Wait()

		arrivals := s.Arrivals(testsrv.Pay)
		require.Len(t, arrivals, 2)
		first, second := arrivals[0], arrivals[1]
		assert.Equal(t, testsrv.Pay, first.Method)
		assert.Equal(t, 1, first.Attempt)
		assert.Equal(t, 3, first.Previous)
		assert.Equal(t, []string{"k", "l"}, first.Metadata.Get("key"))
		assert.Equal(t, start, first.Time)
		assert.Equal(t, time.Second, first.Ended.Sub(first.Time))
		assert.Equal(t, codes.Aborted, first.Status.Code())
		assert.Equal(t, "again", first.Status.Message())
		assert.False(t, first.Cancelled)
		assert.False(t, first.HalfClosed)
		equal(t, &testv1.PayRequest{Id: "p"}, first.Request())

		assert.Equal(t, 2, second.Attempt)
		assert.Zero(t, second.Previous)
		assert.Equal(t, first.Peer, second.Peer)
		assert.NotEmpty(t, second.Peer)
		assert.Zero(t, second.Ended)
		assert.Nil(t, second.Status)
		equal(t, &testv1.PayRequest{Id: "q"}, second.Request())

		first.Metadata.Set("key", "changed")
		arrivals[1] = testsrv.Arrival{}
		again := s.Arrivals(testsrv.Pay)
		assert.Equal(t, []string{"k", "l"}, again[0].Metadata.Get("key"), "a copy")
		assert.Equal(t, 2, again[1].Attempt, "a copy")
		assert.Empty(t, s.Arrivals(testsrv.Get))
		assert.Nil(t, testsrv.Arrival{}.Request())

		s.Close()
		<-hung
		assert.True(t, s.Arrivals(testsrv.Pay)[1].Cancelled)
	})
}

func TestArrivalsOfConcurrentAttempts(t *testing.T) {
	t.Parallel()
	const n = 50
	s := testsrv.Start(t)
	c := client(t, s)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			_, err := c.Get(t.Context(), &testv1.GetRequest{})
			assert.Equal(t, codes.OK, status.Code(err))
			s.Arrivals(testsrv.Get) // reads while others write
		})
	}
	wg.Wait()
	for i, a := range s.Arrivals(testsrv.Get) {
		assert.Equal(t, i+1, a.Attempt)
	}
	assert.Equal(t, n, s.Count(testsrv.Get))
}

func TestNoRecordingStillCounts(t *testing.T) {
	t.Parallel()
	s := testsrv.Start(t, testsrv.NoRecording())
	c := client(t, s)
	s.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "down"), testsrv.OK())
	_, err := c.Get(t.Context(), &testv1.GetRequest{})
	require.Error(t, err)
	res, err := c.Get(t.Context(), &testv1.GetRequest{Id: "a"})
	require.NoError(t, err)
	equal(t, &testv1.GetResponse{Id: "a", Attempt: 2}, res)
	assert.Empty(t, s.Arrivals(testsrv.Get))
	assert.Equal(t, 2, s.Count(testsrv.Get))
}
