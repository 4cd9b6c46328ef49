package twin

import (
	"reflect"
)

// Shrink returns a smaller program for which fails still holds: it leaves out and sets to
// zero what it can.
func Shrink(p Program, fails func(Program) bool) Program {
	for smaller := true; smaller; {
		smaller = false
		for _, change := range changes(reflect.ValueOf(&p).Elem()) {
			undo := change()
			if fails(clone(p)) {
				smaller = true
				break // the places have changed
			}
			undo()
		}
	}
	return p
}

// changes returns what can be left out of a value. Each makes its change and returns how
// to undo it. Large ones come first.
func changes(v reflect.Value) (list []func() (undo func())) {
	set := func(to reflect.Value) {
		list = append(list, func() func() {
			old := reflect.New(v.Type()).Elem()
			old.Set(v)
			v.Set(to)
			return func() { v.Set(old) }
		})
	}
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			rest := reflect.MakeSlice(v.Type(), 0, v.Len())
			rest = reflect.AppendSlice(rest, v.Slice(0, i))
			rest = reflect.AppendSlice(rest, v.Slice(i+1, v.Len()))
			set(rest)
		}
		for i := range v.Len() {
			list = append(list, changes(v.Index(i))...)
		}
	case reflect.Array:
		for i := range v.Len() {
			list = append(list, changes(v.Index(i))...)
		}
	case reflect.Struct:
		if !v.IsZero() {
			set(reflect.Zero(v.Type()))
		}
		for i := range v.NumField() {
			list = append(list, changes(v.Field(i))...)
		}
	default:
		if !v.IsZero() {
			set(reflect.Zero(v.Type()))
		}
		if v.CanInt() && v.Int() > 1 {
			set(reflect.ValueOf(v.Int() / 2).Convert(v.Type()))
			if round := v.Int() / 1e6 * 1e6; round > 0 && round < v.Int() {
				set(reflect.ValueOf(round).Convert(v.Type()))
			}
		}
	}
	return list
}

// clone returns a copy that shares nothing with p.
func clone(p Program) Program {
	return copyOf(reflect.ValueOf(p)).Interface().(Program)
}

func copyOf(v reflect.Value) reflect.Value {
	to := reflect.New(v.Type()).Elem()
	to.Set(v)
	switch v.Kind() {
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		to = reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			to.Index(i).Set(copyOf(v.Index(i)))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			to.Field(i).Set(copyOf(v.Field(i)))
		}
	default:
	}
	return to
}
