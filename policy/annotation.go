package policy

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// FromDescriptor returns the policy that the proto files linked into the program give a full
// method name, "/pkg.Service/Method": the option (rego.v1.method), or the option
// (rego.v1.service) of its service. found is false if there is neither. The error is a
// [Faults]. It is too slow to be called for every call: keep the result.
func FromDescriptor(method string) (p Policy, found bool, err error) {
	name := strings.Replace(strings.TrimPrefix(method, "/"), "/", ".", 1)
	d, _ := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	md, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return Policy{}, false, nil
	}
	p, option, err := FromMethodDescriptor(md)
	if option == "" {
		return Policy{}, false, nil
	}
	return p.withDefaults(), true, err
}

// FromMethodDescriptor returns the policy in the proto file of a method, as it is written
// there, and the name of the option that has it: rego.v1.method or rego.v1.service. The name
// is empty if there is neither. The error is a [Faults].
func FromMethodDescriptor(md protoreflect.MethodDescriptor) (p Policy, option protoreflect.FullName, err error) {
	extension := regov1.E_Method
	m, ok := annotation(md, extension)
	if !ok {
		extension = regov1.E_Service
		m, ok = annotation(md.Parent(), extension)
	}
	if !ok {
		return Policy{}, "", nil
	}
	f := &faults{list: new(Faults), policy: m.GetName()}
	p = policyFrom(m, f)
	p.validate(f)
	return p, extension.TypeDescriptor().FullName(), f.err()
}

func annotation(d protoreflect.Descriptor, option protoreflect.ExtensionType) (*regov1.Policy, bool) {
	o := d.Options()
	if o == nil || !o.ProtoReflect().IsValid() || !proto.HasExtension(o, option) {
		return nil, false
	}
	m, ok := proto.GetExtension(o, option).(*regov1.Policy)
	return m, ok
}
