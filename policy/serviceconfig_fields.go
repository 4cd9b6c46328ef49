package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/internal/nearest"
)

// fields returns the known fields of an object, absent ones too, and warns of others.
// ok is false if v is not an object. Keys match whatever their case (encoding/json).
func (im *importer) fields(v value, known ...string) (f map[string]value, ok bool) {
	f = make(map[string]value, len(known))
	for _, name := range known {
		f[name] = value{path: strings.TrimPrefix(v.path+"."+name, "."), at: v.at}
	}
	if !v.given() {
		return f, true
	}
	if v.raw[0] != '{' {
		im.bad(v, "must be an object, got %s", v)
		return f, false
	}
next:
	for key, item := range v.items() {
		for _, name := range known {
			if !strings.EqualFold(key, name) {
				continue
			}
			item.path = f[name].path
			if f[name].raw != "" {
				im.bad(item, "is given twice")
			}
			f[name] = item
			continue next
		}
		im.unknown(item, key, known)
	}
	return f, true
}

// homes says where fields belong, which are often put elsewhere.
var homes = map[string]string{
	"methodConfig": "at the top level", "retryThrottling": "at the top level",
	"loadBalancingConfig": "at the top level", "loadBalancingPolicy": "at the top level", "healthCheckConfig": "at the top level",
	"name": "in methodConfig[]", "timeout": "in methodConfig[]", "waitForReady": "in methodConfig[]",
	"retryPolicy": "in methodConfig[]", "hedgingPolicy": "in methodConfig[]",
	"maxRequestMessageBytes": "in methodConfig[]", "maxResponseMessageBytes": "in methodConfig[]",
	"service": "in methodConfig[].name[]", "method": "in methodConfig[].name[]",
	"initialBackoff": "in retryPolicy", "maxBackoff": "in retryPolicy", "backoffMultiplier": "in retryPolicy", "retryableStatusCodes": "in retryPolicy",
	"hedgingDelay": "in hedgingPolicy", "nonFatalStatusCodes": "in hedgingPolicy",
	"maxAttempts": "in retryPolicy or hedgingPolicy",
	"maxTokens":   "in retryThrottling", "tokenRatio": "in retryThrottling",
}

// separators are what other spellings of the names have: snake_case, as in grpc's
// service_config.proto, and kebab-case. grpc-go ignores them without a word.
var separators = strings.NewReplacer("_", "", "-", "")

func (im *importer) unknown(v value, key string, known []string) {
	for name, home := range homes {
		switch {
		case strings.EqualFold(key, name):
			im.warn(v, "belongs %s, and is ignored here", home)
			return
		case !strings.EqualFold(separators.Replace(key), name):
		case slices.Contains(known, name):
			im.bad(v, "must be spelt %s: gRPC would ignore it", name)
			return
		default:
			im.bad(v, "must be spelt %s, and belongs %s: gRPC would ignore it", name, home)
			return
		}
	}
	meant := ""
	if name := nearest.To(key, slices.Values(known)); name != "" {
		meant = fmt.Sprintf(": did you mean %s?", name)
	}
	im.warn(v, "is not known, and ignored%s", meant)
}

// leave warns of the fields that are not taken over, if they are given.
func (im *importer) leave(f map[string]value, names ...string) {
	for _, name := range names {
		if f[name].given() {
			im.warn(f[name], "is gRPC's own, and not taken over")
		}
	}
}

// elements yields the elements of an array, none if v is absent.
func (im *importer) elements(v value) iter.Seq2[int, value] {
	return func(yield func(int, value) bool) {
		if !v.given() {
			return
		}
		if v.raw[0] != '[' {
			im.bad(v, "must be an array, got %s", v)
			return
		}
		n := 0
		for _, item := range v.items() {
			if !yield(n, item) {
				return
			}
			n++
		}
	}
}

// optional is decode for what may be absent.
func (im *importer) optional(v value, into any, kind string) bool {
	return !v.given() || im.decode(v, into, kind)
}

// decode puts v, which must be given, into what into points to.
func (im *importer) decode(v value, into any, kind string) bool {
	switch {
	case !v.given():
		im.bad(v, "is required (gRFC A6)")
		return false
	case json.Unmarshal([]byte(v.raw), into) != nil:
		im.bad(v, "must be %s, got %s", kind, v)
		return false
	}
	return true
}

// maxFaults bounds each of the lists that an import returns.
const maxFaults = 100

func (im *importer) bad(v value, format string, args ...any) { im.add(&im.errs, v, format, args...) }
func (im *importer) warn(v value, format string, args ...any) {
	im.add(&im.warnings, v, format, args...)
}

func (im *importer) add(list *Faults, v value, format string, args ...any) {
	switch n := len(*list); {
	case n > maxFaults:
	case n == maxFaults:
		*list = append(*list, Fault{Text: "and there is more"})
	default:
		line, column := position(im.document, v.at)
		*list = append(*list, Fault{Path: v.path, Text: fmt.Sprintf(format, args...), Line: line, Column: column})
	}
}

func (im *importer) attempts(v value) int {
	var n int
	switch {
	case !im.decode(v, &n, "a whole number"):
		return 0
	case n < 2:
		im.bad(v, "must be at least 2, got %d", n)
		return 0
	case n > grpcMaxAttempts:
		im.warn(v, "counts as %d, as in gRPC, got %d", grpcMaxAttempts, n)
		return grpcMaxAttempts
	}
	return n
}

// above returns a number above zero and not below least, or zero if it is none.
func (im *importer) above(v value, least float64) float64 {
	var n float64
	switch {
	case !im.decode(v, &n, "a number"):
		return 0
	case n <= 0:
		im.bad(v, "must be above 0, got %s", v)
		return 0
	case n < least:
		im.bad(v, "must be at least %v, since decimals after the third are ignored (gRFC A6), got %s", least, v)
		return 0
	}
	return n
}

func (im *importer) backoff(v value) time.Duration {
	d, ok := im.duration(v)
	if ok && d <= 0 {
		im.bad(v, "must be above 0, got %s", v)
		return 0
	}
	return d
}

func (im *importer) duration(v value) (d time.Duration, ok bool) {
	var s string
	if !im.decode(v, &s, `a duration such as "1.5s"`) {
		return 0, false
	}
	if d, ok = parseDuration(s); !ok {
		im.bad(v, `must be a duration such as "1.5s", got %s`, v)
	}
	return d, ok
}

// codes returns the codes that a list names, each once.
func (im *importer) codes(v value) []codes.Code {
	var list []codes.Code
	var seen [codes.Unauthenticated + 1]bool
	for _, e := range im.elements(v) {
		var c codes.Code
		switch err := c.UnmarshalJSON([]byte(e.raw)); {
		case err != nil || int(c) >= len(seen):
			im.bad(e, "must be the name or number of a status code, got %s", e)
		case c == codes.OK:
			im.warn(e, "is no failure, and has no effect")
		case !seen[c]:
			seen[c] = true
			list = append(list, c)
		}
	}
	return list
}

// parseDuration accepts what grpc-go does: seconds, with up to nine decimals, of which
// either the whole or the decimals may be absent. What time.Duration cannot hold is the
// longest that it can.
func parseDuration(s string) (d time.Duration, ok bool) {
	s, unit := strings.CutSuffix(s, "s")
	s, negative := strings.CutPrefix(s, "-")
	whole, decimals, _ := strings.Cut(s, ".")
	if !unit || whole+decimals == "" || len(decimals) > 9 {
		return 0, false
	}
	seconds, err := strconv.ParseInt(cmp.Or(whole, "0"), 10, 64)
	if err != nil || seconds > 315_576_000_000 { // as google.protobuf.Duration has it
		return 0, false
	}
	nanos, err := strconv.ParseInt(cmp.Or(decimals, "0"), 10, 64)
	if err != nil {
		return 0, false
	}
	for range 9 - len(decimals) {
		nanos *= 10
	}
	if negative {
		seconds, nanos = -seconds, -nanos
	}
	const most = math.MaxInt64 / int64(time.Second)
	switch {
	case seconds >= most:
		return math.MaxInt64, true
	case seconds <= -most:
		return math.MinInt64, true
	}
	return time.Duration(seconds)*time.Second + time.Duration(nanos), true
}
