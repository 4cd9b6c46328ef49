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
	switch k := m.kindOf(reply); {
	case k.message:
		return replies{message: reply.(proto.Message).ProtoReflect().Type()}, true
	case k.pointer:
		return replies{other: k.of.Elem()}, !reflect.ValueOf(reply).IsNil() && k.isEmpty(reply)
	}
	return replies{}, false
}

// kindOf looks up what has been found out about the type of a reply.
func (m *method) kindOf(reply any) *replyKind {
	k := m.replies.Load()
	if t := reflect.TypeOf(reply); k == nil || k.of != t {
		k = newReplyKind(t)
		m.replies.Store(k)
	}
	return k
}

// replyKind is what a type tells of how to make another reply, and to empty one.
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

// isEmpty reports whether a reply is as if it had just been made.
func (k *replyKind) isEmpty(reply any) bool {
	switch {
	case k.message:
		return proto.Size(reply.(proto.Message)) == 0
	case k.pointer:
		v := reflect.ValueOf(reply)
		return v.IsNil() || v.Elem().IsZero()
	}
	return reply == nil
}

// empty makes a reply what it was when it had just been made.
func (k *replyKind) empty(reply any) {
	switch {
	case k.message:
		proto.Reset(reply.(proto.Message))
	case k.pointer:
		if v := reflect.ValueOf(reply); !v.IsNil() {
			v.Elem().SetZero()
		}
	}
}

// move makes to what from is. From must not be used afterwards: of types
// that are no proto messages the copy is shallow.
func (k *replyKind) move(to, from any) {
	if k.message {
		proto.Reset(to.(proto.Message))
		proto.Merge(to.(proto.Message), from.(proto.Message))
		return
	}
	reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from).Elem())
}

// mayHaveReply reports whether an attempt that has ended may have written its reply: not
// if its server has sent a status and nothing else. What grpc has written tells that only
// if nobody between has called it more than once.
func mayHaveReply(a *attempt) bool {
	return a.seen.Err == nil || !a.done || a.outputs.apart || a.got.header != nil
}
