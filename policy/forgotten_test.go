package policy_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/internal/testpolicy"
	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// wirePaths returns the fields of a message that have a value of their own, as testpolicy names
// them.
func wirePaths(md protoreflect.MessageDescriptor, at string) (paths []string) {
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		path := at + string(fd.Name())
		if fd.Message() == nil || fd.Message().FullName() == "google.protobuf.Duration" {
			paths = append(paths, path)
			continue
		}
		paths = append(paths, wirePaths(fd.Message(), path+".")...)
	}
	return paths
}

// TestNoFieldIsForgottenOnTheWire: every field of a set is in the proto file under its name, goes
// there and comes back.
func TestNoFieldIsForgottenOnTheWire(t *testing.T) {
	t.Parallel()
	wire := wirePaths((*regov1.Set)(nil).ProtoReflect().Descriptor(), "")
	for _, f := range testpolicy.Fields() {
		i := slices.Index(wire, f.Path)
		if !assert.GreaterOrEqual(t, i, 0, "%s (%s): has no field of its name in proto/rego/v1/policy.proto", f.Path, f.Go) {
			continue
		}
		wire = slices.Delete(wire, i, i+1)
		s := f.Alone()
		b, err := proto.Marshal(s.Proto())
		require.NoError(t, err, f.Path)
		m := new(regov1.Set)
		require.NoError(t, proto.Unmarshal(b, m), f.Path)
		got, err := policy.FromProto(m)
		require.NoError(t, err, f.Path)
		assert.Equal(t, s, got, "%s: is lost in Set.Proto or FromProto: policy/wire.go", f.Path)
	}
	assert.Empty(t, wire, "fields of proto/rego/v1/policy.proto that a policy.Set does not have: policy/policy.go, policy/budget.go, policy/set.go")
}

// TestNoEnumValueIsForgottenOnTheWire: every value of an enum goes there and comes back, and there
// is none in the proto file that Go does not have.
func TestNoEnumValueIsForgottenOnTheWire(t *testing.T) {
	t.Parallel()
	spelled := func(s fmt.Stringer) string { return strings.ToUpper(strings.ReplaceAll(s.String(), "-", "_")) }
	var idempotencies, jitters []string
	for i := classify.Idempotency(0); i.String() != "invalid"; i++ {
		s := policy.Set{Rules: []policy.Rule{{Methods: []string{"*"}, Policy: policy.Policy{Idempotency: i}}}}
		got, err := policy.FromProto(s.Proto())
		require.NoError(t, err, "%v: proto/rego/v1/policy.proto", i)
		assert.Equal(t, s, got, "%v: policy/wire.go", i)
		idempotencies = append(idempotencies, "IDEMPOTENCY_"+spelled(i))
	}
	idempotencies[0] = "IDEMPOTENCY_UNSPECIFIED"
	for j := policy.Jitter(0); j.String() != "invalid"; j++ {
		s := policy.Set{Rules: []policy.Rule{{Methods: []string{"*"}, Policy: policy.Policy{Retry: policy.Retry{Backoff: policy.Backoff{Jitter: j}}}}}}
		got, err := policy.FromProto(s.Proto())
		require.NoError(t, err, "%v: proto/rego/v1/policy.proto", j)
		assert.Equal(t, s, got, "%v: policy/wire.go", j)
		jitters = append(jitters, "JITTER_"+spelled(j))
	}
	var statuses []string
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		statuses = append(statuses, classify.CodeName(c))
	}
	for _, r := range []struct {
		of   protoreflect.Enum
		inGo []string
		file string
	}{
		{regov1.Idempotency(0), idempotencies, "classify/idempotency.go"},
		{regov1.Jitter(0), append([]string{"JITTER_UNSPECIFIED"}, jitters...), "policy/backoff.go"},
		{regov1.Code(0), statuses, "classify/code.go"},
	} {
		var onWire []string
		for i := range r.of.Descriptor().Values().Len() {
			onWire = append(onWire, string(r.of.Descriptor().Values().Get(i).Name()))
		}
		assert.Equal(t, onWire, r.inGo, "proto/rego/v1/policy.proto and %s", r.file)
	}
}

// TestNoFieldIsForgottenInFields: every field of a policy is told by Policy.Fields, which rego
// explain and the debug page show.
func TestNoFieldIsForgottenInFields(t *testing.T) {
	t.Parallel()
	find := func(p policy.Policy, path string) (policy.Field, bool) {
		i := slices.IndexFunc(p.Fields(), func(f policy.Field) bool { return f.Name == path })
		if i < 0 {
			return policy.Field{}, false
		}
		return p.Fields()[i], true
	}
	for _, f := range testpolicy.Fields() {
		path, ok := f.Policy()
		if !ok {
			continue
		}
		before, ok := find(policy.Policy{}, path)
		if !assert.True(t, ok, "%s: is not in Policy.Fields: policy/fields.go", path) {
			continue
		}
		after, _ := find(f.Alone().Rules[0].Policy, path)
		assert.False(t, before.Written, "%s: policy/fields.go", path)
		assert.True(t, after.Written, "%s: Policy.Fields does not say that it is written: policy/fields.go", path)
		assert.NotEqual(t, before.Value, after.Value, "%s: Policy.Fields has another field's value: policy/fields.go", path)
	}
}

// TestNoFieldIsForgottenInValidate: a number or duration that makes no sense is refused, with the
// name of its field.
func TestNoFieldIsForgottenInValidate(t *testing.T) {
	t.Parallel()
	for _, f := range testpolicy.Fields() {
		for _, s := range f.Invalid() {
			_, err := s.Compile()
			name := f.Path[strings.LastIndexByte(f.Path, '.')+1:]
			assert.ErrorContains(t, err, name, "%s: validate of policy/policy.go, policy/budget.go or the budget's New lets %v pass", f.Path, f.Values(s))
		}
	}
}

// TestNoFieldOfAPolicyIsForgotten: policies that differ in a field are not equal, or a call that brings
// its own would have another one.
func TestNoFieldOfAPolicyIsForgotten(t *testing.T) {
	t.Parallel()
	for _, f := range testpolicy.Fields() {
		if _, ok := f.Policy(); !ok {
			continue
		}
		around, alone := f.Around().Rules[0].Policy, f.Alone().Rules[0].Policy
		assert.False(t, around.Equal(alone), "%s: is not in Policy.Equal: policy/policy.go", f.Path)
		assert.True(t, alone.Equal(f.Alone().Rules[0].Policy), f.Path)
	}
}

// TestNoFieldOfABudgetIsForgotten: budgets that differ in a field are not the same, or a set
// would not change the budget that is in force; and a table shares none with its set.
func TestNoFieldOfABudgetIsForgotten(t *testing.T) {
	t.Parallel()
	for _, f := range testpolicy.Fields() {
		if !f.Budget() {
			continue
		}
		around, alone := f.Around(), f.Alone()
		assert.False(t, around.Budgets[0].Equal(alone.Budgets[0]), "%s: is not in Budget.Equal: policy/budget.go", f.Path)
		table, err := around.Compile()
		require.NoError(t, err, f.Path)
		f.Put(&around)
		got, _ := table.Budget("b")
		assert.True(t, got.Equal(f.Around().Budgets[0]), "%s: is shared with the caller: Budget.clone in policy/budget.go", f.Path)
	}
}

// TestNoFieldIsForgottenInServiceConfigs: every field changes what a set is as a service config, or
// is told as missing there. What is in a service config comes back from it.
func TestNoFieldIsForgottenInServiceConfigs(t *testing.T) {
	t.Parallel()
	retried := policy.Policy{AsGRPC: true, Retry: policy.Retry{
		MaxAttempts: 3, Codes: []codes.Code{codes.Unavailable}, Backoff: policy.Backoff{Jitter: policy.JitterProportional},
	}}
	hedged := retried
	hedged.Idempotency, hedged.Retry.Off, hedged.Hedge.Delay = classify.Idempotent, true, 3*time.Second
	for _, f := range testpolicy.Fields() {
		told := false
		for _, p := range []policy.Policy{retried, hedged, {Idempotency: classify.Idempotent, Retry: policy.Retry{Off: true}}} {
			before, after := f.Around(), f.Around()
			p.Budget = before.Rules[0].Policy.Budget
			before.Rules[0].Policy, after.Rules[0].Policy = p, p
			f.Put(&after)
			if _, err := after.Compile(); err != nil {
				continue // it excludes what the others have
			}
			was, _, err := before.ServiceConfig()
			require.NoError(t, err, f.Path)
			is, missing, err := after.ServiceConfig()
			require.NoError(t, err, f.Path)
			if !bytes.Equal(was, is) {
				told = true
				old, _, err := policy.FromServiceConfig(was)
				require.NoError(t, err, f.Path)
				back, _, err := policy.FromServiceConfig(is)
				require.NoError(t, err, f.Path)
				assert.NotEqual(t, old, back, "%s: is written to service configs, and not read: policy/serviceconfig.go", f.Path)
			}
			path := strings.NewReplacer("rules.", "rules[0].", "budgets.", "budgets[0].").Replace(f.Path)
			told = told || slices.ContainsFunc(missing, func(m policy.Fault) bool {
				return m.Path == path || m.Path == "budgets[0]" && f.Budget()
			})
		}
		assert.True(t, told, "%s: is neither in service configs nor told as missing: policy/serviceconfig_export.go", f.Path)
	}
}
