package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

func parsed(t *testing.T, text string) policy.Set {
	t.Helper()
	s, err := file.Parse([]byte(text), file.YAML)
	require.NoError(t, err, text)
	return s
}

func TestDifferences(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		why, before, after string
		want               []string
	}{
		{"the same", basket, basket, nil},
		{"its revision", "{revision: 1}", "{revision: 2}", nil},
		{"its own fields", "{version: a, hedges_off: true}", "{version: b, epoch: 2, retries_off: true}", []string{
			`version "a" -> "b"; hedges_off true -> false; epoch (none) -> 2; retries_off false -> true`,
		}},
		{
			"rules that moved, and selectors in other rules",
			`rules: [{methods: [/a.A/X, /a.A/Y], policy: {timeout: 1s}}, {methods: ["*"]}]`,
			`rules: [{methods: ["*"]}, {methods: [/a.A/Y], policy: {timeout: 1000ms}}, {methods: [/a.A/X], policy: {timeout: 1s}}]`,
			nil,
		},
		{
			"codes in another order",
			`rules: [{methods: ["*"], policy: {retry: {codes: [UNAVAILABLE, ABORTED]}}}]`,
			`rules: [{methods: ["*"], policy: {retry: {codes: [ABORTED, UNAVAILABLE]}}}]`,
			nil,
		},
		{
			"fields",
			`rules: [{methods: [/shop.v1.Basket/*], policy: {name: a, timeout: 90s, retry: {max_attempts: 3, codes: [UNAVAILABLE]}, idempotency: IDEMPOTENCY_IDEMPOTENT}}]`,
			`rules: [{methods: [/shop.v1.Basket/*], policy: {name: b, timeout: 1.5s, retry: {max_attempts: 5, codes: [ABORTED, UNAVAILABLE], backoff: {initial: 0s}}, hedge: {max_extra_load: 0.02}}}]`,
			[]string{
				`/shop.v1.Basket/*: name "a" -> "b"; idempotency IDEMPOTENCY_IDEMPOTENT -> (none); timeout 1m30s -> 1.5s; retry.max_attempts 3 -> 5; ` +
					`retry.codes [UNAVAILABLE] -> [ABORTED, UNAVAILABLE]; retry.backoff.initial (none) -> 0s; hedge.max_extra_load (none) -> 0.02`,
			},
		},
		{
			"selectors that come and go",
			`rules: [{methods: [/a.A/X, /a.A/Z], policy: {retry: {off: true}}}]`,
			`rules: [{methods: [/a.A/Y], policy: {timeout: 10m, budget: b}}, {methods: ["*"]}]`,
			[]string{
				`*: added: the default policy`, `/a.A/X: removed: retry.off true`, `/a.A/Y: added: timeout 10m, budget "b"`, `/a.A/Z: removed: retry.off true`,
			},
		},
		{
			"budgets",
			`budgets: [{name: a, ratio: {ratio: 0.1}}, {name: b, ratio: {}}, {name: c, throttle: {max_tokens: 10, token_ratio: 0.1}}, {name: e, ratio: {}}]`,
			`budgets: [{name: e, ratio: {}}, {name: a, ratio: {ratio: 0.02, min_per_second: 1}}, {name: b, concurrency: {min: 3}}, {name: d, token_bucket: {per_second: 2}}]`,
			[]string{
				`budget "a": ratio.ratio 0.1 -> 0.02; ratio.min_per_second (none) -> 1`,
				`budget "b": ratio {} -> (none); concurrency.min (none) -> 3`,
				`budget "c": removed: throttle.max_tokens 10, throttle.token_ratio 0.1`,
				`budget "d": added: token_bucket.per_second 2`,
			},
		},
	} {
		var got []string
		for _, d := range differences(parsed(t, r.before), parsed(t, r.after)) {
			got = append(got, d.String())
		}
		assert.Equal(t, r.want, got, r.why)
	}
}

// TestNoFieldIsForgotten: whatever field of a set is another one, there is a difference that names it.
func TestNoFieldIsForgotten(t *testing.T) {
	t.Parallel()
	var seen int
	eachField("", (*regov1.Set)(nil).ProtoReflect().Descriptor(), func(path string, fd protoreflect.FieldDescriptor) {
		if path == "revision" || strings.HasSuffix(path, "methods") || path == "budgets.name" {
			return // it is what names the difference, or is none
		}
		seen++
		base := &regov1.Set{Rules: []*regov1.Rule{{Methods: []string{"*"}, Policy: &regov1.Policy{}}}, Budgets: []*regov1.Budget{{Name: "b"}}}
		other := proto.CloneOf(base)
		m := other.ProtoReflect()
		names := strings.Split(path, ".")
		for _, name := range names[:len(names)-1] {
			in := m.Descriptor().Fields().ByName(protoreflect.Name(name))
			if in.IsList() {
				m = m.Mutable(in).List().Get(0).Message()
			} else {
				m = m.Mutable(in).Message()
			}
		}
		m.Set(fd, someValue(m, fd))
		before, err := policy.FromProto(base)
		require.NoError(t, err)
		after, err := policy.FromProto(other)
		require.NoError(t, err, path)
		list := differences(before, after)
		if assert.Len(t, list, 1, path) {
			name := strings.TrimPrefix(strings.TrimPrefix(path, "rules.policy."), "budgets.")
			assert.Contains(t, list[0].String(), name, path)
		}
	})
	assert.Greater(t, seen, 30)
}

// eachField calls do with every field that has a value of its own, by its path.
func eachField(at string, md protoreflect.MessageDescriptor, do func(string, protoreflect.FieldDescriptor)) {
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		path := at + string(fd.Name())
		if fd.Message() != nil && fd.Message().FullName() != durationName {
			eachField(path+".", fd.Message(), do)
			continue
		}
		do(path, fd)
	}
}

func someValue(m protoreflect.Message, fd protoreflect.FieldDescriptor) protoreflect.Value {
	one := func() protoreflect.Value {
		switch {
		case fd.Enum() != nil:
			return protoreflect.ValueOfEnum(2)
		case fd.Message() != nil:
			return protoreflect.ValueOfMessage(durationpb.New(1e9).ProtoReflect())
		}
		switch fd.Kind() {
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(true)
		case protoreflect.StringKind:
			return protoreflect.ValueOfString("x")
		case protoreflect.DoubleKind:
			return protoreflect.ValueOfFloat64(0.5)
		case protoreflect.Int32Kind:
			return protoreflect.ValueOfInt32(2)
		default:
			return protoreflect.ValueOfUint64(2)
		}
	}
	if !fd.IsList() {
		return one()
	}
	list := m.NewField(fd)
	list.List().Append(one())
	return list
}
