// Package codec is how the messages of a stream are encoded, so that each is encoded once,
// whatever number of attempts send it.
//
// A [Codec] is the one that the options of a call choose, as grpc reads them. Each attempt
// has an [Attempt], which wraps that and reaches grpc as the last of the attempt's options.
// It notes what grpc is told when it first asks for the encoding of a message ([Attempt.Send]),
// and answers with that when the message is sent again ([Attempt.SendEncoded]). So what is
// sent again is what was sent, with what interceptors below have changed, though the
// application may have changed its message since.
package codec

import (
	"reflect"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Codec is what the options of a call choose.
type Codec struct {
	marshaler
	name    string // that it brings into the content type
	isProto bool
}

// marshaler is what grpc asks of a codec.
type marshaler interface {
	Marshal(v any) (mem.BufferSlice, error)
	Unmarshal(data mem.BufferSlice, v any) error
}

// Of returns the codec that the options of a call choose, nil if there is none, which grpc
// will say.
func Of(opts []grpc.CallOption) *Codec {
	var c *Codec
	subtype := ""
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.ForceCodecV2CallOption:
			c = &Codec{marshaler: o.CodecV2, name: o.CodecV2.Name()}
		case grpc.ForceCodecCallOption:
			c = &Codec{marshaler: bytesCodec{o.Codec}, name: o.Codec.Name()}
		case grpc.CustomCodecCallOption:
			c = &Codec{marshaler: bytesCodec{o.Codec}}
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
func registered(subtype string) *Codec {
	if c := encoding.GetCodec(subtype); c != nil {
		return &Codec{marshaler: bytesCodec{c}}
	}
	if c := encoding.GetCodecV2(subtype); c != nil {
		return &Codec{marshaler: c, isProto: subtype == protocodec.Name && ProtoResets()}
	}
	return nil
}

// protobuf is the codec of calls that choose none.
var protobuf = sync.OnceValue(func() *Codec { return registered(protocodec.Name) })

// ProtoResets reports whether the codec of protobuf is grpc's own, which empties a message
// before it decodes into it. Others may add to what is there.
var ProtoResets = sync.OnceValue(func() bool {
	t := reflect.TypeOf(encoding.GetCodecV2(protocodec.Name))
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t != nil && t.PkgPath() == "google.golang.org/grpc/encoding/proto"
})

// IsProto reports whether it is grpc's own for proto messages. What that has encoded can be
// decoded into a new message of the same type, and it empties a message before it decodes
// into it.
func (c *Codec) IsProto() bool { return c.isProto }

// Encode returns the encoding of a message, in memory that nobody else writes to.
func (c *Codec) Encode(msg any) (mem.BufferSlice, error) {
	data, err := c.Marshal(msg)
	if err != nil {
		return nil, err
	}
	return c.exact(data), nil
}

// exact returns data in memory of its size, and of its own: buffers of a pool are up to four
// times as large, and what a codec of the application's returns may be the message itself.
func (c *Codec) exact(data mem.BufferSlice) mem.BufferSlice {
	if len(data) == 1 && c.isProto {
		if _, ok := data[0].(mem.SliceBuffer); ok {
			return data
		}
	}
	defer data.Free()
	return mem.BufferSlice{mem.SliceBuffer(data.Materialize())}
}

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
