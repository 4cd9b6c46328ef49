package interceptor

import (
	"reflect"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Attempts that run side by side have replies of their own. That of the attempt
// that decides is moved into the caller's, once no other can write to it.

// replies makes replies like the caller's. It looks at what that holds before the
// first attempt only: then attempts write it.
type replies struct {
	message protoreflect.MessageType // nil for what is no proto message
	other   reflect.Type             // what the caller's reply points to
}

func (r replies) make() any {
	if r.message != nil {
		return r.message.New().Interface()
	}
	return reflect.New(r.other).Interface()
}

// repliesLike reports also whether there can be more replies like the given one.
// Of a type that is no proto message there can if it is a pointer to a zero
// value: a codec may add to what is there, so a zero one would not do for another.
func (m *method) repliesLike(reply any) (replies, bool) {
	k := m.replies.Load()
	if t := reflect.TypeOf(reply); k == nil || k.of != t {
		k = newReplyKind(t)
		m.replies.Store(k)
	}
	switch {
	case k.message:
		return replies{message: reply.(proto.Message).ProtoReflect().Type()}, true
	case k.pointer:
		v := reflect.ValueOf(reply)
		return replies{other: k.of.Elem()}, !v.IsNil() && v.Elem().IsZero()
	}
	return replies{}, false
}

// replyKind is what a type tells of how to make another reply.
type replyKind struct {
	of               reflect.Type
	message, pointer bool
}

// newReplyKind does not take a type that embeds others for a message: it may
// have the methods of one, which know nothing of what is around it.
func newReplyKind(t reflect.Type) *replyKind {
	k := &replyKind{of: t}
	if t == nil || t.Kind() != reflect.Pointer {
		return k
	}
	if !t.Implements(reflect.TypeFor[proto.Message]()) {
		k.pointer = true
		return k
	}
	k.message = true
	for i := 0; t.Elem().Kind() == reflect.Struct && i < t.Elem().NumField(); i++ {
		k.message = k.message && !t.Elem().Field(i).Anonymous
	}
	return k
}

// moveReply makes to what from is. From must not be used afterwards: of types
// that are no proto messages the copy is shallow.
func moveReply(to, from any) {
	if m, ok := from.(proto.Message); ok {
		proto.Reset(to.(proto.Message))
		proto.Merge(to.(proto.Message), m)
		return
	}
	reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from).Elem())
}

// resetReply empties a reply before another attempt writes it.
func resetReply(reply any) {
	if m, ok := reply.(proto.Message); ok {
		proto.Reset(m)
		return
	}
	if v := reflect.ValueOf(reply); v.Kind() == reflect.Pointer && !v.IsNil() {
		v.Elem().SetZero()
	}
}
