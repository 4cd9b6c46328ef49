package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rego-go/rego/internal/surrogate"
	"github.com/rego-go/rego/policy"
)

// What makes data no YAML and no JSON, and where.

// maxMarks bounds the memory that a tree takes, which is some 200 bytes for each
// of its nodes, and each takes a mark in the file.
const maxMarks = 1 << 20

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
	return policy.Faults{advised(f, data)}
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

// syntaxFault returns what makes data no JSON, or no characters.
func syntaxFault(data []byte) policy.Faults {
	var bad *json.SyntaxError
	if err := json.Unmarshal(data, new(json.RawMessage)); !errors.As(err, &bad) {
		if at := surrogate.Lone(data); err == nil && at >= 0 {
			return faultAt(data, at, "%q is half of a surrogate pair, and no character: write the character itself", data[at:at+6])
		}
		return nil
	}
	if c := conflictFault(data); c != nil {
		return c
	}
	at := int(max(bad.Offset-1, 0)) // it is the place after the byte
	if strings.HasPrefix(bad.Error(), "unexpected end") {
		at = len(data)
	}
	return faultAt(data, at, "%v%s", bad, jsonAdvice(data, at))
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
