package file

import (
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// ParseLimits returns the limits that data spells: a message rego.v1.Limits (limits.proto) in the
// formats of a set. Faults are told as [Parse] does.
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

// ReadLimits returns the limits in a file, whose name says the format as for [FormatOf]. They are
// the owner's, and read once: a program whose limits cannot be read should not start.
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
