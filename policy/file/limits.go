package file

import (
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// ParseLimits returns the limits in data: a message rego.v1.Limits (limits.proto) in the
// formats of a set. Faults are reported as in [Parse].
func ParseLimits(data []byte, f Format) (policy.Limits, error) {
	if err := f.check(); err != nil {
		return policy.Limits{}, err
	}
	l, faults := parse(data, f, &limits)
	if len(faults) > 0 {
		return policy.Limits{}, faults
	}
	return l, nil
}

// ReadLimits returns the limits in a file. The name of the file says its format, as in
// [FormatOf]. They are the owner's limits, and are read once. If they cannot be read, the
// program should not start: it would run without limits.
func ReadLimits(path string) (policy.Limits, error) {
	f, err := FormatOf(path)
	if err != nil {
		return policy.Limits{}, err
	}
	data, err := readFile(path)
	if err != nil {
		return policy.Limits{}, err
	}
	return ParseLimits([]byte(data), f)
}

var limits = subject[policy.Limits]{
	prototype: (*regov1.Limits)(nil).ProtoReflect(),
	check: func(m proto.Message) (policy.Limits, policy.Faults) {
		l, err := policy.LimitsFromProto(m.(*regov1.Limits)) //nolint:forcetypeassert // it is made from the prototype
		unreadable := faultsOf(err)
		return l, append(unreadable, unrelated(faultsOf(l.Validate()), unreadable)...)
	},
}
