package interceptor

import (
	"google.golang.org/grpc"

	"github.com/rego-go/rego/internal/codec"
)

// Replayed is how much memory streams keep for replay.
func (it *Interceptor) Replayed() int64 { return it.replay.Bytes() }

// Asked has the codec that an attempt of a stream brings asked for an encoding, as grpc
// does.
func Asked(opts []grpc.CallOption, msg any) {
	for _, o := range opts {
		if o, ok := o.(*codec.Option); ok {
			_, _ = o.CodecV2.Marshal(msg)
		}
	}
}
