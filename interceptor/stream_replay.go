package interceptor

import (
	"reflect"
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
	method *atomic.Int64 // what the streams of its method keep

	first [2]sendOp // what a server stream needs
}

// sendOp is a message as it was encoded, or CloseSend.
type sendOp struct {
	data    mem.BufferSlice
	shows   any  // to interceptors below: one like a protoreflect.MessageType, made from data, or the message
	pending bool // it is being sent, and grpc has not asked for its encoding yet
	ahead   bool // it was encoded before interceptors below had seen it
	inHand  bool // the application is sending it, and shows is its message
	close   bool
}

// size is the memory that it takes to keep an operation.
func (op *sendOp) size() int64 { return int64(unsafe.Sizeof(*op)) + int64(op.data.Len()) }

// sharedReplay bounds what the streams of an interceptor keep.
type sharedReplay struct {
	limit int64
	bytes atomic.Int64
}

// fits takes the room for a message, if there is so much.
func (l *replayLog) fits(op *sendOp) bool { return l.grow(op.size()) }

func (l *replayLog) grow(size int64) bool {
	if l.bytes+size > l.limit {
		return false
	}
	if l.shared.bytes.Add(size) > l.shared.limit {
		l.shared.bytes.Add(-size)
		return false
	}
	l.bytes += size
	l.method.Add(size)
	return true
}

// fill puts in the encoding of a message that was pending, if that fits.
func (l *replayLog) fill(i int, data mem.BufferSlice, shows any) bool {
	if i >= len(l.ops) || !l.ops[i].pending { // it has been given up
		data.Free()
		return true
	}
	op := &l.ops[i]
	op.pending = false
	if !l.grow(int64(data.Len())) {
		data.Free()
		return false
	}
	op.data, op.shows = data, shows
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

// at returns an operation, nil if it has been given up with all others.
func (l *replayLog) at(i int) *sendOp {
	if i >= len(l.ops) {
		return nil
	}
	return &l.ops[i]
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
			l.method.Add(-size)
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

// mayKeep reports whether a message can be sent again: not one that is prepared for one
// attempt, nor one that there is no codec for, which is for grpc to refuse.
func (s *stream) mayKeep(msg any) bool {
	_, prepared := msg.(*grpc.PreparedMsg)
	return !prepared && s.codec != nil
}

// encode encodes a message ahead of grpc: because several attempts send it, or because the
// application is not sending it. One that cannot be encoded is for grpc to refuse.
func (s *stream) encode(msg any) (op sendOp, ok bool) {
	if !s.mayKeep(msg) {
		return sendOp{}, false
	}
	data, err := s.codec.Marshal(msg)
	if err != nil {
		return sendOp{}, false
	}
	op = sendOp{data: s.codec.exact(data), ahead: true, shows: msg, inHand: s.endsInTime}
	if !op.inHand {
		op.shows = s.shows(msg)
	}
	return op, true
}

// shows returns what interceptors below are shown of a message when it is sent again.
func (s *stream) shows(msg any) any {
	if m, is := msg.(proto.Message); is && s.codec.isProto {
		r := m.ProtoReflect()
		if t := r.Type(); reflect.TypeOf(r.Interface()) == reflect.TypeOf(msg) { // and not something around it
			return t
		}
	}
	if s.endsInTime {
		return nil
	}
	return msg
}

// exact returns data in memory of its size, and of its own: buffers of a pool are up to four
// times as large, and what a codec of the application's returns may be the message itself.
func (c *codec) exact(data mem.BufferSlice) mem.BufferSlice {
	if len(data) == 1 && c.isProto {
		if _, ok := data[0].(mem.SliceBuffer); ok {
			return data
		}
	}
	defer data.Free()
	return mem.BufferSlice{mem.SliceBuffer(data.Materialize())}
}

// messageOf returns what stands for a message that is sent again, and whether that is a copy
// which holds the same.
func (s *stream) messageOf(op sendOp) (msg any, copied bool) {
	switch shows := op.shows.(type) {
	case nil:
	case protoreflect.MessageType:
		m := shows.New().Interface()
		if err := s.codec.Unmarshal(op.data, m); err == nil {
			return m, true
		}
	default:
		return shows, false
	}
	return new(encoded), false
}

// encoded stands for a message of which only the encoding is left.
type encoded struct{ _ byte }
