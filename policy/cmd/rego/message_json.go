package main

import (
	"encoding/hex"
	"math"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// object is what a command prints as JSON of a message: the fields of its proto file, which are
// part of the promise. Numbers are numbers, also those of 64 bits, bytes are hexadecimal, values of
// enums have the names of the proto file, times are RFC 3339, and durations are such as 1.5s. What
// is no message is always there. A message that is absent is null.
type object map[string]any

func objectOf(m proto.Message) object {
	if m == nil || !m.ProtoReflect().IsValid() {
		return nil
	}
	o := make(object)
	of := m.ProtoReflect()
	fields := of.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		o[string(fd.Name())] = jsonOf(fd, of.Get(fd), of.Has(fd))
	}
	return o
}

func jsonOf(fd protoreflect.FieldDescriptor, v protoreflect.Value, has bool) any {
	switch {
	case fd.IsMap():
		all := make(map[string]any)
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			all[k.String()] = scalarOf(fd.MapValue(), v)
			return true
		})
		return all
	case fd.IsList():
		all := make([]any, v.List().Len())
		for i := range all {
			all[i] = scalarOf(fd, v.List().Get(i))
		}
		return all
	case fd.Message() != nil && !has:
		return nil
	}
	return scalarOf(fd, v)
}

func scalarOf(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case fd.Message() != nil:
		switch m := v.Message().Interface().(type) {
		case *timestamppb.Timestamp, *durationpb.Duration:
			b, err := protojson.Marshal(m)
			if err != nil {
				return nil // out of the range of years that there are
			}
			return string(b[1 : len(b)-1])
		default:
			return objectOf(m)
		}
	case fd.Enum() != nil:
		if value := fd.Enum().Values().ByNumber(v.Enum()); value != nil {
			return string(value.Name())
		}
		return int32(v.Enum())
	case fd.Kind() == protoreflect.BytesKind:
		return hex.EncodeToString(v.Bytes())
	case fd.Kind() == protoreflect.DoubleKind:
		if x := v.Float(); math.IsNaN(x) || math.IsInf(x, 0) {
			return nil // JSON has no such numbers
		}
	}
	return v.Interface()
}
