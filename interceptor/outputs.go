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
	inside insideOption
	apart  bool                    // an interceptor is below, and grpc may write again: what is read is a copy
	copied atomic.Pointer[written] // the last one
	ends   atomic.Int32            // how often grpc has ended, with apart
	phase  atomic.Uint32
	late   func(error) // in phaseLate: what to do at the end
}

// grpc fills these as it does those that they embed. Interceptors below, which fill,
// replace and remove outputs by their types, leave them alone.
type (
	privatePeer    struct{ grpc.PeerCallOption }
	privateHeader  struct{ grpc.HeaderCallOption }
	privateTrailer struct{ grpc.TrailerCallOption }
)

// written is what grpc writes.
type written struct {
	shown   *written // what interceptors below have seen of it; nil if the caller wants nothing
	header  metadata.MD
	trailer metadata.MD
	peer    peer.Peer
	err     error // that the attempt ended with
}

// nothingWritten is only read.
var nothingWritten written

// isEmpty reports whether nothing has been written.
func (w *written) isEmpty() bool { return w.peer.Addr == nil && w.header == nil && w.trailer == nil }

// The phases of outputs.
const (
	phaseRunning uint32 = iota // they are grpc's
	phaseDone                  // grpc has written them
	phaseLate                  // they are grpc's, and the attempt has returned: an interceptor does early
)

// privateOutputs is how many private options stand at the start of an attempt's options.
const privateOutputs = 5

// appendTo appends the options that have grpc write o.
func (o *outputs) appendTo(opts []grpc.CallOption) []grpc.CallOption {
	return append(opts,
		&o.inside,
		privatePeer{grpc.PeerCallOption{PeerAddr: &o.peer}},
		privateHeader{grpc.HeaderCallOption{HeaderAddr: &o.header}},
		privateTrailer{grpc.TrailerCallOption{TrailerAddr: &o.trailer}},
		grpc.OnFinishCallOption{OnFinish: o.onFinish})
}

// onFinish is what grpc calls when the attempt has ended, after it has written the rest.
func (o *outputs) onFinish(err error) {
	o.err = err
	if o.apart {
		o.ends.Add(1)
		w := o.written
		if w.shown != nil {
			shown := *w.shown
			w.shown = &shown
		}
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
		return &nothingWritten, false
	case o.apart:
		return o.copied.Load(), true
	}
	return &o.written, true
}

// tell reports whether what grpc has written is of an attempt that returned err. An
// interceptor below may have called grpc more than once, or return something else than
// what became of that.
func (o *outputs) tell(err error) bool {
	w, done := o.read()
	switch {
	case !done || !o.apart:
		return done
	case o.ends.Load() != 1:
		return false
	}
	return isSameEnd(err, w.err)
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
func endsInTime(invoker grpc.UnaryInvoker) bool { return grpcInvoker.is(invoker) }

// isGRPCsOwn reports the same of a streamer: whoever it calls is grpc, which tells the end
// of a stream before anything of it returns.
func isGRPCsOwn(streamer grpc.Streamer) bool { return grpcStreamer.is(streamer) }

var (
	grpcInvoker  = grpcFunc{name: "google.golang.org/grpc.invoke"}
	grpcStreamer = grpcFunc{name: "google.golang.org/grpc.newClientStream"}
)

// grpcFunc is a function of grpc's that is not exported.
type grpcFunc struct {
	name string
	code atomic.Uintptr // once it has been seen
}

func (g *grpcFunc) is(f any) bool {
	pc := reflect.ValueOf(f).Pointer()
	if pc == g.code.Load() {
		return true
	}
	if f := runtime.FuncForPC(pc); f == nil || f.Name() != g.name {
		return false
	}
	g.code.Store(pc)
	return true
}
