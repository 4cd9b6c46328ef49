package classify

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Idempotency is what is declared about executing a method more than once.
type Idempotency uint8

const (
	// IdempotencyUnknown, the zero value: nothing is declared. An attempt that may have been
	// executed is not repeated.
	IdempotencyUnknown Idempotency = iota
	// NotIdempotent is treated like IdempotencyUnknown, and overrides weaker declarations: a
	// policy can take back what a descriptor says.
	NotIdempotent
	// Idempotent: executing the request twice has the same effect as executing it once.
	// Attempts may be repeated.
	Idempotent
	// NoSideEffects: executing the request has no effect that counts. Attempts
	// may be repeated, and run side by side.
	NoSideEffects
)

var idempotencyNames = [...]string{"unknown", "not-idempotent", "idempotent", "no-side-effects"}

func (i Idempotency) String() string { return name(idempotencyNames[:], int(i)) }

// MarshalText returns the words of String.
func (i Idempotency) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// AllowsRetry reports whether an attempt that may have been executed may be
// repeated.
func (i Idempotency) AllowsRetry() bool { return i == Idempotent || i == NoSideEffects }

// Valid reports whether i is one of the declared values.
func (i Idempotency) Valid() bool { return i <= NoSideEffects }

// DeclaredIdempotency returns the google.protobuf.MethodOptions.idempotency_level of a full
// method name, "/pkg.Service/Method", as declared in the proto files linked into the
// program. It also says whether the method is linked in at all. It is too slow to be called
// for every call: keep the result.
func DeclaredIdempotency(method string) (i Idempotency, found bool) {
	name := strings.Replace(strings.TrimPrefix(method, "/"), "/", ".", 1)
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return IdempotencyUnknown, false
	}
	md, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return IdempotencyUnknown, false
	}
	return DeclaredIdempotencyOf(md), true
}

// DeclaredIdempotencyOf returns the idempotency_level of a method with the given descriptor.
func DeclaredIdempotencyOf(md protoreflect.MethodDescriptor) Idempotency {
	opts, _ := md.Options().(*descriptorpb.MethodOptions)
	switch opts.GetIdempotencyLevel() {
	case descriptorpb.MethodOptions_NO_SIDE_EFFECTS:
		return NoSideEffects
	case descriptorpb.MethodOptions_IDEMPOTENT:
		return Idempotent
	default:
		return IdempotencyUnknown
	}
}
