package policy

import (
	"fmt"
	"strings"
)

// Fault is one thing wrong with a policy, a rule or a set.
type Fault struct {
	// Path names the field: rules[2].policy.retry.max_attempts.
	Path string
	// Policy is the name of the policy that the field is in; empty if it has none.
	Policy string
	// Text says what is wrong with it.
	Text string
	// Line and Column are where the field stands in the file that was read, from 1;
	// zero without a file.
	Line, Column int
}

// Error puts the place before the path, and the policy's name into the path: `12:20:
// rules[2]: policy "users": retry.max_attempts: must be at least 1`.
func (f Fault) Error() string {
	var b strings.Builder
	if f.Line > 0 {
		fmt.Fprintf(&b, "%d:%d: ", f.Line, f.Column)
	}
	path := f.Path
	if before, after, ok := strings.Cut(path, ".policy."); ok && f.Policy != "" {
		path = fmt.Sprintf("%s: policy %q: %s", before, f.Policy, after)
	}
	if path != "" {
		b.WriteString(path + ": ")
	}
	b.WriteString(f.Text)
	return b.String()
}

// Faults is an error with everything that is wrong, up to a thousand faults of a kilobyte
// each.
type Faults []Fault

// Error lists the first hundred faults, separated by "; ".
func (fs Faults) Error() string {
	texts := make([]string, min(len(fs), toldFaults))
	for i := range texts {
		texts[i] = fs[i].Error()
	}
	if n := len(fs) - len(texts); n > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the faults one by one.
func (fs Faults) Unwrap() []error {
	errs := make([]error, len(fs))
	for i, f := range fs {
		errs[i] = f
	}
	return errs
}

// faults collects Faults below a path. Those made by in and at write into the
// same list.
type faults struct {
	list   *Faults
	path   string
	policy string
}

func (f *faults) add(field, format string, args ...any) {
	if f.list == nil {
		f.list = new(Faults)
	}
	path := f.path + field
	if field == "" { // the fault is in what f is the path of
		path = strings.TrimSuffix(path, ".")
	}
	switch n := len(*f.list); {
	case n < keptFaults:
		*f.list = append(*f.list, Fault{Path: path, Policy: cut(f.policy, MaxNameLength), Text: cut(fmt.Sprintf(format, args...), maxFaultText)})
	case n == keptFaults:
		*f.list = append(*f.list, Fault{Text: "there are more faults than these"})
	}
}

// A set can be wrong in a hundred thousand places, and what is wrong may be 16 MiB long: whoever
// sends it must not be able to fill a log.
const (
	keptFaults   = 1000
	maxFaultText = 1000 // bytes
	toldFaults   = 100  // in the text of an error
)

// cut returns text, or its beginning if it is longer than size bytes.
func cut(text string, size int) string {
	if len(text) <= size {
		return text
	}
	return strings.ToValidUTF8(text[:size], "") + "..."
}

func (f *faults) in(field string) *faults { return f.below(field + ".") }

func (f *faults) at(field string, i int) *faults { return f.below(fmt.Sprintf("%s[%d]", field, i)) }

func (f *faults) below(path string) *faults {
	if f.list == nil {
		f.list = new(Faults)
	}
	return &faults{f.list, f.path + path, f.policy}
}

func (f *faults) err() error {
	if f.list == nil || len(*f.list) == 0 {
		return nil
	}
	return *f.list
}
