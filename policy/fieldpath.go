package policy

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// A field path leads to a field of a policy, in the words of files: "retry.backoff.max".
// "retry" leads to all below it. A field is written if it is not zero: what a policy leaves to
// its default cannot be told from what it does not say.

// isField reports whether a path leads to a field of a policy.
func isField(path string) bool {
	md := (*regov1.Policy)(nil).ProtoReflect().Descriptor()
	for part := range strings.SplitSeq(path, ".") {
		if md == nil {
			return false
		}
		fd := md.Fields().ByName(protoreflect.Name(part))
		if fd == nil {
			return false
		}
		md = below(fd)
	}
	return true
}

// below returns what a path can go on into, nil if the field is a value.
func below(fd protoreflect.FieldDescriptor) protoreflect.MessageDescriptor {
	if md := fd.Message(); md != nil && md.FullName() != "google.protobuf.Duration" {
		return md
	}
	return nil
}

// has reports whether a policy has something written at a path.
func has(m protoreflect.Message, path string) bool {
	part, rest, more := strings.Cut(path, ".")
	fd := m.Descriptor().Fields().ByName(protoreflect.Name(part))
	switch {
	case fd == nil || !m.Has(fd):
		return false
	case more:
		return has(m.Get(fd).Message(), rest)
	}
	return true
}

// take sets in m what another policy has written at a path.
func take(m, from protoreflect.Message, path string) {
	part, rest, more := strings.Cut(path, ".")
	fd := m.Descriptor().Fields().ByName(protoreflect.Name(part))
	switch {
	case fd == nil || !from.Has(fd):
	case below(fd) == nil:
		m.Set(fd, from.Get(fd))
	case more:
		take(m.Mutable(fd).Message(), from.Get(fd).Message(), rest)
	default:
		to, of := m.Mutable(fd).Message(), from.Get(fd).Message()
		fields := to.Descriptor().Fields()
		for i := range fields.Len() {
			take(to, of, string(fields.Get(i).Name()))
		}
	}
}

// Overridden returns p with those of the fields that by has written. The fields are named as
// in [Limits]. Both policies are as they were written, without defaults, and so is the
// result. It may be invalid.
func (p Policy) Overridden(by Policy, fields []string) Policy {
	m, from := p.proto().ProtoReflect(), by.proto().ProtoReflect()
	for _, path := range fields {
		take(m, from, path)
	}
	return policyFrom(m.Interface().(*regov1.Policy), new(faults)) //nolint:forcetypeassert // it is p's
}

// Writes returns which of the fields p has written, one for each value: "retry.off", and not
// "retry". Without arguments it looks at all fields.
func (p Policy) Writes(fields ...string) []string {
	var names []string
	for _, f := range p.Fields() {
		if f.Written && (len(fields) == 0 || isWithin(f.Name, fields)) {
			names = append(names, f.Name)
		}
	}
	return names
}

// isWithin reports whether a path leads to one of the fields, or below it.
func isWithin(path string, fields []string) bool {
	for _, f := range fields {
		if path == f || strings.HasPrefix(path, f+".") {
			return true
		}
	}
	return false
}
