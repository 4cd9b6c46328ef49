package testpolicy

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/policy"
)

// Field is a field of a policy.Set, or of what is in one, that has a value of its own. Tests
// walk all of them, so that a new field fails wherever it was forgotten.
type Field struct {
	// Path is the name in files, without indexes: "rules.policy.retry.max_attempts".
	Path string
	// Go is the name in Go: "Rules.Policy.Retry.MaxAttempts".
	Go string

	index []int // of the field in each struct on the way
	of    reflect.Type
}

// Fields returns all fields that a set has in Go, in their order there.
func Fields() []Field { return fieldsOf(reflect.TypeFor[policy.Set](), Field{}) }

// Policy returns the path of the field in a policy, and whether it is one of a policy.
func (f Field) Policy() (path string, ok bool) { return strings.CutPrefix(f.Path, "rules.policy.") }

// Budget reports whether it is a field of a budget.
func (f Field) Budget() bool { return strings.HasPrefix(f.Path, "budgets.") }

// Enum returns the values of the field's type if that is an enum: those that have a name.
func (f Field) Enum() (list []reflect.Value) {
	if f.of.Kind() != reflect.Uint8 {
		return nil
	}
	for n := uint8(0); ; n++ {
		v := reflect.ValueOf(n).Convert(f.of)
		if fmt.Sprint(v) == "invalid" {
			return list
		}
		list = append(list, v)
	}
}

func fieldsOf(t reflect.Type, at Field) (list []Field) {
	if isMany(t) || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		at.of = t
		return []Field{at}
	}
	for i := range t.NumField() {
		name := t.Field(i).Name
		list = append(list, fieldsOf(t.Field(i).Type, Field{
			Path:  strings.TrimPrefix(at.Path+"."+snake(name), "."),
			Go:    strings.TrimPrefix(at.Go+"."+name, "."),
			index: append(slices.Clone(at.index), i),
		})...)
	}
	return list
}

// isMany reports whether t is a list of rules or of budgets, and not of values.
func isMany(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct
}

// snake returns the name that a field of Go has in files.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && unicode.IsUpper(r) && unicode.IsLower(rune(name[i-1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// Around returns a valid set that the field can be put into. It has a rule for every method, of
// the default policy. For the field of a budget it has one of that kind, which the rule names.
func (f Field) Around() policy.Set {
	s := policy.Set{Rules: []policy.Rule{{Methods: []string{"*"}}}}
	if !f.Budget() {
		return s
	}
	s.Rules[0].Policy.Budget = "b"
	s.Budgets = []policy.NamedBudget{{Name: "b"}}
	if f.Path == "budgets.name" {
		s.Budgets[0].Ratio = new(budget.RatioConfig)
		return s
	}
	kind := f.Path[:strings.LastIndexByte(f.Path, '.')+1]
	for _, other := range Fields() {
		if strings.HasPrefix(other.Path, kind) {
			other.Put(&s)
		}
	}
	return s
}

// Alone returns what Around does, with the field put into it.
func (f Field) Alone() policy.Set {
	s := f.Around()
	f.Put(&s)
	return s
}

// Put gives the field of the first rule, or of the first budget, another value than it has.
func (f Field) Put(s *policy.Set) {
	v := f.in(s)
	for _, value := range f.values() {
		other := reflect.ValueOf(value).Convert(f.of)
		if !reflect.DeepEqual(v.Interface(), other.Interface()) {
			v.Set(other)
			return
		}
	}
}

// Invalid returns sets in which the field has a value that no number or duration of a policy may
// have. There are none for fields of other types.
func (f Field) Invalid() (sets []policy.Set) {
	var values []any
	switch {
	case f.of == reflect.TypeFor[time.Duration]():
		values = []any{-2 * time.Nanosecond, policy.MaxDuration + 1} // -1 is policy.NoWait
	case f.of.Kind() == reflect.Float64:
		values = []any{math.NaN(), math.Inf(1), -1.0}
	case f.of.Kind() == reflect.Int:
		values = []any{-1}
	}
	for _, v := range values {
		s := f.Alone()
		f.in(&s).Set(reflect.ValueOf(v).Convert(f.of))
		sets = append(sets, s)
	}
	return sets
}

// in returns the field of the first rule or budget, which can be set.
func (f Field) in(s *policy.Set) reflect.Value {
	v := reflect.ValueOf(s).Elem()
	for _, i := range f.index {
		v = v.Field(i)
		switch {
		case v.Kind() == reflect.Pointer:
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		case isMany(v.Type()):
			v = v.Index(0)
		}
	}
	return v
}

// values are two values of a field that are valid alone.
func (f Field) values() [2]any {
	if v, ok := ownValues[f.Path]; ok {
		return v
	}
	if f.of == reflect.TypeFor[time.Duration]() {
		return [2]any{time.Second, 2 * time.Second}
	}
	switch f.of.Kind() {
	case reflect.Bool:
		return [2]any{true, false}
	case reflect.String:
		return [2]any{"x", "y"}
	case reflect.Float64:
		return [2]any{0.25, 0.5}
	case reflect.Int, reflect.Uint8, reflect.Uint64:
		return [2]any{2, 3}
	}
	panic("internal/testpolicy/fields.go: no values for " + f.Path + " in ownValues")
}

// ownValues are of fields that not every value of their type is of use for.
var ownValues = map[string][2]any{
	"rules.methods":                         {[]string{"/a.B/C"}, []string{"/a.B/*"}},
	"rules.policy.retry.max_attempts":       {4, 5},
	"rules.policy.retry.codes":              {[]codes.Code{codes.Aborted}, []codes.Code{codes.Internal}},
	"rules.policy.retry.reconnect":          {6 * time.Second, 7 * time.Second},             // above the default
	"rules.policy.retry.backoff.initial":    {10 * time.Millisecond, 20 * time.Millisecond}, // below it
	"rules.policy.retry.backoff.max":        {10 * time.Millisecond, 20 * time.Millisecond},
	"rules.policy.retry.backoff.multiplier": {0.5, 0.25},
	"budgets.token_bucket.per_second":       {4.0, 5.0},
	"budgets.token_bucket.burst":            {4.5, 6.0},
	"budgets.throttle.max_tokens":           {10.0, 20.0},
}

// Values returns the values that the field has in a set: one of each rule, or of each budget
// that is of its kind.
func (f Field) Values(s policy.Set) []reflect.Value { return valuesOf(reflect.ValueOf(s), f.index) }

func valuesOf(v reflect.Value, index []int) (list []reflect.Value) {
	switch {
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return valuesOf(v.Elem(), index)
	case isMany(v.Type()):
		for i := range v.Len() {
			list = append(list, valuesOf(v.Index(i), index)...)
		}
		return list
	case len(index) == 0:
		return []reflect.Value{v}
	}
	return valuesOf(v.Field(index[0]), index[1:])
}
