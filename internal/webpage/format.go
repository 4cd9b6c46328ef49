package webpage

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"
)

// formats are what the pages write numbers with.
var formats = template.FuncMap{
	"number":    Number,
	"decimals":  Decimals,
	"percent":   Percent,
	"perSecond": func(n int64, seconds float64) string { return Decimals(PerSecond(n, seconds)) },
	"seconds":   func(s float64) string { return Duration(time.Duration(s * float64(time.Second))) },
	"ago":       Ago,
	"size":      Size,
	"clock":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"since":     func(now, t time.Time) string { return Ago(now.Sub(t).Seconds()) },
	"times":     TwoDecimals,
	"above":     func(a, b float64) bool { return a >= b },
}

// Number groups the digits by threes.
func Number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Decimals keeps three digits or so.
func Decimals(v float64) string {
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
	return Number(int64(math.Round(v)))
}

// TwoDecimals keeps two of them, also if they are zero.
func TwoDecimals(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }

// Percent writes a share, and never rounds one to nothing or to all.
func Percent(share float64) string {
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

// PerSecond returns a rate, zero over no time.
func PerSecond(n int64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(n) / seconds
}

// Duration keeps three digits or so.
func Duration(d time.Duration) string {
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

// Ago is a time of which the seconds do not matter after a while.
func Ago(seconds float64) string {
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

// Size writes a number of bytes.
func Size(n int64) string {
	switch {
	case n < 10<<10:
		return Number(n) + " B"
	case n < 10<<20:
		return Number(n>>10) + " KiB"
	}
	return Number(n>>20) + " MiB"
}

// Plural returns a number of things: 1 call, 2 calls.
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
