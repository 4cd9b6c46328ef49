package file

import (
	"math"
	"math/bits"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// decoder reads a message from a tree. It goes on after a fault, to tell them all.
//
// buf.build/go/protoyaml v0.7.0 would do much of that, but it panics on a lone carriage
// return, misses fields given twice and further documents, and brings CEL along.
type decoder struct {
	root *yaml.Node
	json bool // null is no value, strings have quotes, and durations are in seconds

	path   []step // where it is
	faults policy.Faults
}

// step leads to a field, or to an element of a list.
type step struct {
	field string
	index int        // of an element, whose field is empty
	node  *yaml.Node // what faults point at
}

// decode returns as much of a subject as could be read from a tree.
func decode[V any](d *decoder, s *subject[V]) (V, policy.Faults) {
	m := s.message()
	if d.usable(d.root) {
		d.message(d.root, m.ProtoReflect())
	}
	v, faults := s.check(m)
	if d.full() {
		return v, inOrder(d.faults)
	}
	for i, f := range d.faults {
		d.faults[i].Policy = policyAt(m, f.Path)
	}
	return v, inOrder(append(d.faults, d.place(unrelated(faults, d.faults), s.descriptor())...))
}

// policyAt returns the name of the policy that a path leads into; empty if it does not.
func policyAt(m proto.Message, path string) string {
	set, ok := m.(*regov1.Set)
	i, rest, _ := strings.Cut(strings.TrimPrefix(path, "rules["), "].")
	n, err := strconv.Atoi(i)
	if !ok || err != nil || n >= len(set.GetRules()) || !strings.HasPrefix(rest, "policy.") {
		return ""
	}
	return set.GetRules()[n].GetPolicy().GetName()
}

func (d *decoder) message(n *yaml.Node, m protoreflect.Message) {
	if n.Kind != yaml.MappingNode {
		hint := ""
		if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, ":") {
			hint = `: is a space missing after a colon?`
		}
		d.fault("must have fields, got %s%s", shown(n), hint)
		return
	}
	fields := m.Descriptor().Fields()
	var seen uint64 // by index; a test holds that no message has more
	for i := 0; i+1 < len(n.Content) && !d.full(); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		fd := fieldOf(fields, key)
		if fd == nil {
			d.enter(step{field: shownKey(key), node: key})
			d.fault("unknown field, must be one of %s%s", names(fields), meant(key.Value, fields))
			d.leave()
			continue
		}
		d.enter(step{field: string(fd.Name()), node: standing(key, value)})
		if bit := uint64(1) << fd.Index(); seen&bit == 0 {
			seen |= bit
			d.field(fd, value, m)
		} else {
			d.fault("is given twice")
		}
		d.leave()
	}
}

func (d *decoder) field(fd protoreflect.FieldDescriptor, n *yaml.Node, m protoreflect.Message) {
	if d.null(n) {
		return
	}
	if one := fd.ContainingOneof(); one != nil && m.WhichOneof(one) != nil {
		d.fault("must not be set beside %s", m.WhichOneof(one).Name())
		return
	}
	var at protoreflect.Value
	if fd.IsList() || hasFields(fd) {
		at = m.Mutable(fd) // a message is there, whatever is wrong with it
	}
	switch {
	case !d.usable(n):
	case fd.IsList():
		d.list(fd, n, at.List())
	case hasFields(fd):
		d.message(n, at.Message())
	default:
		if v, ok := d.scalar(fd, n); ok {
			m.Set(fd, v)
		}
	}
}

// list appends an element for each of n, also for those with faults: so the others
// keep their numbers.
func (d *decoder) list(fd protoreflect.FieldDescriptor, n *yaml.Node, to protoreflect.List) {
	if n.Kind != yaml.SequenceNode {
		d.fault("must be a list, got %s", shown(n))
		return
	}
	for i, e := range n.Content {
		if d.full() {
			return
		}
		d.enter(step{index: i, node: e})
		v := to.NewElement()
		switch {
		case d.null(e):
			d.fault("must not be null")
		case !d.usable(e):
		case hasFields(fd):
			d.message(e, v.Message())
		default:
			if got, ok := d.scalar(fd, e); ok {
				v = got
			}
		}
		to.Append(v)
		d.leave()
	}
}

// null reports whether n says that there is no value, as JSON can.
func (d *decoder) null(n *yaml.Node) bool { return d.json && n.Tag == "!!null" }

// usable reports whether n has a value that can be read.
func (d *decoder) usable(n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		d.fault("aliases are not supported: write out what %s stands for", short("*"+n.Value))
	case n.Style&yaml.TaggedStyle != 0:
		d.fault("tags are not supported, got %s", short(n.Tag))
	case n.Tag == "!!null":
		d.fault("has no value: give it one, or leave it out")
	default:
		return true
	}
	return false
}

// scalar returns the value that n spells, or adds a fault.
func (d *decoder) scalar(fd protoreflect.FieldDescriptor, n *yaml.Node) (protoreflect.Value, bool) {
	if n.Kind == yaml.ScalarNode {
		if v, ok := d.value(fd, n); ok {
			return v, true
		}
	}
	d.fault("must be %s, got %s%s", wanted(fd), shown(n), d.hint(fd, n))
	return protoreflect.Value{}, false
}

// hint says what is wrong with a value that people would have taken for right.
func (d *decoder) hint(fd protoreflect.FieldDescriptor, n *yaml.Node) string {
	switch {
	case n.Kind != yaml.ScalarNode:
		return ""
	case fd.Kind() == protoreflect.EnumKind:
		return meant(n.Value, fd.Enum().Values())
	case fd.Kind() != protoreflect.MessageKind:
		return ""
	case isFiner(n.Value):
		return ": it is finer than a nanosecond"
	case d.json && otherUnits.MatchString(n.Value):
		return ": JSON has no unit but s"
	case n.Tag == "!!int", n.Tag == "!!float":
		return ": a unit is missing"
	}
	return ""
}

func (d *decoder) value(fd protoreflect.FieldDescriptor, n *yaml.Node) (v protoreflect.Value, ok bool) {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n.Value == "true"), n.Tag == "!!bool" && (n.Value == "true" || n.Value == "false")
	case protoreflect.Int32Kind:
		i, err := strconv.ParseInt(whole(n.Value), 10, 32)
		return protoreflect.ValueOfInt32(int32(i)), err == nil
	case protoreflect.Uint64Kind:
		i, err := strconv.ParseUint(whole(n.Value), 10, 64)
		return protoreflect.ValueOfUint64(i), err == nil
	case protoreflect.DoubleKind:
		f, err := strconv.ParseFloat(n.Value, 64)
		return protoreflect.ValueOfFloat64(f), err == nil && numeral.MatchString(n.Value)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(n.Value), !d.json || n.Tag == "!!str"
	case protoreflect.EnumKind:
		if named := fd.Enum().Values().ByName(protoreflect.Name(n.Value)); named != nil {
			return protoreflect.ValueOfEnum(named.Number()), true
		}
		i, err := strconv.ParseInt(whole(n.Value), 10, 32)
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(i)), err == nil && n.Tag != "!!str"
	case protoreflect.MessageKind:
		t, ok := d.duration(n.Value)
		return protoreflect.ValueOfMessage(durationpb.New(t).ProtoReflect()), ok
	default: // A test holds that there is none.
		return v, false
	}
}

func wanted(fd protoreflect.FieldDescriptor) string {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.Int32Kind, protoreflect.Uint64Kind:
		return "a whole number"
	case protoreflect.DoubleKind:
		return "a number"
	case protoreflect.EnumKind:
		return "one of " + names(fd.Enum().Values())
	case protoreflect.MessageKind:
		return "a duration such as 1.5s"
	default:
		return "a string"
	}
}

// numeral is a number as JSON has them: no hexadecimal, no infinity.
var numeral = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// whole returns a whole number in plain digits, 400 for 4e2, and of anything else what
// does not parse.
func whole(text string) string {
	if !numeral.MatchString(text) {
		return ""
	}
	if !strings.ContainsAny(text, ".eE") {
		return text
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) {
		return ""
	}
	return strconv.FormatFloat(f, 'f', 0, 64)
}

var seconds = regexp.MustCompile(`^[-+]?[0-9]*\.?[0-9]*s$`)

func (d *decoder) duration(text string) (time.Duration, bool) {
	if text == "0" || d.json && !seconds.MatchString(text) {
		return 0, false
	}
	t, err := time.ParseDuration(text)
	return t, err == nil && !isFiner(text)
}

var otherUnits = regexp.MustCompile(`^[-+]?([0-9]*\.?[0-9]*(ns|us|µs|μs|ms|s|m|h))+$`)

// isFiner reports whether a duration has decimals that are no whole number of nanoseconds,
// which time.ParseDuration drops.
func isFiner(text string) bool {
	for {
		_, rest, ok := strings.Cut(text, ".")
		if !ok {
			return false
		}
		text = strings.TrimLeft(rest, "0123456789")
		unit, err := time.ParseDuration("1" + text[:len(text)-len(strings.TrimLeft(text, "nuµμmsh"))])
		if err != nil {
			return false // it is no duration
		}
		decimals := strings.TrimRight(rest[:len(rest)-len(text)], "0")
		n, err := strconv.ParseUint("0"+decimals, 10, 64)
		if err != nil || len(decimals) > 18 { // no unit has so many
			return true
		}
		hi, lo := bits.Mul64(n, uint64(unit))
		if one := uint64(math.Pow10(len(decimals))); bits.Rem64(hi, lo, one) != 0 {
			return true
		}
	}
}

// hasFields reports whether fd is a message that is written with its fields, or a
// list of them.
func hasFields(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && fd.Message().FullName() != "google.protobuf.Duration"
}
