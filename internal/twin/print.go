package twin

import (
	"fmt"
	"go/format"
	"reflect"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// AsTest returns the source of a test that plays the program.
func (p Program) AsTest(name string) string {
	return fmt.Sprintf("func Test%s(t *testing.T) {\n\tholds(t, %#v)\n}\n", name, p)
}

// GoString returns the program as Go has it in package twin, without what is zero.
func (p Program) GoString() string {
	src := literal(reflect.ValueOf(p), true)
	const before = "package twin\n\nvar p = "
	formatted, err := format.Source([]byte(before + src))
	if err != nil {
		return src
	}
	return strings.TrimSpace(strings.TrimPrefix(string(formatted), before))
}

// literal returns a value as Go has it. Where it is an element, its type is known.
func literal(v reflect.Value, typed bool) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		if x%time.Millisecond == 0 {
			return fmt.Sprintf("%d*ms", x/time.Millisecond)
		}
		return fmt.Sprintf("%d", x)
	case codes.Code:
		return "codes." + x.String()
	case fmt.Stringer:
		return x.String()
	}
	name := ""
	if typed {
		name = strings.ReplaceAll(v.Type().String(), "twin.", "")
	}
	switch v.Kind() {
	case reflect.Struct:
		var fields []string
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() && (f.Kind() != reflect.Slice || f.Len() > 0) {
				fields = append(fields, v.Type().Field(i).Name+": "+literal(f, true))
			}
		}
		return name + "{" + strings.Join(fields, ", ") + "}"
	case reflect.Slice, reflect.Array:
		var elements []string
		last := 0
		for i := range v.Len() {
			elements = append(elements, literal(v.Index(i), false))
			if !v.Index(i).IsZero() {
				last = i + 1
			}
		}
		if v.Kind() == reflect.Array {
			elements = elements[:last]
		}
		between := ", "
		if k := v.Type().Elem().Kind(); (k == reflect.Struct || k == reflect.Slice) && v.Len() > 1 {
			return name + "{\n" + strings.Join(elements, ",\n") + ",\n}"
		}
		return name + "{" + strings.Join(elements, between) + "}"
	}
	return fmt.Sprintf("%#v", v.Interface())
}

func name(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprint(i)
}

func (k Kind) String() string { return name([]string{"Unary", "Watch", "Upload", "Chat"}, int(k)) }

func (o Option) String() string {
	return name([]string{
		"WantHeader", "WantTrailer", "WantPeer", "WantFinish", "FinishPanics", "WantTimeline", "WaitForReady", "FailFast", "StaticMethod",
		"JSON", "SmallSend", "SmallRecv", "NoSuchCompressor", "Credentials", "ReuseRequest", "ReuseReply",
	}, int(o))
}

func (o Operation) String() string {
	return name([]string{"Send", "CloseSend", "Recv", "Drain", "Header", "Trailer", "Context", "Cancel"}, int(o))
}

func (a Action) String() string {
	return name([]string{"SendHeader", "SendMessage", "Status", "Reset", "Refused", "GoAway", "GoAwayBelow", "Kill", "ReadN", "ReadAll", "Hang"}, int(a))
}

func (e Extra) String() string {
	return name([]string{"Plain", "WithTrailer", "Pushback0", "PushbackNo", "QuotaInfo"}, int(e))
}

func (m Meddling) String() string {
	return name([]string{"Wrap", "DropOptions", "Refuse", "FailRaw", "Answer", "ReturnEarly", "Again", "FailSend", "FailRecv"}, int(m))
}
