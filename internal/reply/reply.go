// Package reply is about what an attempt receives into. Attempts that run side by side have
// replies of their own. That of the attempt that decides is moved into the caller's, once no
// other can write to it.
package reply

import (
	"reflect"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Kinds is what is known of the replies of a method. Those are mostly of one type, so it
// remembers the last. The zero Kinds is ready, and safe for concurrent use.
type Kinds struct{ last atomic.Pointer[Kind] }

// Of returns the kind of a reply.
func (k *Kinds) Of(reply any) *Kind {
	last := k.last.Load()
	if t := reflect.TypeOf(reply); last == nil || last.of != t {
		last = newKind(t)
		k.last.Store(last)
	}
	return last
}

// Kind is what a type tells of how to make another reply, and to empty one.
type Kind struct {
	of               reflect.Type
	message, pointer bool
}

// newKind does not take a type that embeds others for a message: it may
// have the methods of one, which know nothing of what is around it.
func newKind(t reflect.Type) *Kind {
	k := &Kind{of: t}
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

// Maker makes replies like the caller's. It has looked at what that holds before the
// first attempt only: then attempts write it.
type Maker struct {
	message protoreflect.MessageType // nil for what is no proto message
	other   reflect.Type             // what the caller's reply points to
}

// Make returns a reply that nobody has written to.
func (m Maker) Make() any {
	if m.message != nil {
		return m.message.New().Interface()
	}
	return reflect.New(m.other).Interface()
}

// Like returns what makes more replies like one of the kind, and reports whether there can be.
// Of a type that is no proto message there can if it is a pointer to a zero
// value: a codec may add to what is there, so a zero one would not do for another.
func (k *Kind) Like(reply any) (m Maker, ok bool) {
	switch {
	case k.message:
		return Maker{message: reply.(proto.Message).ProtoReflect().Type()}, true
	case k.pointer:
		return Maker{other: k.of.Elem()}, !reflect.ValueOf(reply).IsNil() && k.IsEmpty(reply)
	}
	return Maker{}, false
}

// IsEmpty reports whether a reply is as if it had just been made.
func (k *Kind) IsEmpty(reply any) bool {
	switch {
	case k.message:
		return proto.Size(reply.(proto.Message)) == 0
	case k.pointer:
		v := reflect.ValueOf(reply)
		return v.IsNil() || v.Elem().IsZero()
	}
	return reply == nil
}

// Empty makes a reply what it was when it had just been made.
func (k *Kind) Empty(reply any) {
	switch {
	case k.message:
		proto.Reset(reply.(proto.Message))
	case k.pointer:
		if v := reflect.ValueOf(reply); !v.IsNil() {
			v.Elem().SetZero()
		}
	}
}

// Copy returns a deep copy of a reply, or nil if it is no proto message.
func (k *Kind) Copy(reply any) any {
	if !k.message {
		return nil
	}
	return proto.Clone(reply.(proto.Message))
}

// Move makes to what from is. From must not be used afterwards, but for a proto
// message: of other types the copy is shallow.
func (k *Kind) Move(to, from any) {
	if k.message {
		proto.Reset(to.(proto.Message))
		proto.Merge(to.(proto.Message), from.(proto.Message))
		return
	}
	reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from).Elem())
}
