// Package file reads the policies of a process from a file, and takes every change of the
// file while calls run.
//
//	store := new(policy.Store)
//	w, err := file.Watch("/etc/rego/policies.yaml", store)
//
// The rule that surprises people: a file that is missing or bad is no error, also not at the
// start. What the store has stays in force, and [policy.Store.Status] says why. So watch the
// status, or the log: otherwise nobody notices.
//
// The file is a message rego.v1.Set (policy.proto), as YAML, JSON or binary. Begin with
// [Watch]. [Parse] lists everything that is wrong with a file. Use it in a test beside the
// file.
package file

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/rego-go/rego/internal/wirebound"
	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Format is the format of a file with a message rego.v1.Set. The zero Format is none.
type Format uint8

const (
	// JSON is proto JSON, as protojson reads it.
	JSON Format = iota + 1
	// YAML has the fields and values of JSON. Names are in snake case, as in policy.proto,
	// or in camel case. Strings need no quotes. Durations may have any unit of
	// time.ParseDuration: 500ms. Fields without a value are not allowed, because a file that
	// is cut short looks like that. Aliases, tags and more than one document are not allowed
	// either.
	YAML
	// Binary is the wire format of proto. Its faults have no place.
	Binary
)

var formatNames = [...]string{"none", "json", "yaml", "binary"}

func (f Format) String() string {
	if int(f) < len(formatNames) {
		return formatNames[f]
	}
	return "invalid"
}

func (f Format) check() error {
	if f < JSON || f > Binary {
		return fmt.Errorf("unknown format %d", f)
	}
	return nil
}

// FormatOf returns the format for the name of a file: .json, .yaml, .yml, .binpb and .pb, in
// lower or upper case. Any other name is an error.
func FormatOf(path string) (Format, error) {
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".json":
		return JSON, nil
	case ".yaml", ".yml":
		return YAML, nil
	case ".binpb", ".pb":
		return Binary, nil
	default:
		return 0, fmt.Errorf("%s: extension %q is none of .json, .yaml, .yml, .binpb, .pb", path, ext)
	}
}

// Parse returns the set in data, if it is valid. Unknown fields and fields given twice are
// faults. The error is a [policy.Faults] with all faults in the order of the file, at most a
// hundred and one that says that there are more. If data cannot be read as such a document,
// there is one fault. Only an unknown format is another error.
//
// Text is UTF-8, and a byte order mark at its start is skipped. Data without content is
// refused, because it would switch every rule off: {} is the set without rules. More than
// [policy.MaxSize] bytes are refused unread.
func Parse(data []byte, f Format) (policy.Set, error) {
	if err := f.check(); err != nil {
		return policy.Set{}, err
	}
	s, faults := parse(data, f, &sets)
	if len(faults) > 0 {
		return policy.Set{}, faults
	}
	return s, nil
}

// subject is what a file spells, by a message.
type subject[V any] struct {
	prototype protoreflect.Message
	// check returns what a message means, and all that is wrong with it.
	check func(proto.Message) (V, policy.Faults)
}

var sets = subject[policy.Set]{
	prototype: (*regov1.Set)(nil).ProtoReflect(),
	check: func(m proto.Message) (policy.Set, policy.Faults) {
		s, err := policy.FromProto(m.(*regov1.Set)) //nolint:forcetypeassert // it is made from the prototype
		unreadable := faultsOf(err)
		_, err = s.Compile()
		return s, append(unreadable, unrelated(faultsOf(err), unreadable)...)
	},
}

func (s *subject[V]) message() proto.Message { return s.prototype.New().Interface() }

func (s *subject[V]) descriptor() protoreflect.MessageDescriptor { return s.prototype.Descriptor() }

// parse returns as much of the subject as it understood, faults or not.
func parse[V any](data []byte, f Format, s *subject[V]) (v V, faults policy.Faults) {
	switch {
	case len(data) > policy.MaxSize:
		return v, fault("must be at most %d bytes, got %d", policy.MaxSize, len(data))
	case f != Binary:
		return parseText(bytes.TrimPrefix(data, byteOrderMark), f, s)
	case len(data) == 0:
		return v, fault(isEmpty)
	}
	m := s.message()
	if err := wirebound.CheckWithin(data, s.descriptor()); err != nil {
		return v, fault("is not a binary %s: %v", s.descriptor().FullName(), err)
	}
	if err := proto.Unmarshal(data, m); err != nil {
		return v, fault("is not a binary %s: %v", s.descriptor().FullName(), err)
	}
	v, faults = s.check(m)
	return v, inOrder(faults)
}

func parseText[V any](data []byte, f Format, s *subject[V]) (v V, faults policy.Faults) {
	if bad := textFault(data, f); bad != nil {
		return v, bad
	}
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return v, fault(isEmpty)
	case f == JSON:
		return parseJSON(data, s)
	}
	d, bad := parseTree(data)
	if bad != nil {
		return v, bad
	}
	return decode(d, s)
}

const isEmpty = "is empty: write {} if it is to say nothing"

func fault(format string, args ...any) policy.Faults {
	return policy.Faults{{Text: fmt.Sprintf(format, args...)}}
}

// parseJSON leaves valid files to protojson, which is fast. The others are read again
// as YAML, which JSON is and which knows where things stand.
func parseJSON[V any](data []byte, s *subject[V]) (v V, faults policy.Faults) {
	m := s.message()
	err := protojson.Unmarshal(data, m)
	if err == nil {
		v, faults = s.check(m)
		if len(faults) > 0 {
			if d, bad := parseTree(asYAML(data)); bad == nil {
				faults = d.place(faults, s.descriptor())
			}
		}
		return v, inOrder(faults)
	}
	if at := syntaxFault(data); at != nil {
		return v, at
	}
	d, bad := parseTree(asYAML(data))
	if bad == nil {
		d.json = true
		if got, faults := decode(d, s); len(faults) > 0 {
			return got, faults
		}
	}
	return v, protojsonFault(err)
}

// Marshal returns s in a format. The same set always gives the same bytes, and Parse returns
// s again. The error is a [policy.Faults] if s is not valid.
func Marshal(s policy.Set, f Format) ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	if _, err := s.Compile(); err != nil {
		return nil, err
	}
	m := s.Proto()
	switch f {
	case JSON:
		b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer // since protojson changes its spaces on purpose
		if err := json.Indent(&out, b, "", "  "); err != nil {
			return nil, err
		}
		out.WriteByte('\n')
		return out.Bytes(), nil
	case YAML:
		return encode(m.ProtoReflect())
	default:
		// The switches first: of a file that is cut short they are there, whatever else is not.
		opts := proto.MarshalOptions{Deterministic: true}
		b, err := opts.Marshal(&regov1.Set{RetriesOff: m.GetRetriesOff(), HedgesOff: m.GetHedgesOff()})
		if err == nil {
			m.RetriesOff, m.HedgesOff = false, false
			b, err = opts.MarshalAppend(b, m)
		}
		if len(b) == 0 && err == nil { // retries_off: false, so that it is not an empty file
			b = protowire.AppendVarint(protowire.AppendTag(nil, 5, protowire.VarintType), 0)
		}
		return b, err
	}
}
