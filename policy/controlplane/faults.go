package controlplane

import (
	"errors"
	"fmt"
	"strings"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// A set can be wrong in many places, and the answer is to be small.
const (
	maxFaults     = 100
	maxFaultText  = 1000
	maxFaultBytes = 64 << 10
)

// faultsOf returns the reasons of a refusal in their wire form: at least one, if err is
// not nil.
func faultsOf(err error) []*regov1.Fault {
	if err == nil {
		return nil
	}
	var faults policy.Faults
	if !errors.As(err, &faults) || len(faults) == 0 {
		return []*regov1.Fault{{Text: short(err.Error())}}
	}
	wire := make([]*regov1.Fault, 0, min(len(faults), maxFaults+1))
	for i, f := range faults {
		if i == maxFaults {
			wire = append(wire, more(len(faults)-i))
			break
		}
		wire = append(wire, &regov1.Fault{Path: short(f.Path), Text: short(f.Text), Line: int32(f.Line), Column: int32(f.Column)})
	}
	return bounded(wire, maxFaultBytes)
}

// bounded returns copies of the first faults, as many as size bytes hold, and says how many
// there are besides. A copy has nothing but the fields that are known.
func bounded(faults []*regov1.Fault, size int) []*regov1.Fault {
	kept := make([]*regov1.Fault, 0, min(len(faults), maxFaults+1))
	for i, f := range faults {
		path, text := short(f.GetPath()), short(f.GetText())
		size -= len(path) + len(text) + faultOverhead
		if size < 0 || i > maxFaults {
			return append(kept, more(len(faults)-i))
		}
		kept = append(kept, &regov1.Fault{Path: path, Text: text, Line: f.GetLine(), Column: f.GetColumn()})
	}
	return kept
}

// faultOverhead is about what a fault takes besides its words.
const faultOverhead = 32

func more(n int) *regov1.Fault { return &regov1.Fault{Text: fmt.Sprintf("and %d more", n)} }

// short returns s cut to a length, and as valid UTF-8, which the wire asks for.
func short(s string) string {
	if len(s) > maxFaultText {
		s = s[:maxFaultText] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
