// Package replay is what the application did to send on a stream, so that other attempts can
// do it again.
//
// What is kept of a message is how it was encoded when it was sent, as grpc's own retries
// keep it (package codec). So an application may change a message once SendMsg has returned,
// sizes are exact, and messages of every type can be sent again. Interceptors below get the
// application's message as it is sent. Of a proto message that is sent again they get a copy,
// made from the encoding: the application's own may hold something else by then. What another
// codec can decode is not known, so there they get the application's own again.
//
// A message is mostly kept before it has been encoded: it is pending until the first attempt
// has sent it and grpc has asked for its encoding, which is then filled in. Several attempts
// may send a message that is hedged, so there it is encoded ahead of them, and what
// interceptors below change in their copy is encoded once more.
package replay

import (
	"sync/atomic"

	"google.golang.org/grpc/mem"

	"github.com/rego-go/rego/internal/codec"
)

// Log is what the application did on one stream, in places from 0 on: all of it until the
// stream is committed to an attempt, and then what that has not sent yet. Each attempt
// remembers the place up to which it has sent.
//
// Begin comes first. The lock of the stream guards the log, but for what says otherwise.
type Log struct {
	config Config

	ops    []Op
	kept   int  // ops before it have been forgotten
	closed bool // the last one is CloseSend
	bytes  int64

	first [2]Op // what a server stream needs
}

// Config is what a log goes by.
type Config struct {
	Codec *codec.Codec // of the stream. If it is nil, no message is kept
	Shown bool         // interceptors below see the messages

	Limit  int64         // the most bytes that the log keeps
	Memory *Memory       // of which it takes them
	Method *atomic.Int64 // counts them, for the streams of one method
}

// Memory bounds what the logs that share it keep.
type Memory struct {
	limit int64
	bytes atomic.Int64
}

// NewMemory returns memory of so many bytes.
func NewMemory(limit int64) *Memory { return &Memory{limit: limit} }

// Limit is the most bytes that there may be.
func (m *Memory) Limit() int64 { return m.limit }

// Bytes is how many are taken.
func (m *Memory) Bytes() int64 { return m.bytes.Load() }

// Begin makes a log that is empty ready.
func (l *Log) Begin(c Config) { l.config = c }

// Len is the place of what comes next. It is 0 again once all has been given up.
func (l *Log) Len() int { return len(l.ops) }

// IsClosed reports whether the application has closed.
func (l *Log) IsClosed() bool { return l.closed }

// IsPending reports whether the encoding of what is at a place is not known yet.
func (l *Log) IsPending(place int) bool { return l.ops[place].pending }

// Take returns what is at a place, which stays valid if the log is given up. Who takes it
// frees it.
func (l *Log) Take(place int) Op {
	op := l.ops[place]
	op.data.Ref()
	return op
}

// Append keeps a message and returns its place, unless that takes more memory than there may
// be.
func (l *Log) Append(op Op) (place int, fits bool) {
	if !l.grow(op.size()) {
		return 0, false
	}
	l.append(op)
	return len(l.ops) - 1, true
}

// Close keeps that the application has closed.
func (l *Log) Close() {
	l.closed = true
	l.append(Op{closes: true})
}

func (l *Log) append(op Op) {
	if l.ops == nil {
		l.ops = l.first[:0]
	}
	outgrown := len(l.ops) == len(l.first)
	l.ops = append(l.ops, op)
	if outgrown {
		clear(l.first[:]) // would hold on to what they are copies of
	}
}

func (l *Log) grow(size int64) bool {
	if l.bytes+size > l.config.Limit {
		return false
	}
	if m := l.config.Memory; m.bytes.Add(size) > m.limit {
		m.bytes.Add(-size)
		return false
	}
	l.bytes += size
	l.config.Method.Add(size)
	return true
}

// Fill puts in how a message was encoded that was pending. It reports false if that does not
// fit; then the message cannot be sent again.
func (l *Log) Fill(place int, msg any, data mem.BufferSlice) (fits bool) {
	if place >= len(l.ops) || !l.ops[place].pending { // it has been given up
		data.Free()
		return true
	}
	op := &l.ops[place]
	op.pending = false
	if !l.grow(int64(data.Len())) {
		data.Free()
		return false
	}
	op.data, op.shows = data, l.shows(msg)
	return true
}

// Sent notes that an attempt has sent what is at a place: the application may have something
// else in its message from now on.
func (l *Log) Sent(place int) {
	if place < len(l.ops) && l.ops[place].inHand {
		op := &l.ops[place]
		op.shows, op.inHand = l.shows(op.shows), false
	}
}

// Forget gives up what is before a place, if it has not been given up.
func (l *Log) Forget(before int) {
	for ; l.kept < min(before, len(l.ops)); l.kept++ {
		op := &l.ops[l.kept]
		if !op.closes {
			l.shrink(op.size())
			op.data.Free()
		}
		*op = Op{closes: op.closes}
	}
	if before == len(l.ops) && before > len(l.first) {
		l.ops = make([]Op, 0) // of a stream with many messages the array, too
		l.kept = 0
	}
}

func (l *Log) shrink(size int64) {
	l.bytes -= size
	l.config.Memory.bytes.Add(-size)
	l.config.Method.Add(-size)
}

// Clear gives up all.
func (l *Log) Clear() {
	l.Forget(len(l.ops))
	l.ops, l.kept = nil, 0
}

// Restart makes the log that of an application which has sent one message and closed. If that
// does not fit, it reports false and leaves the log as it is.
func (l *Log) Restart(op Op) (fits bool) {
	anew := Log{config: l.config} // what there was goes, and does not count here
	if !anew.grow(op.size()) {
		return false
	}
	l.Clear()
	l.bytes = anew.bytes
	l.append(op)
	l.Close()
	return true
}
