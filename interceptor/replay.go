package interceptor

import (
	"reflect"
	"sync/atomic"
	"unsafe"

	"google.golang.org/protobuf/proto"
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

// sendOp is a message, or CloseSend.
type sendOp struct {
	msg   any
	size  int64
	close bool
}

// sharedReplay bounds what the streams of an interceptor keep.
type sharedReplay struct {
	limit int64
	bytes atomic.Int64
}

// add keeps a message, unless that takes more memory than there may be.
func (l *replayLog) add(msg any) bool {
	op := sendOp{msg: msg, size: sizeOf(msg)}
	if l.bytes+op.size > l.limit {
		return false
	}
	if l.shared.bytes.Add(op.size) > l.shared.limit {
		l.shared.bytes.Add(-op.size)
		return false
	}
	l.bytes += op.size
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
		l.bytes -= op.size
		l.shared.bytes.Add(-op.size)
		*op = sendOp{}
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

// sizeOf returns about how much memory it takes to keep a message. A proto message
// is not marshalled for that; those nested in it count as they are encoded.
func sizeOf(msg any) int64 {
	size := int64(unsafe.Sizeof(sendOp{}))
	if m, ok := msg.(proto.Message); ok {
		if t := reflect.TypeOf(msg); t.Kind() == reflect.Pointer {
			size += int64(t.Elem().Size())
		}
		return size + int64(proto.Size(m))
	}
	values := 10_000
	return size + behind(reflect.ValueOf(msg), &values)
}

// unknownSize is more than any limit.
const unknownSize = 1 << 40

// behind returns how much memory a value refers to, looking at no more than the
// given number of values.
func behind(v reflect.Value, values *int) (size int64) {
	if *values--; *values < 0 {
		return unknownSize
	}
	switch v.Kind() {
	case reflect.String:
		return int64(v.Len())
	case reflect.Pointer:
		if !v.IsNil() {
			size = int64(v.Type().Elem().Size()) + behind(v.Elem(), values)
		}
	case reflect.Interface:
		if !v.IsNil() {
			size = int64(v.Elem().Type().Size()) + behind(v.Elem(), values)
		}
	case reflect.Struct:
		for _, f := range v.Fields() {
			size += behind(f, values)
		}
	case reflect.Slice:
		size = int64(v.Cap()) * int64(v.Type().Elem().Size())
		fallthrough
	case reflect.Array:
		for i := 0; i < v.Len() && refers(v.Type().Elem().Kind()) && *values >= 0; i++ {
			size += behind(v.Index(i), values)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next() && *values >= 0; {
			size += int64(v.Type().Key().Size()+v.Type().Elem().Size()) + behind(it.Key(), values) + behind(it.Value(), values)
		}
	default:
	}
	return size
}

func refers(k reflect.Kind) bool { return k >= reflect.Array && k != reflect.UnsafePointer }
