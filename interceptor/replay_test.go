package interceptor

import (
	"context"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// silentStream takes all that is sent and never answers.
type silentStream struct{ fakeStream }

func (s *silentStream) Header() (metadata.MD, error) {
	<-s.ctx.Done()
	return nil, nil
}

func (s *silentStream) RecvMsg(any) error { return s.ctx.Err() }

func silentStreamer(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return &silentStream{fakeStream{ctx: ctx}}, nil
}

// TestReplayMemory opens ten thousand uploads, each with ten messages of 1 KiB, and
// measures what that takes of the heap: what is kept for replay stays within its
// limit, with what surrounds the payloads.
func TestReplayMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector changes what things take")
	}
	const uploads, messages = 10_000, 10
	measure := func(opts ...Option) (heap, kept int64) {
		it, err := New(append(opts, WithPolicy(idempotentNow))...)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		before := heapInUse()
		streams := make([]grpc.ClientStream, uploads)
		for i := range streams {
			streams[i], err = it.Stream()(ctx, uploadDesc, nil, testsrv.Upload, silentStreamer)
			require.NoError(t, err)
			for range messages {
				require.NoError(t, streams[i].SendMsg(&testv1.UploadRequest{Payload: make([]byte, 1024)}))
			}
		}
		heap, kept = heapInUse()-before, it.Replayed()
		cancel()
		for _, s := range streams {
			require.Error(t, s.RecvMsg(new(testv1.UploadResponse)))
		}
		assert.Zero(t, it.Replayed())
		return heap, kept
	}
	without, none := measure(WithReplayLimit(2 << 10)) // of one message, which has a goroutine look for the header
	with, kept := measure()
	t.Logf("%d uploads: %.1f MiB of heap with replay, %.1f MiB without; %.1f MiB are accounted for",
		uploads, mib(with), mib(without), mib(kept))
	assert.Zero(t, none)
	assert.LessOrEqual(t, kept, int64(DefaultReplayLimit))
	assert.LessOrEqual(t, with-without, int64(DefaultReplayLimit))
	assert.Greater(t, with-without, int64(DefaultReplayLimit)/2, "hardly anything is kept")
}

var uploadDesc = &grpc.StreamDesc{ClientStreams: true}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// heapInUse is what is left once the collector frees nothing more: what it has finalized,
// and what other tests have left, goes in the rounds that follow.
func heapInUse() int64 {
	var m runtime.MemStats
	for last := int64(-1); ; last = int64(m.HeapAlloc) {
		runtime.GC()
		runtime.ReadMemStats(&m)
		if last >= 0 && last-int64(m.HeapAlloc) < 64<<10 {
			return int64(m.HeapAlloc)
		}
	}
}
