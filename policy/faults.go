package policy

import (
	"fmt"
	"strings"
)

// Fault is one thing wrong with a policy, a rule or a set.
type Fault struct {
	// Path names the field: `rules[2]: policy "users": retry.max_attempts`.
	Path string
	// Text says what is wrong with it.
	Text string
}

func (f Fault) Error() string {
	if f.Path == "" {
		return f.Text
	}
	return f.Path + ": " + f.Text
}

// Faults is an error that holds everything wrong with what was offered.
type Faults []Fault

// Error lists the faults, separated by "; ".
func (fs Faults) Error() string {
	texts := make([]string, len(fs))
	for i, f := range fs {
		texts[i] = f.Error()
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
	list *Faults
	path string
}

func (f *faults) add(field, format string, args ...any) {
	if f.list == nil {
		f.list = new(Faults)
	}
	path := f.path + field
	if field == "" { // the fault is in what f is the path of
		path = strings.TrimSuffix(path, ".")
	}
	*f.list = append(*f.list, Fault{path, fmt.Sprintf(format, args...)})
}

func (f *faults) in(field string) *faults { return f.below(field + ".") }

func (f *faults) at(field string, i int) *faults { return f.below(fmt.Sprintf("%s[%d]", field, i)) }

func (f *faults) below(path string) *faults {
	if f.list == nil {
		f.list = new(Faults)
	}
	return &faults{f.list, f.path + path}
}

func (f *faults) err() error {
	if f.list == nil || len(*f.list) == 0 {
		return nil
	}
	return *f.list
}
