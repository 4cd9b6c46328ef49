// Package wirebound looks at the wire form of a rego.v1.Set before it is unmarshalled. Two
// bytes can be an empty rule, which takes a hundred in memory: 16 MiB of them would be 500 MB.
// What exceeds a bound is refused here, at the cost of reading it once.
package wirebound

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// The bounds of a set.
const (
	// MaxRules bounds rules, their methods together, and budgets. It is policy.MaxRules.
	MaxRules = 100_000
	// MaxCodes bounds what a rule lists besides its methods: there are 17 codes.
	MaxCodes = 64
	// MaxElements bounds the messages and the elements of lists in all. A rule with
	// everything that a policy can have is fewer than 20.
	MaxElements = 2_000_000
	// MaxUnknown bounds fields that are not known, each of which is a fault to report.
	MaxUnknown = 1000
	// maxDepth is more than any message of a set has.
	maxDepth = 16
)

// Check returns why b, the wire form of a rego.v1.Set, should not be unmarshalled: it exceeds
// a bound or is no protobuf. Parts are those of one message if it comes in several, which
// are merged then. Memory and time of Check do not depend on what is in b but for its length.
func Check(parts ...[]byte) error {
	w := walker{}
	md := new(regov1.Set).ProtoReflect().Descriptor()
	for _, b := range parts {
		if err := w.message(b, md, maxDepth); err != nil {
			return err
		}
	}
	return nil
}

// CheckWithin returns the same of b, the wire form of a message that has sets in it, or is one.
func CheckWithin(b []byte, md protoreflect.MessageDescriptor) error {
	w := walker{}
	return w.message(b, md, maxDepth)
}

type walker struct {
	elements, unknown       int
	rules, methods, budgets int
	inRule                  int // elements of other lists, in the rule or budget at hand
}

var errWire = errors.New("is not protobuf, or cut off")

func (w *walker) message(b []byte, md protoreflect.MessageDescriptor, depth int) error {
	if depth == 0 {
		return fmt.Errorf("has messages more than %d deep", maxDepth)
	}
	fields := md.Fields()
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(number, wire, b)
		if size < 0 {
			return errWire
		}
		value := b[:size]
		b = b[size:]
		if err := w.field(fields.ByNumber(number), wire, value, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) field(fd protoreflect.FieldDescriptor, wire protowire.Type, value []byte, depth int) error {
	if fd == nil {
		if w.unknown++; w.unknown > MaxUnknown {
			return fmt.Errorf("has more than %d fields that are not known to this version", MaxUnknown)
		}
		return nil
	}
	if fd.IsList() {
		if err := w.list(fd, count(fd, wire, value)); err != nil {
			return err
		}
	}
	if fd.Message() == nil || wire != protowire.BytesType {
		return nil
	}
	if w.elements++; w.elements > MaxElements {
		return fmt.Errorf("has more than %d messages and elements of lists", MaxElements)
	}
	inner, _ := protowire.ConsumeBytes(value)
	return w.message(inner, fd.Message(), depth-1)
}

// list counts n more elements of a list.
func (w *walker) list(fd protoreflect.FieldDescriptor, n int) error {
	in := func(what string, have *int, most int) error {
		if *have += n; *have > most {
			return fmt.Errorf("has more than %d %s", most, what)
		}
		return nil
	}
	var err error
	switch fd.FullName() {
	case "rego.v1.Set.rules":
		w.inRule = 0
		err = in("rules", &w.rules, MaxRules)
	case "rego.v1.Set.budgets":
		w.inRule = 0
		err = in("budgets", &w.budgets, MaxRules)
	case "rego.v1.Rule.methods":
		err = in("methods", &w.methods, MaxRules)
	default:
		err = in(string(fd.Name())+" in one rule", &w.inRule, MaxCodes)
	}
	if err == nil && fd.Message() == nil {
		err = in("messages and elements of lists", &w.elements, MaxElements)
	}
	return err
}

// count returns how many elements a field of a list has.
func count(fd protoreflect.FieldDescriptor, wire protowire.Type, value []byte) int {
	if wire != protowire.BytesType || fd.Kind() == protoreflect.StringKind || fd.Kind() == protoreflect.BytesKind || fd.Message() != nil {
		return 1
	}
	packed, _ := protowire.ConsumeBytes(value)
	switch fd.Kind() {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return len(packed) / 4
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return len(packed) / 8
	}
	n := 0
	for _, c := range packed {
		if c < 0x80 { // the last byte of a varint
			n++
		}
	}
	return n
}
