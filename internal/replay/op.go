package replay

import (
	"reflect"
	"unsafe"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/rego-go/rego/internal/codec"
)

// Op is what the application did: it sent a message, or closed.
type Op struct {
	data    mem.BufferSlice
	shows   any  // to interceptors below: one like a protoreflect.MessageType, made from data, or the message
	pending bool // it is being sent, and grpc has not asked for its encoding yet
	anew    bool // it was encoded before interceptors below have seen it, so what they change in a copy counts
	inHand  bool // the application is sending it, and shows is its message
	closes  bool
}

// size is the memory that it takes to keep an operation.
func (op *Op) size() int64 { return int64(unsafe.Sizeof(*op)) + int64(op.data.Len()) }

// IsClose reports whether it is CloseSend, and no message.
func (op *Op) IsClose() bool { return op.closes }

// IsPending reports whether the encoding of a message was not known yet: whoever is sending
// it for the application does so with [codec.Attempt.Send], and fills it in.
func (op *Op) IsPending() bool { return op.pending }

// Free lets go of the encoding of an operation that was taken, or has not been appended.
func (op *Op) Free() { op.data.Free() }

// IsEncoded reports whether the message has been encoded.
func (op *Op) IsEncoded() bool { return len(op.data) > 0 }

// SendTo sends a message that has been encoded, as the application's own msg if that is not
// nil.
func (op *Op) SendTo(to grpc.ClientStream, as *codec.Attempt, msg any) error {
	copied := false
	if msg == nil {
		msg, copied = op.message(as)
	}
	if copied && op.anew {
		return to.SendMsg(msg)
	}
	return as.SendEncoded(to, msg, op.data)
}

// message returns what stands for a message that is sent again, and whether that is a copy
// which holds the same.
func (op *Op) message(as *codec.Attempt) (msg any, copied bool) {
	switch shows := op.shows.(type) {
	case nil:
	case protoreflect.MessageType:
		m := shows.New().Interface()
		if err := as.Unmarshal(op.data, m); err == nil {
			return m, true
		}
	default:
		return shows, false
	}
	return new(encoded), false
}

// encoded stands for a message of which only the encoding is left.
type encoded struct{ _ byte }

// Pending returns a message that the application is sending, to be appended. It is encoded
// when grpc asks for that, and filled in then. It reports false of one that cannot be sent
// again: because it is prepared for one attempt, or because there is no codec for it, which
// is for grpc to refuse. It needs no lock.
func (l *Log) Pending(msg any) (op Op, ok bool) {
	_, prepared := msg.(*grpc.PreparedMsg)
	return Op{pending: true}, !prepared && l.config.Codec != nil
}

// Encode returns a message that is encoded ahead of grpc: because several attempts send it,
// or because the application is not sending it. It reports false of one that cannot be sent
// again, or not be encoded. It needs no lock.
func (l *Log) Encode(msg any) (op Op, ok bool) {
	if _, ok = l.Pending(msg); !ok {
		return Op{}, false
	}
	data, err := l.config.Codec.Encode(msg)
	if err != nil {
		return Op{}, false
	}
	if !l.config.Shown {
		return Op{data: data, shows: msg, inHand: true}, true
	}
	return Op{data: data, shows: l.shows(msg), anew: true}, true
}

// shows returns what interceptors below are shown of a message when it is sent again.
func (l *Log) shows(msg any) any {
	if m, is := msg.(proto.Message); is && l.config.Codec.IsProto() {
		r := m.ProtoReflect()
		if t := r.Type(); reflect.TypeOf(r.Interface()) == reflect.TypeOf(msg) { // and not something around it
			return t
		}
	}
	if l.config.Shown {
		return msg
	}
	return nil
}
