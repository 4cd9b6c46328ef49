package interceptor

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// What is kept of a stream for replay is how its messages were encoded when they were
// sent, as grpc's own retries keep it. So an application may change a message once SendMsg
// has returned, sizes are exact, and messages of every type can be sent again.
//
// Each attempt has a codec that wraps the one that the call's options choose. It keeps what
// grpc is told when it first asks for the encoding of a message, and answers with that when
// the message is sent again. Interceptors below get the application's message as it is sent,
// and of a proto message that is sent again a copy that is made from the encoding: the
// application's own may hold something else by then. What another codec can decode is not
// known, so there they get the application's own again.
//
// Several attempts may send a message that is hedged, so there it is encoded ahead of them,
// and what interceptors below change in their copy is encoded once more.

// marshaler is what grpc asks of a codec.
type marshaler interface {
	Marshal(v any) (mem.BufferSlice, error)
	Unmarshal(data mem.BufferSlice, v any) error
}

// codec is what the options of a call choose, as grpc reads them.
type codec struct {
	marshaler
	name    string // that it brings into the content type
	isProto bool   // it is grpc's own, for proto messages
}

// codecOf returns nil if there is none, which grpc will say.
func codecOf(opts []grpc.CallOption) *codec {
	var c *codec
	subtype := ""
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.ForceCodecV2CallOption:
			c = &codec{marshaler: o.CodecV2, name: o.CodecV2.Name()}
		case grpc.ForceCodecCallOption:
			c = &codec{marshaler: bytesCodec{o.Codec}, name: o.Codec.Name()}
		case grpc.CustomCodecCallOption:
			c = &codec{marshaler: bytesCodec{o.Codec}}
		case grpc.ContentSubtypeCallOption:
			subtype = o.ContentSubtype
		}
	}
	switch {
	case c != nil:
		return c
	case subtype == "":
		return protobuf()
	}
	return registered(subtype)
}

// registered returns the codec of a content-subtype.
func registered(subtype string) *codec {
	if c := encoding.GetCodec(subtype); c != nil {
		return &codec{marshaler: bytesCodec{c}}
	}
	if c := encoding.GetCodecV2(subtype); c != nil {
		return &codec{marshaler: c, isProto: subtype == protocodec.Name && protoResets()}
	}
	return nil
}

// protobuf is the codec of calls that choose none.
var protobuf = sync.OnceValue(func() *codec { return registered(protocodec.Name) })

// bytesCodec is a codec of the older kind.
type bytesCodec struct {
	codec interface {
		Marshal(v any) ([]byte, error)
		Unmarshal(data []byte, v any) error
	}
}

func (c bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	data, err := c.codec.Marshal(v)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(data)}, nil
}

func (c bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	return c.codec.Unmarshal(data.Materialize(), v)
}

// attemptCodec is what grpc asks for the encoding of what an attempt sends.
type attemptCodec struct {
	*codec
	sends atomic.Pointer[sending] // under way; nil between two messages
	met   atomic.Bool             // it has been asked, so the attempt's options have reached grpc

	option codecOption
}

// sending is a message on its way to grpc.
type sending struct {
	msg     any
	data    mem.BufferSlice // its encoding, unless that is
	pending bool
	asked   atomic.Pointer[mem.BufferSlice] // its encoding, once grpc has asked for it
}

// codecOption hands an attemptCodec to grpc. It takes the place of what the call's own
// options choose, and is not taken for one of them by interceptors below.
type codecOption struct{ grpc.ForceCodecV2CallOption }

func (c *attemptCodec) Name() string { return c.name }

func (c *attemptCodec) Marshal(v any) (mem.BufferSlice, error) {
	c.met.Store(true)
	s := c.sends.Load()
	if s == nil || !same(s.msg, v) { // an interceptor below sends something else
		return c.marshaler.Marshal(v)
	}
	if !s.pending {
		s.data.Ref()
		return s.data, nil
	}
	data, err := c.marshaler.Marshal(v)
	if err == nil {
		data.Ref()
		if again := s.asked.Swap(&data); again != nil {
			again.Free()
		}
	}
	return data, err
}

// Unmarshal hands out the encoding of an answer of which the type is not known yet.
func (c *attemptCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if raw, ok := v.(*answerBytes); ok {
		data.Ref()
		raw.data = data
		return nil
	}
	return c.marshaler.Unmarshal(data, v)
}

// answerBytes is what an answer is received into before its type is known.
type answerBytes struct{ data mem.BufferSlice }

// same reports whether two values are the same one. Those that cannot be compared are, if
// they have not been copied.
func same(a, b any) bool {
	return *(*[2]uintptr)(unsafe.Pointer(&a)) == *(*[2]uintptr)(unsafe.Pointer(&b))
}
