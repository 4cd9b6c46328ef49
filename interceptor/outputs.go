package interceptor

import (
	"reflect"
	"runtime"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// outputs are what grpc writes of an attempt, through private options. They belong to
// grpc until it has said that the attempt has ended, and to an attempt alone: what an
// interceptor has left running writes to them also when its call is long over.
type outputs struct {
	written
	apart  bool                    // what is read is a copy, since grpc may write again
	copied atomic.Pointer[written] // the last one
	phase  atomic.Uint32
	late   func(error) // in phaseLate: what to do at the end
}

// written is what grpc writes.
type written struct {
	header  metadata.MD
	trailer metadata.MD
	peer    peer.Peer
	err     error // that the attempt ended with
}

// The phases of outputs.
const (
	phaseRunning uint32 = iota // they are grpc's
	phaseDone                  // grpc has written them
	phaseLate                  // they are grpc's, and the attempt has returned: an interceptor does early
)

// The private options stand at the start of an attempt's options.
const (
	privateOutputs       = 5 // of a unary call
	privateStreamOutputs = 3 // a stream can be asked for its header and trailer
)

// appendTo appends the options that have grpc write o.
func (o *outputs) appendTo(opts []grpc.CallOption) []grpc.CallOption {
	return append(opts,
		insideOption{},
		grpc.PeerCallOption{PeerAddr: &o.peer},
		grpc.HeaderCallOption{HeaderAddr: &o.header},
		grpc.TrailerCallOption{TrailerAddr: &o.trailer},
		grpc.OnFinishCallOption{OnFinish: o.onFinish})
}

// onFinish is what grpc calls when the attempt has ended, after it has written the rest.
func (o *outputs) onFinish(err error) {
	o.err = err
	if o.apart {
		w := o.written
		o.copied.Store(&w)
	}
	if o.phase.Swap(phaseDone) == phaseLate {
		o.late(err)
	}
}

// read returns what grpc has written, and whether it has ended the attempt. Before that
// it is nothing.
func (o *outputs) read() (w *written, done bool) {
	switch {
	case o.phase.Load() != phaseDone:
		return new(written), false
	case o.apart:
		return o.copied.Load(), true
	}
	return &o.written, true
}

// whenDone calls f with what grpc says at the end of the attempt: now if it has said so,
// else when it does.
func (o *outputs) whenDone(f func(error)) {
	o.late = f
	if !o.phase.CompareAndSwap(phaseRunning, phaseLate) {
		w, _ := o.read()
		f(w.err)
	}
}

// endsInTime reports whether whatever invoker has called has ended when it returns, so
// that what it wrote to can be used again. That is known of grpc's own alone. An
// interceptor below may return early, after it has called grpc more than once; then that
// grpc has ended one call says nothing of the others.
func endsInTime(invoker grpc.UnaryInvoker) bool {
	pc := reflect.ValueOf(invoker).Pointer()
	if pc == knownInvoker.Load() {
		return true
	}
	if f := runtime.FuncForPC(pc); f == nil || f.Name() != "google.golang.org/grpc.invoke" {
		return false
	}
	knownInvoker.Store(pc)
	return true
}

// knownInvoker is the code of grpc's own invoker, once it has been seen.
var knownInvoker atomic.Uintptr
