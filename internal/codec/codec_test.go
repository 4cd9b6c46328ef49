package codec_test

import (
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/internal/codec"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// older is a codec of the older kind, for anything.
type older struct{}

func (older) Name() string                       { return "older" }
func (older) String() string                     { return "older" }
func (older) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (older) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

func TestOf(t *testing.T) {
	t.Parallel()
	protobuf := encoding.GetCodecV2("proto")
	for name, r := range map[string]struct {
		opts    []grpc.CallOption
		want    string // what it brings into the content type
		isProto bool
	}{
		"none":                    {nil, "", true},
		"others":                  {[]grpc.CallOption{grpc.WaitForReady(true)}, "", true},
		"by subtype":              {[]grpc.CallOption{grpc.CallContentSubtype("proto")}, "", true},
		"forced":                  {[]grpc.CallOption{grpc.ForceCodecV2(protobuf)}, "proto", false}, // it may be around grpc's
		"forced, older":           {[]grpc.CallOption{grpc.ForceCodec(older{})}, "older", false},
		"custom":                  {[]grpc.CallOption{grpc.CallCustomCodec(older{})}, "", false}, //nolint:staticcheck // callers have it
		"the last is the choice":  {[]grpc.CallOption{grpc.ForceCodec(older{}), grpc.ForceCodecV2(protobuf)}, "proto", false},
		"forced before a subtype": {[]grpc.CallOption{grpc.ForceCodec(older{}), grpc.CallContentSubtype("proto")}, "older", false},
	} {
		c := codec.Of(r.opts)
		require.NotNil(t, c, name)
		assert.Equal(t, r.isProto, c.IsProto(), name)
		a := new(codec.Attempt)
		a.Option(c)
		assert.Equal(t, r.want, a.Name(), name)
		msg := &testv1.UploadRequest{Payload: []byte("text")}
		data, err := c.Encode(msg)
		require.NoError(t, err, name)
		got := new(testv1.UploadRequest)
		require.NoError(t, c.Unmarshal(data, got), name)
		assert.True(t, proto.Equal(msg, got), name)
	}
	assert.Nil(t, codec.Of([]grpc.CallOption{grpc.CallContentSubtype("unknown")}), "for grpc to refuse")
	assert.True(t, codec.ProtoResets())
}

// own is a codec that hands out the message's own bytes, in a buffer that it counts.
type own struct{ buffers }

// buffers counts those that have not been freed.
type buffers struct{ out *int }

func (b buffers) Get(n int) *[]byte {
	data := make([]byte, n)
	return &data
}

func (b buffers) Put(*[]byte) { *b.out-- }

func (own) Name() string { return "own" }

func (c own) Marshal(v any) (mem.BufferSlice, error) {
	data, ok := v.(*[]byte)
	if !ok {
		return nil, errors.New("cannot")
	}
	*c.out++
	return mem.BufferSlice{mem.NewBuffer(data, c)}, nil
}

func (own) Unmarshal(mem.BufferSlice, any) error { return nil }

// grpcStream does to a message what grpc and interceptors below do.
type grpcStream struct {
	grpc.ClientStream
	codec encoding.CodecV2
	asks  func(v any) []any // what the encoding of is asked for
	err   error

	wrote []string
}

func (s *grpcStream) SendMsg(v any) error {
	for _, v := range s.asks(v) {
		data, err := s.codec.Marshal(v)
		if err != nil {
			return err
		}
		s.wrote = append(s.wrote, string(data.Materialize()[:1]))
		data.Free()
	}
	return s.err
}

func once(v any) []any  { return []any{v} }
func twice(v any) []any { return []any{v, v} }
func never(any) []any   { return nil }

// message returns a message that is large enough for its buffer to be counted.
func message(begin byte) *[]byte {
	data := make([]byte, 4096)
	data[0] = begin
	return &data
}

func other(any) []any { return []any{message('o')} }

// attempt returns what sends, to a stream, with a codec that hands out the message's own bytes.
func attempt(s *grpcStream, out *int) *codec.Attempt {
	a := new(codec.Attempt)
	s.codec = a.Option(codec.Of([]grpc.CallOption{grpc.ForceCodecV2(own{buffers{out}})})).CodecV2
	return a
}

// TestSend: what is kept of a message is what grpc was told, unless it was not sent.
func TestSend(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		asks  func(any) []any
		err   error
		known bool
		wrote []string
		met   bool
	}{
		"grpc asks":                         {once, nil, true, []string{"m"}, true},
		"twice":                             {twice, nil, true, []string{"m", "m"}, true},
		"it was not sent":                   {once, io.EOF, false, []string{"m"}, true},
		"refused, and grpc has not asked":   {never, errors.New("no"), false, nil, false},
		"an interceptor sends another":      {other, nil, true, []string{"o"}, true},
		"or nothing":                        {never, nil, true, nil, false},
		"another, and the first once more":  {func(v any) []any { return append(other(v), v) }, nil, true, []string{"o", "m"}, true},
		"another one, which cannot be sent": {func(any) []any { return []any{"text"} }, nil, false, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, msg := 0, message('m')
			s := &grpcStream{asks: r.asks, err: r.err}
			a := attempt(s, &out)
			assert.False(t, a.Met())
			data, known, err := a.Send(s, msg)
			assert.Equal(t, r.err == nil && name != "another one, which cannot be sent", err == nil)
			assert.Equal(t, r.known, known)
			assert.Equal(t, r.wrote, s.wrote)
			assert.Equal(t, r.met, a.Met())
			assert.Zero(t, out, "buffers are not freed")
			if known {
				(*msg)[0] = '-' // it is the application's again
				assert.Equal(t, "m", string(data.Materialize()[:1]))
			} else {
				assert.Empty(t, data)
			}
		})
	}
}

// TestSentPastTheAttempt: what the application changes and sends again, past the attempt, is
// encoded as it is then.
func TestSentPastTheAttempt(t *testing.T) {
	t.Parallel()
	out, msg := 0, message('m')
	s := &grpcStream{asks: once}
	_, known, err := attempt(s, &out).Send(s, msg)
	require.NoError(t, err)
	require.True(t, known)
	(*msg)[0] = '-'
	require.NoError(t, s.SendMsg(msg))
	assert.Equal(t, []string{"m", "-"}, s.wrote)
	assert.Zero(t, out, "what nobody waits for is kept")
}

// TestSendsWhatCannotBeKept: an interceptor below sends what the codec can encode, in the
// place of what it cannot.
func TestSendsWhatCannotBeKept(t *testing.T) {
	t.Parallel()
	out := 0
	s := &grpcStream{asks: other}
	data, known, err := attempt(s, &out).Send(s, "text")
	require.NoError(t, err)
	assert.False(t, known)
	assert.Empty(t, data)
}

// TestSendEncoded: grpc gets the encoding of that time, and what interceptors send in the
// place of the message as it is.
func TestSendEncoded(t *testing.T) {
	t.Parallel()
	out, msg := 0, message('-')
	s := &grpcStream{asks: func(v any) []any { return append(other(v), v) }}
	a := attempt(s, &out)
	require.NoError(t, a.SendEncoded(s, msg, mem.BufferSlice{mem.SliceBuffer("m")}))
	require.NoError(t, a.SendEncoded(s, "text", mem.BufferSlice{mem.SliceBuffer("t")}))
	assert.Equal(t, []string{"o", "m", "o", "t"}, s.wrote)
	s.asks = once
	require.NoError(t, s.SendMsg(msg), "by the application directly")
	assert.Equal(t, "-", s.wrote[4])
	assert.Zero(t, out)
}

// TestRaw: an answer can be received before its type is known.
func TestRaw(t *testing.T) {
	t.Parallel()
	a := new(codec.Attempt)
	a.Option(codec.Of(nil))
	data, err := proto.Marshal(&testv1.UploadResponse{Payload: []byte("text")})
	require.NoError(t, err)
	var raw codec.Raw
	require.NoError(t, a.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, &raw))
	got := new(testv1.UploadResponse)
	require.NoError(t, a.Unmarshal(raw.Data, got))
	assert.Equal(t, "text", string(got.GetPayload()))
}
