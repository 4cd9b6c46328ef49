package replay

import (
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/internal/codec"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// opSize is what an operation takes without its message.
const opSize = int64(unsafe.Sizeof(Op{}))

func newLog(limit int64, m *Memory) *Log {
	l := new(Log)
	l.Begin(Config{Codec: codec.Of(nil), Limit: limit, Memory: m, Method: new(atomic.Int64)})
	return l
}

func text(s string) mem.BufferSlice { return mem.BufferSlice{mem.SliceBuffer(s)} }

// holds asserts how many bytes a log says that it keeps, to its memory and its method too.
func (l *Log) holds(t *testing.T, bytes int64, msgAndArgs ...any) {
	t.Helper()
	assert.Equal(t, []int64{bytes, bytes, bytes}, []int64{l.bytes, l.config.Memory.Bytes(), l.config.Method.Load()}, msgAndArgs...)
}

// TestForgets: what is given up is not referred to any more.
func TestForgets(t *testing.T) {
	t.Parallel()
	for _, messages := range []int{1, 2, 3, 10} {
		l := newLog(1<<20, NewMemory(1<<20))
		for i := range messages {
			place, fits := l.Append(Op{data: text("text")})
			require.True(t, fits)
			require.Equal(t, i, place)
		}
		l.holds(t, int64(messages)*(opSize+4))
		all := l.ops
		l.Forget(messages)
		for i := range all {
			assert.Zero(t, all[i], "%d messages", messages)
		}
		assert.Zero(t, l.first, "%d messages", messages)
		l.holds(t, 0, "%d messages", messages)
	}
}

// TestForgetsOnce: an attempt may have sent something just when the call ended and gave up all.
func TestForgetsOnce(t *testing.T) {
	t.Parallel()
	l := newLog(1<<20, NewMemory(1<<20))
	for range 3 {
		_, fits := l.Append(Op{data: text("text")})
		require.True(t, fits)
	}
	l.Close()
	l.holds(t, 3*(opSize+4), "to have closed takes nothing")
	l.Forget(2)
	l.Forget(1)
	l.holds(t, opSize+4)
	l.Clear()
	l.Forget(1)
	l.Clear()
	l.Sent(0)
	l.holds(t, 0)
	assert.Zero(t, l.Len())
	assert.True(t, l.IsClosed())
}

// TestLimits: a message is kept if it fits what the stream may keep and what all streams may.
func TestLimits(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		limit, shared int64
		fits          bool
	}{
		"both":                 {opSize + 4, opSize + 4, true},
		"not the stream":       {opSize + 3, 1 << 20, false},
		"not all streams":      {1 << 20, opSize + 3, false},
		"nothing may be kept":  {0, 1 << 20, false},
		"none of them may":     {1 << 20, 0, false},
		"more than all may":    {opSize + 4, 1 << 20, true},
		"more than one stream": {1 << 20, opSize + 4, true},
	} {
		l := newLog(r.limit, NewMemory(r.shared))
		_, fits := l.Append(Op{data: text("text")})
		assert.Equal(t, r.fits, fits, name)
		if r.fits {
			l.holds(t, opSize+4, name)
			l.Clear()
		}
		l.holds(t, 0, name)
		assert.Zero(t, l.Len(), name)
	}
}

// TestMemoryIsShared: what one log gives up another one can keep.
func TestMemoryIsShared(t *testing.T) {
	t.Parallel()
	m := NewMemory(opSize + 4)
	one, other := newLog(1<<20, m), newLog(1<<20, m)
	_, fits := one.Append(Op{data: text("text")})
	require.True(t, fits)
	_, fits = other.Append(Op{data: text("text")})
	require.False(t, fits)
	one.Forget(1)
	_, fits = other.Append(Op{data: text("text")})
	assert.True(t, fits)
	assert.Equal(t, m.Limit(), m.Bytes())
}

// TestFill: the encoding of a pending message is put in when grpc has asked for it.
func TestFill(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		limit   int64
		before  func(*Log) // it is filled in
		fits    bool
		holds   int64
		pending bool
	}{
		"fits":                  {opSize + 4, func(*Log) {}, true, opSize + 4, false},
		"does not":              {opSize + 3, func(*Log) {}, false, opSize, false},
		"has been given up":     {opSize + 4, func(l *Log) { l.Forget(1) }, true, 0, false},
		"with all others":       {opSize + 4, (*Log).Clear, true, 0, false},
		"was filled in already": {opSize + 8, func(l *Log) { require.True(t, l.Fill(0, nil, text("text"))) }, true, opSize + 4, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLog(r.limit, NewMemory(1<<20))
			op, ok := l.Pending(new(testv1.UploadRequest))
			require.True(t, ok)
			require.True(t, op.IsPending())
			place, fits := l.Append(op)
			require.True(t, fits)
			require.True(t, l.IsPending(place))
			l.holds(t, opSize)
			r.before(l)
			assert.Equal(t, r.fits, l.Fill(place, nil, text("text")))
			l.holds(t, r.holds)
			if l.Len() > 0 {
				assert.False(t, l.IsPending(place))
			}
			l.Clear()
			l.holds(t, 0)
		})
	}
}

// TestRestart: what there was makes place, and stays if the new message does not fit.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, messages := range []int{0, 1, 2, 5} {
		l := newLog(5*(opSize+4), NewMemory(1<<20))
		for range messages {
			_, fits := l.Append(Op{data: text("text")})
			require.True(t, fits)
		}
		l.Close()
		before := l.bytes
		assert.False(t, l.Restart(Op{data: text(strings.Repeat(".", 1000))}))
		l.holds(t, before)
		assert.Equal(t, messages+1, l.Len())
		require.True(t, l.Restart(Op{data: text("again")}))
		l.holds(t, opSize+5)
		require.Equal(t, 2, l.Len())
		op := l.Take(0)
		assert.Equal(t, "again", string(op.data.Materialize()))
		op = l.Take(1)
		assert.True(t, op.IsClose())
		assert.True(t, l.IsClosed())
		l.Clear()
		l.holds(t, 0)
	}
}

// TestTaken: what an attempt is sending stays valid when the log is given up.
func TestTaken(t *testing.T) {
	t.Parallel()
	data, freed := make([]byte, 4096), new(freedOnce)
	l := newLog(1<<20, NewMemory(1<<20))
	_, fits := l.Append(Op{data: mem.BufferSlice{mem.NewBuffer(&data, freed)}})
	require.True(t, fits)
	op := l.Take(0)
	l.Clear()
	assert.Zero(t, freed.times)
	op.Free()
	assert.Equal(t, 1, freed.times)
}

type freedOnce struct{ times int }

func (f *freedOnce) Get(int) *[]byte { return nil }
func (f *freedOnce) Put(*[]byte)     { f.times++ }

// TestKeeps: what cannot be sent again is not kept.
func TestKeeps(t *testing.T) {
	t.Parallel()
	request := new(testv1.UploadRequest)
	for name, r := range map[string]struct {
		opts            []grpc.CallOption
		msg             any
		pending, encode bool
	}{
		"a proto message":         {nil, request, true, true},
		"a prepared one":          {nil, new(grpc.PreparedMsg), false, false},
		"no codec":                {[]grpc.CallOption{grpc.CallContentSubtype("unknown")}, request, false, false},
		"not for the codec":       {nil, "text", true, false}, // which grpc will say
		"another codec":           {[]grpc.CallOption{grpc.ForceCodec(jsonCodec{})}, "text", true, true},
		"another, and a prepared": {[]grpc.CallOption{grpc.ForceCodec(jsonCodec{})}, new(grpc.PreparedMsg), false, false},
	} {
		l := new(Log)
		l.Begin(Config{Codec: codec.Of(r.opts)})
		_, ok := l.Pending(r.msg)
		assert.Equal(t, r.pending, ok, name)
		_, ok = l.Encode(r.msg)
		assert.Equal(t, r.encode, ok, name)
	}
}

type jsonCodec struct{}

func (jsonCodec) Name() string                       { return "json" }
func (jsonCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// below is an interceptor that changes what it is shown, if it is a proto message, and grpc.
type below struct {
	grpc.ClientStream
	codec   encoding.CodecV2
	changes bool

	shown any
	wrote string
}

func (b *below) SendMsg(v any) error {
	b.shown = v
	if r, ok := v.(*testv1.UploadRequest); ok && b.changes {
		r.Payload = append(r.Payload, '+')
	}
	data, err := b.codec.Marshal(v)
	if err == nil {
		b.wrote = string(data.Materialize())
	}
	return err
}

// attempt returns what an attempt sends with.
func (b *below) attempt(c *codec.Codec) *codec.Attempt {
	a := new(codec.Attempt)
	b.codec = a.Option(c).CodecV2
	return a
}

// TestSentAgain: what grpc gets of a message that is sent again, after the application has
// put something else into it, and what an interceptor below is shown, which changes it.
func TestSentAgain(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		opts         []grpc.CallOption
		shown, ahead bool
		wrote        []string // by the first attempt, by the second
		shows        string   // to the second: a copy, the message, a placeholder
	}{
		"grpc alone":                 {nil, false, false, []string{"text", "text"}, "copy"},
		"encoded ahead":              {nil, false, true, []string{"text", "text"}, "copy"},
		"shown":                      {nil, true, false, []string{"text+", "text+"}, "copy"},
		"shown, encoded ahead":       {nil, true, true, []string{"text+", "text+"}, "copy"}, // each attempt has a copy of its own
		"another codec":              {[]grpc.CallOption{grpc.ForceCodec(jsonCodec{})}, false, false, []string{"text", "text"}, "placeholder"},
		"another, ahead":             {[]grpc.CallOption{grpc.ForceCodec(jsonCodec{})}, false, true, []string{"text", "text"}, "placeholder"},
		"another, shown":             {[]grpc.CallOption{grpc.ForceCodec(jsonCodec{})}, true, false, []string{"text+", "text+"}, "message"},
		"another, shown, and ahead ": {[]grpc.CallOption{grpc.ForceCodec(jsonCodec{})}, true, true, []string{"text", "text"}, "message"}, // docs/conformance.md
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := codec.Of(r.opts)
			l := new(Log)
			l.Begin(Config{Codec: c, Shown: r.shown, Limit: 1 << 20, Memory: NewMemory(1 << 20), Method: new(atomic.Int64)})
			msg := &testv1.UploadRequest{Payload: []byte("text")}
			send := l.Pending
			if r.ahead {
				send = l.Encode
			}
			op, ok := send(msg)
			require.True(t, ok)
			_, fits := l.Append(op)
			require.True(t, fits)
			wrote := make([]string, 2)
			for i := range wrote {
				b := &below{changes: r.shown}
				as := b.attempt(c)
				op := l.Take(0)
				if op.IsPending() {
					data, known, err := as.Send(b, msg)
					require.NoError(t, err)
					require.True(t, known)
					require.True(t, l.Fill(0, msg, data))
				} else {
					require.NoError(t, op.SendTo(b, as, nil))
				}
				op.Free()
				l.Sent(0)
				got := new(testv1.UploadRequest)
				require.NoError(t, c.Unmarshal(text(b.wrote), got))
				wrote[i] = string(got.GetPayload())
				if i == 0 {
					msg.Payload = []byte("else")
					continue
				}
				shows := "placeholder"
				if m, is := b.shown.(proto.Message); is && m == proto.Message(msg) {
					shows = "message"
				} else if is {
					shows = "copy"
				}
				assert.Equal(t, r.shows, shows)
			}
			assert.Equal(t, r.wrote, wrote)
		})
	}
}

// TestSentOnceEncoded: the application's own message goes with the encoding that there is.
func TestSentOnceEncoded(t *testing.T) {
	t.Parallel()
	c := codec.Of(nil)
	l := newLog(1<<20, NewMemory(1<<20))
	msg := &testv1.UploadRequest{Payload: []byte("text")}
	op, ok := l.Encode(msg)
	require.True(t, ok)
	assert.True(t, op.IsEncoded())
	want := string(op.data.Materialize())
	msg.Payload = nil
	b := new(below)
	require.NoError(t, op.SendTo(b, b.attempt(c), msg))
	assert.Same(t, msg, b.shown)
	assert.Equal(t, want, b.wrote)
}
