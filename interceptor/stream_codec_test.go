package interceptor_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// Codecs that hand over what the application has, as those of proxies do.

// relayed is a message that holds its encoding.
type relayed struct{ data mem.BufferSlice }

// relay is a codec that hands over the buffers of such a message: they are grpc's then.
type relay struct {
	empties bool // the message, so that nobody can ask for its encoding again
}

func (relay) Name() string { return "proto" }

func (c relay) Marshal(v any) (mem.BufferSlice, error) {
	m := v.(*relayed)
	data := m.data
	if c.empties {
		if m.data = nil; data == nil {
			return nil, errors.New("handed over already")
		}
	}
	return data, nil
}

func (relay) Unmarshal(data mem.BufferSlice, v any) error {
	return encoding.GetCodecV2("proto").Unmarshal(data, v)
}

func (c relay) option(*app) []grpc.CallOption {
	return []grpc.CallOption{grpc.ForceCodecV2(c)}
}

// relays sends a message of which grpc gets the buffers.
func relays(payload string) does {
	return func(a *app) {
		data, err := encoding.GetCodecV2("proto").Marshal(a.request(payload))
		require.NoError(a, err)
		a.note("relay: %v", a.cs.SendMsg(&relayed{data}))
	}
}

// TestEncodedOnce: a codec is asked once for the encoding of a message, also of one that is
// too large to be kept for other attempts.
func TestEncodedOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]relay{"buffers are freed": {}, "messages are emptied": {empties: true}} {
		play{name: name, kind: uploadKind, step: testsrv.Echo(), app: []does{times(5, relays(large(100<<10))), closesText, receives}, opts: c.option}.sameAsBare(t)
	}
}

// ownBytes is a codec that hands out the application's own buffer.
type ownBytes struct{ rawBytes }

func (ownBytes) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

// TestBufferUsedAgain: what is sent again is what was sent, though the application has
// something else in its buffer since.
func TestBufferUsedAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		c := newClient(t, srv, named(exact(idempotent)))
		srv.Script(testsrv.Upload, testsrv.Do(testsrv.Recv(3), down), testsrv.Echo())
		cs, err := c.conn.NewStream(t.Context(), uploadKind.desc(), testsrv.Upload, grpc.ForceCodec(ownBytes{}))
		require.NoError(t, err)
		buf, err := rawBytes{}.Marshal(&testv1.UploadRequest{Payload: []byte("?")})
		require.NoError(t, err)
		for _, b := range []byte("abcde") {
			buf[len(buf)-1] = b
			require.NoError(t, cs.SendMsg(&buf))
			synctest.Wait() // grpc has written it
		}
		require.NoError(t, cs.CloseSend())
		require.NoError(t, cs.RecvMsg(new([]byte)))
		assert.Equal(t, []string{"abc", "abcde."}, served(srv, uploadKind))
	})
}
