package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// when returns a time to the second, in UTC; empty if there is none.
func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format("2006-01-02 15:04:05Z")
}

// ago returns how long ago a time was, as seen from now.
func ago(t *timestamppb.Timestamp, now time.Time) string {
	return lasting(max(0, now.Sub(t.AsTime()))) + " ago"
}

// lasting returns a duration as people write it: to the second, to the minute if it is an hour or
// more, and in days from two on.
func lasting(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%dd", d/day)
	case d >= time.Hour:
		return shortened(d.Round(time.Minute))
	default:
		return shortened(d.Round(time.Second))
	}
}

// shortened returns a duration without the zeros at its end: 10m and not 10m0s.
func shortened(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// grouped returns a number with commas between thousands.
func grouped(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// counted returns a number of things: 1 client, 1,203 clients.
func counted(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return grouped(n) + " " + what + "s"
}

// percent returns a share with as many digits as are of use: 5 %, 0.25 %.
func percent(share float64) string { return digits(100*share) + " %" }

// digits returns a number with about three digits: 1234, 12.3, 0.0123.
func digits(x float64) string {
	if math.Abs(x) >= 1e9 {
		return fmt.Sprintf("10^%.0f", math.Floor(math.Log10(math.Abs(x))))
	}
	if math.Abs(x) >= 100 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strconv.FormatFloat(x, 'g', 3, 64)
}

// clientsOf says whose clients get the policies of a service.
func clientsOf(service string) string {
	if service == "" {
		return "clients"
	}
	return fmt.Sprintf("clients of service %q", service)
}

// named says which revision it is: revision 7 (version "2").
func named(r *regov1.Revision) string {
	text := fmt.Sprintf("revision %d", r.GetRevision())
	if r.GetEpoch() != 0 {
		text += fmt.Sprintf(" of epoch %d", r.GetEpoch())
	}
	if r.GetVersion() != "" {
		text += fmt.Sprintf(" (version %q)", r.GetVersion())
	}
	return text
}

// putBy says who put a revision, when and why.
func putBy(r *regov1.Revision) string {
	text := "by " + harmless(r.GetAuthor())
	if r.GetAuthor() == "" {
		text = "by nobody knows whom"
	}
	if t := when(r.GetTime()); t != "" {
		text += " at " + t
	}
	if r.GetMessage() != "" {
		text += fmt.Sprintf(": %q", r.GetMessage())
	}
	return text
}

// clientWord returns the state of a client in lower case.
func clientWord(s regov1.ClientState) string {
	if s == regov1.ClientState_CLIENT_STATE_UNSPECIFIED {
		return "without policies"
	}
	return wordOf(s, "CLIENT_STATE_")
}
