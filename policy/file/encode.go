package file

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// encode returns m as YAML, in blocks, with the names of the proto file in its order, and with
// the end marker.
func encode(m protoreflect.Message) ([]byte, error) {
	var out bytes.Buffer
	to := yaml.NewEncoder(&out)
	to.SetIndent(2)
	err := to.Encode(fieldsNode(m))
	out.WriteString(endMarker + "\n")
	return out.Bytes(), err
}

// endMarker is the line with which YAML says that a document has ended.
const endMarker = "..."

// isEnded reports whether a YAML document says that it has ended. Comments may follow.
func isEnded(text string) bool {
	lines := strings.Split(text, "\n")
	for _, line := range slices.Backward(lines) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimRight(line, " \t\r")
		if line != "" {
			return line == endMarker
		}
	}
	return false
}

func fieldsNode(m protoreflect.Message) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); m.Has(fd) {
			n.Content = append(n.Content, plain(string(fd.Name())), fieldNode(fd, m.Get(fd)))
		}
	}
	return n
}

func fieldNode(fd protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	if !fd.IsList() {
		return valueNode(fd, v)
	}
	n := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range v.List().Len() {
		n.Content = append(n.Content, valueNode(fd, v.List().Get(i)))
	}
	return n
}

func valueNode(fd protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	switch {
	case hasFields(fd):
		return fieldsNode(v.Message())
	case fd.Message() != nil:
		return plain(durationText(v.Message()))
	case fd.Enum() != nil:
		return plain(string(fd.Enum().Values().ByNumber(v.Enum()).Name()))
	case fd.Kind() == protoreflect.StringKind:
		return text(v.String())
	case fd.Kind() == protoreflect.DoubleKind:
		return plain(strconv.FormatFloat(v.Float(), 'g', -1, 64))
	default:
		return plain(v.String())
	}
}

// plain returns a scalar that needs no quotes.
func plain(text string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: text} }

// text returns a string. The encoder knows when it needs quotes, but not what of all
// that Unicode has survives without.
func text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// durationText returns what proto JSON says for a duration: 0.500s.
func durationText(m protoreflect.Message) string {
	b, err := protojson.Marshal(m.Interface())
	if err != nil {
		return err.Error() // of a set that is not valid
	}
	return strings.Trim(string(b), `"`)
}
