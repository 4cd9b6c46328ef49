package codec

import (
	"sync/atomic"
	"unsafe"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// Attempt is what grpc asks for the encoding of what an attempt sends. One message at a time
// is sent with it. Interceptors below get the message first, and may send another one, which
// is encoded as it would be without an Attempt.
type Attempt struct {
	of     *Codec
	sends  atomic.Pointer[sending] // under way; nil between two messages
	met    atomic.Bool
	option Option
}

// Option hands an Attempt to grpc. It takes the place of what the call's own options choose,
// and is not taken for one of them by interceptors below.
type Option struct{ grpc.ForceCodecV2CallOption }

// sending is a message on its way to grpc.
type sending struct {
	msg     any
	data    mem.BufferSlice // its encoding, unless that is
	pending bool
	asked   atomic.Pointer[mem.BufferSlice] // its encoding, once grpc has asked for it
}

// Option has the attempt encode as c does, and returns what tells grpc. It is called once,
// before the attempt is made.
func (a *Attempt) Option(c *Codec) *Option {
	a.of = c
	a.option.CodecV2 = a
	return &a.option
}

// Met reports whether grpc has asked for an encoding, so that the attempt's options have
// reached it.
func (a *Attempt) Met() bool { return a.met.Load() }

// Send sends a message of which the encoding is not known yet. It returns the encoding that
// grpc has got, in memory of its own, if that is known and the message was sent.
func (a *Attempt) Send(to grpc.ClientStream, msg any) (data mem.BufferSlice, known bool, err error) {
	s := &sending{msg: msg, pending: true}
	a.sends.Store(s)
	defer a.sends.Store(nil)
	err = to.SendMsg(msg)
	switch asked := s.asked.Swap(nil); {
	case asked != nil && err == nil:
		return a.of.exact(*asked), true, nil
	case asked != nil:
		asked.Free()
	case err == nil: // an interceptor below has sent something else
		if data, failed := a.of.Encode(msg); failed == nil {
			return data, true, nil
		}
	}
	return nil, false, err
}

// SendEncoded sends a message of which grpc gets the given encoding.
func (a *Attempt) SendEncoded(to grpc.ClientStream, msg any, data mem.BufferSlice) error {
	a.sends.Store(&sending{msg: msg, data: data})
	defer a.sends.Store(nil)
	return to.SendMsg(msg)
}

// Name implements [encoding.CodecV2].
func (a *Attempt) Name() string { return a.of.name }

// Marshal implements [encoding.CodecV2].
func (a *Attempt) Marshal(v any) (mem.BufferSlice, error) {
	a.met.Store(true)
	s := a.sends.Load()
	if s == nil || !same(s.msg, v) { // an interceptor below sends something else
		return a.of.Marshal(v)
	}
	if !s.pending {
		s.data.Ref()
		return s.data, nil
	}
	data, err := a.of.Marshal(v)
	if err == nil {
		data.Ref()
		if again := s.asked.Swap(&data); again != nil {
			again.Free()
		}
	}
	return data, err
}

// Unmarshal implements [encoding.CodecV2]. Into a [Raw] it puts the encoding itself.
func (a *Attempt) Unmarshal(data mem.BufferSlice, v any) error {
	if raw, ok := v.(*Raw); ok {
		data.Ref()
		raw.Data = data
		return nil
	}
	return a.of.Unmarshal(data, v)
}

// Raw is what an answer is received into before its type is known. Who has received one
// frees Data.
type Raw struct{ Data mem.BufferSlice }

// same reports whether two values are the same one. Those that cannot be compared are, if
// they have not been copied.
func same(a, b any) bool {
	return *(*[2]uintptr)(unsafe.Pointer(&a)) == *(*[2]uintptr)(unsafe.Pointer(&b))
}
