package main

import (
	"cmp"
	"fmt"
	"math"
	"strings"
)

// note says below a span's name what rego knows of it.
func (t *trace) note(r *row) string {
	var words []string
	say := func(format string, value string) {
		if value != "" {
			words = append(words, fmt.Sprintf(format, value))
		}
	}
	if number := r.Tags.text("rego.attempt.number"); number != "" {
		words = append(words, "#"+number+" "+r.Tags.text("rego.attempt.kind"))
		say("%s", r.Tags.text("rego.attempt.result"))
		say("%s", r.Tags.text("rpc.response.status_code"))
		for _, other := range r.beside {
			say("beside #%s", t.rows[other].Tags.text("rego.attempt.number"))
		}
		if r.Tags.text("rego.attempt.resumed") == "true" {
			words = append(words, "resumed")
		}
		say("to %s", r.Tags.text("rego.backend"))
	}
	if reason := r.Tags.text("rego.end.reason"); reason != "" {
		words = append(words, reason)
		say("attempts: %s", r.Tags.text("rego.attempt.count"))
		say("policy %s", r.Tags.text("rego.policy.name"))
		say("version %s", r.Tags.text("rego.policy.version"))
	}
	if r.orphan {
		words = append(words, "its parent is not in the trace")
	}
	return strings.Join(words, ", ")
}

// words says what an event is.
func (e *event) words() string {
	name := cmp.Or(e.Fields.text("event"), "event")
	wait := ""
	if d := e.Fields.micros("rego.wait.duration"); d > 0 {
		wait = duration(d)
	}
	switch name {
	case "rego.wait":
		return strings.TrimSpace("wait " + wait + " " + e.Fields.text("rego.wait.reason"))
	case "rego.reconnect":
		return strings.TrimSpace("reconnect, at most " + wait)
	case "rego.denial":
		return "no " + e.Fields.text("rego.attempt.kind") + ": " + e.Fields.text("rego.denial.reason")
	case "rego.commit":
		return "commit: " + e.Fields.text("rego.commit.reason")
	case "rego.cancel":
		return "cancel"
	case "rego.hint":
		said := e.Fields.text("rego.hint.kind")
		if d := e.Fields.micros("rego.hint.delay"); d > 0 {
			said += " " + duration(d)
		}
		return said
	}
	return name
}

// duration writes microseconds with three digits or so.
func duration(micros float64) string {
	switch {
	case micros < 1e3:
		return fmt.Sprintf("%.3gµs", micros)
	case micros < 999.5e3:
		return fmt.Sprintf("%.3gms", micros/1e3)
	case micros < 1e10:
		return fmt.Sprintf("%.4gs", micros/1e6)
	}
	return fmt.Sprintf("%.3gs", micros/1e6)
}

// ticks returns the distance of the ticks of an axis of this length: 1, 2 or 5 times a power
// of ten, so that there are three to eight of them.
func ticks(total float64) float64 {
	step := math.Pow(10, math.Floor(math.Log10(total/3)))
	for _, times := range []float64{5, 2} {
		if total/(step*times) >= 3 {
			return step * times
		}
	}
	return step
}

// short makes a method's name fit: its package goes first, then its end.
func short(name string, runes int) string {
	if len([]rune(name)) <= runes {
		return name
	}
	prefix, rest := "", name
	if method, ok := strings.CutPrefix(name, "Attempt."); ok {
		prefix, rest = "Attempt ", method
	}
	if slash := strings.LastIndexByte(rest, '/'); slash > 0 {
		if dot := strings.LastIndexByte(rest[:slash], '.'); dot >= 0 {
			rest = "…" + rest[dot+1:]
		}
	}
	return cut(prefix+rest, runes)
}

// cut keeps the first runes of a text.
func cut(text string, runes int) string {
	if r := []rune(text); len(r) > runes {
		return string(r[:max(runes-1, 0)]) + "…"
	}
	return text
}
