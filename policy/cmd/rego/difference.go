package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/policy"
)

// The kinds of differences.
const (
	kindChanged = "changed"
	kindAdded   = "added"
	kindRemoved = "removed"
)

// difference is something that is not the same in two sets: the set's own fields, a budget, or what
// a selector has. Where rules stand, and which selectors share one, is no difference. Its JSON is
// part of the promise.
type difference struct {
	Kind     string       `json:"kind"`               // changed, added or removed
	Selector string       `json:"selector,omitempty"` // whose policy it is about
	Budget   string       `json:"budget,omitempty"`   // the name of the budget that it is about
	Fields   []fieldPair  `json:"fields,omitempty"`   // of what was changed
	Has      []fieldValue `json:"has,omitempty"`      // what was added or removed
}

// fieldPair is a field that is not the same. A value that is absent stands for the default.
type fieldPair struct {
	Name   string  `json:"name"` // retry.max_attempts
	Before *string `json:"before,omitempty"`
	After  *string `json:"after,omitempty"`

	quoted bool
}

// fieldValue is a field that is written.
type fieldValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`

	quoted bool // its values are strings
}

// differences returns what is not the same in two sets: their own fields first, then budgets by
// name, then selectors.
func differences(before, after policy.Set) []difference {
	was, is := contentOf(before), contentOf(after)
	var list []difference
	if pairs := pairsOf(was.own, is.own); len(pairs) > 0 {
		list = append(list, difference{Kind: kindChanged, Fields: pairs})
	}
	list = append(list, compare(was.budgets, is.budgets, func(d *difference, name string) { d.Budget = name })...)
	return append(list, compare(was.selectors, is.selectors, func(d *difference, name string) { d.Selector = name })...)
}

// content is a set as it is compared. It is read from the wire form, so that it has every field that
// there is.
type content struct {
	own       []fieldValue
	budgets   map[string][]fieldValue
	selectors map[string][]fieldValue
}

func contentOf(s policy.Set) content {
	c := content{budgets: make(map[string][]fieldValue), selectors: make(map[string][]fieldValue)}
	rules, budgets := s.Rules, s.Budgets
	s.Rules, s.Budgets, s.Revision = nil, nil, 0 // the server gives revisions
	c.own = setFields("", s.Proto().ProtoReflect())
	for i := range budgets {
		b := policy.Set{Budgets: budgets[i : i+1]}.Proto().GetBudgets()[0]
		b.Name = ""
		c.budgets[budgets[i].Name] = setFields("", b.ProtoReflect())
	}
	for i := range rules {
		r := policy.Set{Rules: rules[i : i+1]}.Proto().GetRules()[0]
		fields := setFields("", r.GetPolicy().ProtoReflect())
		for _, m := range r.GetMethods() {
			c.selectors[m] = fields
		}
	}
	return c
}

// compare returns the differences of what has names, by name.
func compare(was, is map[string][]fieldValue, about func(*difference, string)) (list []difference) {
	for _, name := range slices.Sorted(maps.Keys(merged(was, is))) {
		before, had := was[name]
		after, has := is[name]
		d := difference{Kind: kindChanged}
		switch {
		case !had:
			d.Kind, d.Has = kindAdded, after
		case !has:
			d.Kind, d.Has = kindRemoved, before
		default:
			if d.Fields = pairsOf(before, after); len(d.Fields) == 0 {
				continue
			}
		}
		about(&d, name)
		list = append(list, d)
	}
	return list
}

func merged(a, b map[string][]fieldValue) map[string][]fieldValue {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// pairsOf returns the fields that are not the same, those of before first.
func pairsOf(before, after []fieldValue) (pairs []fieldPair) {
	find := func(list []fieldValue, name string) *string {
		if i := slices.IndexFunc(list, func(f fieldValue) bool { return f.Name == name }); i >= 0 {
			return &list[i].Value
		}
		return nil
	}
	for _, f := range before {
		now := find(after, f.Name)
		if now == nil || *now != f.Value {
			pairs = append(pairs, fieldPair{f.Name, &f.Value, now, f.quoted})
		}
	}
	for _, f := range after {
		if find(before, f.Name) == nil {
			pairs = append(pairs, fieldPair{f.Name, nil, &f.Value, f.quoted})
		}
	}
	return pairs
}

// setFields returns the fields of a message that are set, in the order of the proto file and those of
// messages in it one by one. A message without any is {}.
func setFields(at string, m protoreflect.Message) (list []fieldValue) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		name := at + string(fd.Name())
		if fd.Message() != nil && !fd.IsList() && fd.Message().FullName() != durationName {
			below := setFields(name+".", m.Get(fd).Message())
			if len(below) == 0 {
				below = []fieldValue{{Name: name, Value: "{}"}}
			}
			list = append(list, below...)
			continue
		}
		list = append(list, fieldValue{name, spelled(fd, m.Get(fd)), fd.Kind() == protoreflect.StringKind && !fd.IsList()})
	}
	return list
}

var durationName = (*durationpb.Duration)(nil).ProtoReflect().Descriptor().FullName()

// spelled returns a value as people write it in YAML. The order of a list means nothing.
func spelled(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	if fd.IsList() {
		words := make([]string, v.List().Len())
		for i := range words {
			words[i] = spelledOne(fd, v.List().Get(i))
		}
		slices.Sort(words)
		return "[" + strings.Join(words, ", ") + "]"
	}
	return spelledOne(fd, v)
}

func spelledOne(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case fd.Message() != nil:
		if d, ok := v.Message().Interface().(*durationpb.Duration); ok {
			return shortened(d.AsDuration())
		}
		return fmt.Sprint(v.Message().Interface()) // rego.v1.Policy has no such lists
	case fd.Enum() != nil:
		if value := fd.Enum().Values().ByNumber(v.Enum()); value != nil {
			return string(value.Name())
		}
		return strconv.Itoa(int(v.Enum()))
	case fd.Kind() == protoreflect.DoubleKind:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	default:
		return v.String()
	}
}

// String returns a difference in a line, such as
//
//	/shop.v1.Basket/*: retry.max_attempts 3 -> 5; hedge.max_extra_load (none) -> 0.02
func (d difference) String() string {
	var parts []string
	for _, f := range d.Fields {
		parts = append(parts, f.Name+" "+shown(f.Before, f.quoted, f.After)+" -> "+shown(f.After, f.quoted, f.Before))
	}
	text := strings.Join(parts, "; ")
	if d.Kind != kindChanged {
		text = d.Kind + ": " + summed(d.Has)
	}
	switch {
	case d.Budget != "":
		return fmt.Sprintf("budget %q: %s", d.Budget, text)
	case d.Selector != "":
		return d.Selector + ": " + text
	default:
		return text
	}
}

// summed returns fields in a few words.
func summed(fields []fieldValue) string {
	var parts []string
	for _, f := range fields {
		parts = append(parts, f.Name+" "+shown(&f.Value, f.quoted, nil))
	}
	return cmp.Or(strings.Join(parts, ", "), "the default policy")
}

// shown returns a value, or what its absence means beside another one.
func shown(value *string, quoted bool, other *string) string {
	switch {
	case value != nil && quoted:
		return strconv.Quote(*value)
	case value != nil:
		return *value
	case other != nil && *other == "true":
		return "false"
	default:
		return "(none)"
	}
}
