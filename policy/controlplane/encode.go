package controlplane

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/types/known/durationpb"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// encode returns m as it goes over the wire, which may be sent on any number of streams:
// grpc.PreparedMsg keeps it in slices that are not given back to a pool.
func encode(m *regov1.StreamPoliciesResponse, compress bool) (*grpc.PreparedMsg, error) {
	in, err := encodings()
	if err != nil {
		return nil, err
	}
	ctx := in.plain
	if compress {
		ctx = in.gzip
	}
	p := new(grpc.PreparedMsg)
	if err := p.Encode(withContext{ctx: ctx}, m); err != nil {
		return nil, err
	}
	return p, nil
}

// heartbeatNonce is the nonce of all heartbeats. Those of sets are numbers.
const heartbeatNonce = "heartbeat"

// heartbeatOf returns what encodes a server's heartbeat, once. It is not worth compressing.
func heartbeatOf(c *serving) func() (*grpc.PreparedMsg, error) {
	return sync.OnceValues(func() (*grpc.PreparedMsg, error) {
		return encode(&regov1.StreamPoliciesResponse{
			Nonce: heartbeatNonce, Heartbeat: &regov1.Heartbeat{Interval: durationpb.New(heartbeatEvery)}, ReportEvery: c.asks(),
		}, false)
	})
}

type contexts struct{ plain, gzip context.Context }

// encodings returns contexts of streams that send messages as they are and compressed.
// PreparedMsg.Encode compresses as the stream that it is given, and takes that from the
// stream's context. A server's own streams will not do: theirs has the compression of what
// the client sends, whatever grpc.SetSendCompressor says. So the contexts are those of two
// calls that are ended before they are sent.
var encodings = sync.OnceValues(func() (contexts, error) {
	plain, err := callContext()
	if err != nil {
		return contexts{}, err
	}
	compressed, err := callContext(grpc.UseCompressor(gzip.Name))
	return contexts{plain, compressed}, err
})

func callContext(opts ...grpc.CallOption) (context.Context, error) {
	ctx, end := context.WithCancel(context.Background())
	defer end()
	tags := &tagged{end: end}
	conn, err := grpc.NewClient("passthrough:///none",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("not to be dialled") }),
		grpc.WithStatsHandler(tags))
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // it was not connected
	_, err = conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/none/None", opts...)
	if tags.ctx == nil {
		return nil, err
	}
	return tags.ctx, nil
}

// tagged keeps the context of a call, and ends the call.
type tagged struct {
	ctx context.Context
	end func()
}

func (t *tagged) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	t.ctx = context.WithoutCancel(ctx)
	t.end()
	return ctx
}

func (t *tagged) HandleRPC(context.Context, stats.RPCStats)                         {}
func (t *tagged) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (t *tagged) HandleConn(context.Context, stats.ConnStats)                       {}

// withContext is a stream that has a context, and nothing else.
type withContext struct {
	grpc.Stream
	ctx context.Context
}

func (s withContext) Context() context.Context { return s.ctx }
