package file

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

const (
	// maxFaults is how many are told at once.
	maxFaults = 100
	// maxMarks bounds the memory that a tree takes, which is some 200 bytes for each
	// of its nodes, and each takes a mark in the file.
	maxMarks = 1 << 20
)

// parseTree returns a decoder of the only document in data, or its fault.
func parseTree(data []byte) (*decoder, policy.Faults) {
	marks := 0
	for _, mark := range []string{",", ":", "-", "?", "[", "{"} {
		marks += bytes.Count(data, []byte(mark))
	}
	if marks > maxMarks {
		return nil, fault("is too large: must have at most %d of the marks , : - ? [ {, got %d", maxMarks, marks)
	}
	in := yaml.NewDecoder(bytes.NewReader(data))
	var document, next yaml.Node
	err := in.Decode(&document)
	if errors.Is(err, io.EOF) || err == nil && isNothing(document.Content[0]) {
		return nil, fault(isEmpty)
	}
	if err != nil {
		return nil, yamlFault(err, data)
	}
	switch err := in.Decode(&next); {
	case err == nil:
		return nil, policy.Faults{{Line: next.Line, Column: next.Column, Text: "must be the only document"}}
	case !errors.Is(err, io.EOF):
		return nil, yamlFault(err, data)
	}
	return &decoder{root: document.Content[0]}, nil
}

func isNothing(n *yaml.Node) bool { return n.Tag == "!!null" && n.Value == "" }

// yamlFault returns the fault in the syntax of data that err says. Of its place, yaml
// tells the line at most.
func yamlFault(err error, data []byte) policy.Faults {
	f := lined(err)
	if f.Line == 0 { // of the first line it does not, so here is another one
		if g := lined(yaml.Unmarshal(append([]byte{'\n'}, data...), new(yaml.Node))); g.Text == f.Text {
			f.Line = max(g.Line-1, 0)
		}
	}
	if f.Line > 0 {
		f.Column = 1
	}
	return policy.Faults{f}
}

var (
	yamlLine = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?`)
	// fromZero matches what yaml's parser finds, and not its scanner. It counts lines
	// from zero.
	fromZero = regexp.MustCompile(`^did not find expected (<document start>|node content|'-' indicator|key|',' or .*)$`)
)

func lined(err error) (f policy.Fault) {
	if err == nil {
		return f
	}
	at := yamlLine.FindStringSubmatch(err.Error())
	if at == nil {
		return policy.Fault{Text: err.Error()}
	}
	f.Text = err.Error()[len(at[0]):]
	f.Line, _ = strconv.Atoi(at[1]) // zero if there is none
	if f.Line > 0 && fromZero.MatchString(f.Text) {
		f.Line++
	}
	return f
}

// syntaxFault returns what makes data no JSON.
func syntaxFault(data []byte) policy.Faults {
	var bad *json.SyntaxError
	if err := json.Unmarshal(data, new(json.RawMessage)); !errors.As(err, &bad) {
		return nil
	}
	before := data[:max(bad.Offset-1, 0)] // it is the place after the byte
	if strings.HasPrefix(bad.Error(), "unexpected end") {
		before = data
	}
	start := bytes.LastIndexByte(before, '\n') + 1
	return policy.Faults{{
		Line:   bytes.Count(before, []byte{'\n'}) + 1,
		Column: utf8.RuneCount(before[start:]) + 1,
		Text:   bad.Error(),
	}}
}

var protojsonPlace = regexp.MustCompile(`^proto:[\s\x{a0}]*(.*?) ?\(line ([0-9]+):([0-9]+)\):? *`)

// protojsonFault returns what protojson alone finds wrong.
func protojsonFault(err error) policy.Faults {
	f := policy.Fault{Text: err.Error()}
	if at := protojsonPlace.FindStringSubmatch(f.Text); at != nil {
		f.Text = strings.TrimPrefix(at[1]+": "+f.Text[len(at[0]):], ": ")
		f.Line, _ = strconv.Atoi(at[2])
		f.Column, _ = strconv.Atoi(at[3])
	}
	return policy.Faults{f}
}

func (d *decoder) enter(s step) { d.path = append(d.path, s) }

func (d *decoder) leave() { d.path = d.path[:len(d.path)-1] }

// full reports whether there are more faults than are told.
func (d *decoder) full() bool { return len(d.faults) > maxFaults }

// fault adds a fault of what d is at.
func (d *decoder) fault(format string, args ...any) {
	var path strings.Builder
	n := d.root
	for _, s := range d.path {
		n = s.node
		if s.field == "" {
			fmt.Fprintf(&path, "[%d]", s.index)
			continue
		}
		if path.Len() > 0 {
			path.WriteByte('.')
		}
		path.WriteString(s.field)
	}
	d.faults = append(d.faults, policy.Fault{
		Path: path.String(), Text: fmt.Sprintf(format, args...),
		Line: n.Line, Column: n.Column,
	})
}

// place gives faults the places of their paths, or of the nearest above that are there.
func (d *decoder) place(faults policy.Faults) policy.Faults {
	set := new(regov1.Set).ProtoReflect().Descriptor()
	for i, f := range faults {
		n := find(d.root, set, f.Path)
		faults[i].Line, faults[i].Column = n.Line, n.Column
	}
	return faults
}

// find returns what a fault in path points at.
func find(n *yaml.Node, md protoreflect.MessageDescriptor, path string) *yaml.Node {
	at := n
	for _, part := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		if i, err := strconv.Atoi(part); err == nil {
			if n.Kind != yaml.SequenceNode || i >= len(n.Content) {
				return at
			}
			n = n.Content[i]
			at = n
			continue
		}
		if n.Kind != yaml.MappingNode || md == nil {
			return at
		}
		fd := md.Fields().ByName(protoreflect.Name(part))
		i := 0
		for i < len(n.Content) && (fd == nil || fieldOf(md.Fields(), n.Content[i]) != fd) {
			i += 2
		}
		if i == len(n.Content) {
			return at
		}
		at = standing(n.Content[i], n.Content[i+1])
		n, md = n.Content[i+1], fd.Message()
	}
	return at
}

// fieldOf returns the field that key names, nil if there is none.
func fieldOf(fields protoreflect.FieldDescriptors, key *yaml.Node) protoreflect.FieldDescriptor {
	if key.Kind != yaml.ScalarNode || key.Style&yaml.TaggedStyle != 0 {
		return nil
	}
	if fd := fields.ByName(protoreflect.Name(key.Value)); fd != nil {
		return fd
	}
	return fields.ByJSONName(key.Value)
}

// standing returns where people look for a field: at its value, or at its name if the
// value begins below.
func standing(key, value *yaml.Node) *yaml.Node {
	if value.Line > key.Line {
		return key
	}
	return value
}

// check returns the set that m is, and all that is wrong with it.
func check(m *regov1.Set) (policy.Set, policy.Faults) {
	s, err := policy.FromProto(m)
	unreadable := faultsOf(err)
	_, err = s.Compile()
	return s, append(unreadable, unrelated(faultsOf(err), unreadable)...)
}

// faultsOf returns what errors of package policy are.
func faultsOf(err error) policy.Faults {
	var faults policy.Faults
	if err != nil && !errors.As(err, &faults) {
		return fault("%v", err)
	}
	return faults
}

// unrelated returns those of faults that are not in a field of known, or below: what
// could not be read has other faults in consequence.
func unrelated(faults, known policy.Faults) policy.Faults {
	at := make(map[string]bool, len(known))
	for _, f := range known {
		at[f.Path] = true
	}
	return slices.DeleteFunc(faults, func(f policy.Fault) bool {
		for i := 1; i < len(f.Path); i++ {
			if (f.Path[i] == '.' || f.Path[i] == '[') && at[f.Path[:i]] {
				return true
			}
		}
		return at[f.Path]
	})
}

// inOrder returns faults in the order of the file, and not more than are told.
func inOrder(faults policy.Faults) policy.Faults {
	slices.SortStableFunc(faults, func(a, b policy.Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if len(faults) > maxFaults {
		return append(faults[:maxFaults:maxFaults], policy.Fault{Text: "there are more faults than these"})
	}
	return faults
}

// shown says what n is, in place of something else.
func shown(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	default:
	}
	if n.Tag == "!!str" {
		return short(n.Value)
	}
	return strings.Trim(short(n.Value), `"`)
}

// shownKey returns a name that is none of a field, as an element of a path.
func shownKey(key *yaml.Node) string {
	if word.MatchString(key.Value) {
		return key.Value
	}
	return shown(key)
}

var word = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)

// short quotes text, and not all of it if it is long.
func short(text string) string {
	if len(text) > 64 {
		text = text[:61] + "..."
	}
	return strconv.Quote(text)
}

// names lists the names of fields or of the values of an enum.
func names[D protoreflect.Descriptor](list interface {
	Len() int
	Get(i int) D
},
) string {
	all := make([]string, list.Len())
	for i := range all {
		all[i] = string(list.Get(i).Name())
	}
	return strings.Join(all, ", ")
}
