package interceptor

import (
	"sync/atomic"
	"unsafe"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// DefaultCallReplayLimit is the most bytes of messages that one stream keeps for
	// replay, unless [WithCallReplayLimit] says otherwise (grpc's own default).
	DefaultCallReplayLimit = 256 << 10
	// DefaultReplayLimit is the most bytes that all streams of an interceptor keep,
	// unless [WithReplayLimit] says otherwise.
	DefaultReplayLimit = 16 << 20
)

// replayLog is what the application did to send on a stream: all of it until the
// stream is committed, and then what the attempt that is kept has not sent yet.
// The call's mu guards it.
type replayLog struct {
	ops    []sendOp
	kept   int  // ops before it have been forgotten
	closed bool // the last one is CloseSend
	bytes  int64
	limit  int64
	shared *sharedReplay

	first [2]sendOp // what a server stream needs
}

// sendOp is a message as it was encoded, or CloseSend.
type sendOp struct {
	data  mem.BufferSlice
	shows any // to interceptors below: one like a protoreflect.MessageType, made from data, or the message
	close bool
}

// size is the memory that it takes to keep an operation.
func (op *sendOp) size() int64 { return int64(unsafe.Sizeof(*op)) + int64(op.data.Len()) }

// sharedReplay bounds what the streams of an interceptor keep.
type sharedReplay struct {
	limit int64
	bytes atomic.Int64
}

// fits takes the room for a message, if there is so much.
func (l *replayLog) fits(op *sendOp) bool {
	size := op.size()
	if l.bytes+size > l.limit {
		return false
	}
	if l.shared.bytes.Add(size) > l.shared.limit {
		l.shared.bytes.Add(-size)
		return false
	}
	l.bytes += size
	return true
}

// add keeps a message, unless that takes more memory than there may be.
func (l *replayLog) add(op sendOp) bool {
	if !l.fits(&op) {
		return false
	}
	l.append(op)
	return true
}

func (l *replayLog) closeSend() {
	l.closed = true
	l.append(sendOp{close: true})
}

func (l *replayLog) append(op sendOp) {
	if l.ops == nil {
		l.ops = l.first[:0]
	}
	outgrown := len(l.ops) == len(l.first)
	l.ops = append(l.ops, op)
	if outgrown {
		clear(l.first[:]) // would hold on to what they are copies of
	}
}

// forget gives up the operations before n, if they have not been given up.
func (l *replayLog) forget(n int) {
	for ; l.kept < min(n, len(l.ops)); l.kept++ {
		op := &l.ops[l.kept]
		if !op.close {
			size := op.size()
			l.bytes -= size
			l.shared.bytes.Add(-size)
			op.data.Free()
		}
		*op = sendOp{close: op.close}
	}
	if n == len(l.ops) && n > len(l.first) {
		l.ops = make([]sendOp, 0) // of a stream with many messages the array, too
		l.kept = 0
	}
}

// clear gives up all of them.
func (l *replayLog) clear() {
	l.forget(len(l.ops))
	l.ops, l.kept = nil, 0
}

// encode encodes a message, if it can be kept. One that cannot be encoded is for grpc to
// refuse, and one that is prepared for one attempt is for that alone.
func (s *stream) encode(msg any) (op sendOp, ok bool) {
	if _, prepared := msg.(*grpc.PreparedMsg); prepared || s.codec == nil {
		return sendOp{}, false
	}
	data, err := s.codec.Marshal(msg)
	if err != nil {
		return sendOp{}, false
	}
	op = sendOp{data: exact(data)}
	if m, is := msg.(proto.Message); is && s.codec.isProto {
		op.shows = m.ProtoReflect().Type()
	} else if !s.endsInTime {
		op.shows = msg
	}
	return op, true
}

// exact returns data in memory of its size: buffers of a pool are up to four times as large.
func exact(data mem.BufferSlice) mem.BufferSlice {
	if len(data) == 1 {
		if _, ok := data[0].(mem.SliceBuffer); ok {
			return data
		}
	}
	defer data.Free()
	return mem.BufferSlice{mem.SliceBuffer(data.Materialize())}
}

// messageOf returns what stands for a message that is sent again.
func (s *stream) messageOf(op sendOp) any {
	switch shows := op.shows.(type) {
	case nil:
	case protoreflect.MessageType:
		m := shows.New().Interface()
		if err := s.codec.Unmarshal(op.data, m); err == nil {
			return m
		}
	default:
		return shows
	}
	return new(encoded)
}

// encoded stands for a message of which only the encoding is left.
type encoded struct{ _ byte }
