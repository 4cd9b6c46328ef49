package debugpage

import (
	"fmt"
	"html/template"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
)

// formats are what the pages write numbers with.
var formats = template.FuncMap{
	"number":    number,
	"decimals":  decimals,
	"percent":   percent,
	"perSecond": func(n int64, seconds float64) string { return decimals(perSecond(n, seconds)) },
	"seconds":   func(s float64) string { return duration(time.Duration(s * float64(time.Second))) },
	"ago":       ago,
	"size":      size,
	"clock":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"since":     func(now, t time.Time) string { return ago(now.Sub(t).Seconds()) },
	"times":     twoDecimals,
	"methodURL": methodURL,
	"above":     func(a, b float64) bool { return a >= b },
}

// methodURL is where the page of a method is, seen from any other.
func methodURL(target, method string) string {
	return "method?" + url.Values{"target": {target}, "method": {method}}.Encode()
}

// codeName returns the name of a code as gRPC's documents spell it.
func codeName(c codes.Code) string {
	if c >= interceptor.OtherCode {
		return "other code"
	}
	return classify.CodeName(c)
}

// number groups the digits by threes.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// decimals keeps three digits or so.
func decimals(v float64) string {
	a := math.Abs(v)
	switch {
	case a == 0:
		return "0"
	case a < 0.01:
		return "<0.01"
	case a < 10:
		return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(v, 'f', 2, 64), "0"), ".")
	case a >= 1e15:
		return strconv.FormatFloat(v, 'g', 3, 64)
	case a < 100:
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
	}
	return number(int64(math.Round(v)))
}

func twoDecimals(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }

func percent(share float64) string {
	p := 100 * share
	switch {
	case p > 0 && p < 0.1:
		return "<0.1 %"
	case p >= 99.95 && p < 100:
		return ">99.9 %"
	case p < 10 || p > 99 && p < 100:
		return strings.TrimSuffix(strconv.FormatFloat(p, 'f', 1, 64), ".0") + " %"
	}
	return strconv.FormatFloat(p, 'f', 0, 64) + " %"
}

func perSecond(n int64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(n) / seconds
}

// duration keeps three digits or so.
func duration(d time.Duration) string {
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= 10*unit {
			return d.Round(unit / 10).String()
		}
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}

// ago is a time of which the seconds do not matter after a while.
func ago(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	switch {
	case d < 100*time.Second:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 100*time.Minute:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func size(n int64) string {
	switch {
	case n < 10<<10:
		return number(n) + " B"
	case n < 10<<20:
		return number(n>>10) + " KiB"
	}
	return number(n>>20) + " MiB"
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
