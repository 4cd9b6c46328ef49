package interceptor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/rego-go/rego/internal/codec"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// BenchmarkBulk moves 32 MiB over loopback TCP, in frames of 64 KiB: up, both ways at
// once, and down.
func BenchmarkBulk(b *testing.B) {
	for _, x := range []exchange{
		{"Upload", uploadDesc, frame(64 << 10), newFrame, 512, 1},
		{"Chat", chatDesc, frame(64 << 10), newFrame, 512, 512},
		{"Watch", watchDesc, frame(64 << 10), newFrame, 1, 512},
	} {
		b.Run(x.name, func(b *testing.B) { x.compare(b, 1, WithPolicy(idempotentNow)) })
	}
}

// BenchmarkHedgedUpload sends 200 KB in messages of 100 bytes. All of them are kept for a
// hedge that does not come.
func BenchmarkHedgedUpload(b *testing.B) {
	p := idempotentNow
	p.Hedge = policy.Hedge{Delay: time.Minute}
	for _, x := range []exchange{
		{"frames", uploadDesc, frame(100), newFrame, 2000, 1},
		{"proto", uploadDesc, &testv1.UploadRequest{Payload: make([]byte, 98)}, newUploaded, 2000, 1},
	} {
		b.Run(x.name, func(b *testing.B) { x.compare(b, 10, WithPolicy(p), WithCallReplayLimit(1<<20)) })
	}
}

// BenchmarkLoggedFrame is a frame of 64 bytes that is put into the log and sent, of
// streams of a thousand. Opening and ending them is included.
func BenchmarkLoggedFrame(b *testing.B) {
	it := newStreamBench(b, WithPolicy(idempotentNow))
	grpcStreamer.code.Store(reflect.ValueOf(frameStreamer).Pointer())
	msg := frame(64)
	b.ReportAllocs()
	for sent := 0; sent < b.N; {
		ctx, cancel := context.WithCancel(b.Context())
		s, err := it.Stream()(ctx, uploadDesc, nil, testsrv.Upload, frameStreamer, grpc.ForceCodecV2(frameCodec{}))
		require.NoError(b, err)
		for range min(1000, b.N-sent) {
			if err := s.SendMsg(msg); err != nil {
				b.Fatal(err)
			}
			sent++
		}
		cancel()
		_ = s.RecvMsg(newFrame()) // ends it
	}
}

// frameStream asks for the encoding of what is sent, as grpc does, and takes no time.
type frameStream struct {
	silentStream
	codec encoding.CodecV2
	opts  []grpc.CallOption
}

func frameStreamer(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s := &frameStream{silentStream{fakeStream{ctx: ctx}}, nil, opts}
	for _, o := range opts {
		if o, ok := o.(*codec.Option); ok {
			s.codec = o.CodecV2
		}
	}
	return s, nil
}

func (s *frameStream) SendMsg(m any) error {
	data, err := s.codec.Marshal(m)
	data.Free()
	return err
}

func (s *frameStream) Header() (metadata.MD, error) {
	defer func() { tellEnd(s.ctx.Err(), s.opts) }()
	return s.silentStream.Header()
}

// exchange is a stream that sends some messages and receives some.
type exchange struct {
	name     string
	desc     *grpc.StreamDesc
	request  any
	reply    func() any
	sends    int
	receives int
}

// compare makes streams bare and with rego by turns, so that what else the machine does
// meets both, and reports the median of the ratios. More than one stream in a turn keeps
// the collector's work for one side out of the other's turn.
func (x exchange) compare(b *testing.B, streams int, opts ...Option) {
	b.Helper()
	const window = 1 << 20 // else grpc sizes the windows of each connection by what it measures
	srv := testsrv.Start(b, testsrv.TCP(""), testsrv.ServerOptions(grpc.ForceServerCodecV2(frameCodec{}),
		grpc.UnknownServiceHandler(x.serve), grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window)))
	dial := []grpc.DialOption{grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window)}
	conns := []*grpc.ClientConn{srv.Conn(b, dial...), srv.Conn(b, append(dial, newStreamBench(b, opts...).DialOptions()...)...)}
	var bare, ratios []float64
	for turn := 0; b.Loop(); turn++ {
		var took [2]float64 // of each connection
		for i := range conns {
			i ^= turn & 1
			start := time.Now()
			for range streams {
				require.NoError(b, x.play(b.Context(), conns[i]))
			}
			took[i] = time.Since(start).Seconds() * 1e3 / float64(streams)
		}
		bare, ratios = append(bare, took[0]), append(ratios, took[1]/took[0])
	}
	slices.Sort(bare)
	slices.Sort(ratios)
	b.ReportMetric(0, "ns/op") // nobody asks
	b.ReportMetric(bare[len(bare)/2], "bare-ms")
	b.ReportMetric(ratios[len(ratios)/2], "rego/bare")
}

func (x exchange) play(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var opts []grpc.CallOption
	if _, ok := x.request.(*mem.BufferSlice); ok {
		opts = append(opts, grpc.ForceCodecV2(frameCodec{}))
	}
	s, err := conn.NewStream(ctx, x.desc, "/frames/"+x.name, opts...)
	if err != nil {
		return err
	}
	if x.desc.ClientStreams && x.desc.ServerStreams {
		go x.send(s) // ends with the stream
	} else {
		x.send(s)
	}
	for range x.receives {
		m := x.reply()
		if err := s.RecvMsg(m); err != nil {
			return err
		}
		if f, ok := m.(*mem.BufferSlice); ok {
			f.Free()
		}
	}
	if !x.desc.ServerStreams {
		return nil
	}
	if err := s.RecvMsg(x.reply()); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the last message: %w", err)
	}
	return nil
}

func (x exchange) send(s grpc.ClientStream) {
	for range x.sends {
		if s.SendMsg(x.request) != nil {
			return // RecvMsg says why
		}
	}
	_ = s.CloseSend()
}

// serve echoes in Chat, and elsewhere answers when the client has sent all: Upload with
// nothing.
func (x exchange) serve(_ any, s grpc.ServerStream) error {
	chat := x.desc.ClientStreams && x.desc.ServerStreams
	for {
		m := new(mem.BufferSlice)
		err := s.RecvMsg(m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && chat {
			err = s.SendMsg(m)
		}
		if err != nil {
			return err
		}
		m.Free()
	}
	answer := newFrame()
	if x.desc.ServerStreams {
		answer = x.request
	}
	for n := 0; !chat && n < x.receives; n++ {
		if err := s.SendMsg(answer); err != nil {
			return err
		}
	}
	return nil
}

// frameCodec passes messages through as they are.
type frameCodec struct{}

func (frameCodec) Name() string { return "frames" }

func (frameCodec) Marshal(m any) (mem.BufferSlice, error) {
	f := *m.(*mem.BufferSlice)
	f.Ref()
	return f, nil
}

func (frameCodec) Unmarshal(data mem.BufferSlice, m any) error {
	data.Ref()
	*m.(*mem.BufferSlice) = data
	return nil
}

func frame(bytes int) any { return &mem.BufferSlice{mem.SliceBuffer(make([]byte, bytes))} }
func newFrame() any       { return new(mem.BufferSlice) }
func newUploaded() any    { return new(testv1.UploadResponse) }
