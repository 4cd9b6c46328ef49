package file

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/rego-go/rego/internal/nearest"
	"github.com/rego-go/rego/policy"
)

// maxFaults is how many are told at once.
const maxFaults = 100

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
func (d *decoder) place(faults policy.Faults, of protoreflect.MessageDescriptor) policy.Faults {
	for i, f := range faults {
		n := find(d.root, of, f.Path)
		faults[i].Line, faults[i].Column = n.Line, n.Column
	}
	return faults
}

// Locate returns the faults of a set with their places in data, which the set was read from.
// It is for checks after Parse. A field that is not written has the place of the nearest
// field above it that is. In a format without places the faults are returned unchanged.
func Locate(data []byte, f Format, faults policy.Faults) policy.Faults {
	if f != JSON && f != YAML {
		return faults
	}
	d, bad := parseTree(asYAML(bytes.TrimPrefix(data, byteOrderMark)))
	if bad != nil {
		return faults
	}
	return d.place(slices.Clone(faults), sets.descriptor())
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

// meant says which of names is like a word that is none of them; empty if none is.
func meant[D protoreflect.Descriptor](word string, list interface {
	Len() int
	Get(i int) D
},
) string {
	name := nearest.To(word, func(yield func(string) bool) {
		for i := range list.Len() {
			if !yield(string(list.Get(i).Name())) {
				return
			}
		}
	})
	if name == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %s?", name)
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
