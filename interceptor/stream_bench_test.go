package interceptor

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// fakeStream is a stream on which nothing takes any time.
type fakeStream struct {
	ctx    context.Context
	header metadata.MD
}

func (s *fakeStream) Header() (metadata.MD, error) { return s.header, nil }
func (s *fakeStream) Trailer() metadata.MD         { return nil }
func (s *fakeStream) CloseSend() error             { return nil }
func (s *fakeStream) Context() context.Context     { return s.ctx }
func (s *fakeStream) SendMsg(any) error            { return nil }
func (s *fakeStream) RecvMsg(any) error            { return nil }

var fakeHeader = metadata.MD{}

func fakeStreamer(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return &fakeStream{ctx, fakeHeader}, nil
}

var (
	watchDesc = &grpc.StreamDesc{ServerStreams: true}
	chatDesc  = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
)

func newStreamBench(tb testing.TB, opts ...Option) *Interceptor {
	tb.Helper()
	it, err := New(opts...)
	require.NoError(tb, err)
	return it
}

func BenchmarkOpenStreamBare(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, _ = fakeStreamer(context.Background(), watchDesc, nil, testsrv.Watch)
	}
}

// BenchmarkOpenStream opens streams. What follows until their first message is in
// the benchmark of that name.
func BenchmarkOpenStream(b *testing.B) { benchmarkStreams(b, false) }

func BenchmarkFirstMessage(b *testing.B) { benchmarkStreams(b, true) }

func benchmarkStreams(b *testing.B, first bool) {
	b.Helper()
	for _, r := range []struct {
		name string
		desc *grpc.StreamDesc
		p    policy.Policy
	}{
		{"server stream", watchDesc, idempotentNow},
		{"chat", chatDesc, idempotentNow},
		{"hedged", watchDesc, policy.Policy{Idempotency: idempotentNow.Idempotency, Hedge: policy.Hedge{Delay: time.Minute}}},
		{"one attempt", watchDesc, policy.Policy{Retry: policy.Retry{MaxAttempts: 1}}},
	} {
		b.Run(r.name, func(b *testing.B) {
			stream := newStreamBench(b, WithPolicy(r.p)).Stream()
			grpcStreamer.code.Store(reflect.ValueOf(fakeStreamer).Pointer())
			ctx := b.Context()
			b.ReportAllocs()
			var open [1000]grpc.ClientStream
			for i := range b.N {
				s, err := stream(ctx, r.desc, nil, testsrv.Watch, fakeStreamer)
				if err != nil {
					b.Fatal(err)
				}
				if first {
					_ = s.RecvMsg(&emptyMessage)
					continue
				}
				if open[i%len(open)] = s; (i+1)%len(open) == 0 {
					b.StopTimer()
					for _, s := range open {
						_ = s.RecvMsg(&emptyMessage) // which ends its goroutine
					}
					b.StartTimer()
				}
			}
		})
	}
}

var emptyMessage testv1.WatchResponse

// BenchmarkStreamMessage is a message of a stream after commit.
func BenchmarkStreamMessage(b *testing.B) {
	msg := new(testv1.ChatRequest)
	run := func(b *testing.B, s grpc.ClientStream) {
		b.Run("send", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = s.SendMsg(msg)
			}
		})
		b.Run("receive", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = s.RecvMsg(msg)
			}
		})
	}
	bare, _ := fakeStreamer(context.Background(), chatDesc, nil, testsrv.Chat)
	b.Run("bare", func(b *testing.B) { run(b, bare) })
	armed, err := newStreamBench(b, WithPolicy(idempotentNow)).Stream()(context.Background(), chatDesc, nil, testsrv.Chat, fakeStreamer)
	require.NoError(b, err)
	require.NoError(b, armed.RecvMsg(msg))
	b.Run("committed", func(b *testing.B) { run(b, armed) })
}
