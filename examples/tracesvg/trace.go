package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// maxSpans is how many spans are drawn. A larger trace is refused: nobody could read it.
const maxSpans = 1000

// The trace as /api/traces/{id} gives it. Times are microseconds.
type (
	answer struct {
		Data   []data `json:"data"`
		Errors []struct {
			Message string `json:"msg"`
		} `json:"errors"`
	}
	data struct {
		TraceID   string `json:"traceID"`
		Spans     []span `json:"spans"`
		Processes map[string]struct {
			Service string `json:"serviceName"`
		} `json:"processes"`
	}
	span struct {
		ID         string      `json:"spanID"`
		Name       string      `json:"operationName"`
		Start      float64     `json:"startTime"`
		Duration   float64     `json:"duration"`
		Process    string      `json:"processID"`
		Tags       tags        `json:"tags"`
		References []reference `json:"references"`
		Events     []event     `json:"logs"`
	}
	reference struct {
		Type string `json:"refType"`
		Span string `json:"spanID"`
	}
	event struct {
		Time   float64 `json:"timestamp"`
		Fields tags    `json:"fields"`
	}
	tags []struct {
		Key   string `json:"key"`
		Value any    `json:"value"`
	}
)

// trace is spans in the order in which they are drawn: each parent before its children, and
// those by time.
type trace struct {
	id         string
	start, end float64
	services   []string // in the order in which they appear
	rows       []row
}

// row is a span and its place in the tree.
type row struct {
	span
	service int // index
	depth   int
	orphan  bool  // its parent is not in the trace
	beside  []int // rows of the spans that it is linked to
}

func parse(b []byte) (*trace, error) {
	var a answer
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, fmt.Errorf("not an answer of Jaeger's /api/traces/ID: %w", err)
	}
	if len(a.Errors) > 0 {
		return nil, fmt.Errorf("jaeger: %s", a.Errors[0].Message)
	}
	if len(a.Data) != 1 {
		return nil, fmt.Errorf("want one trace, got %d", len(a.Data))
	}
	d := a.Data[0]
	if len(d.Spans) == 0 {
		return nil, errors.New("the trace has no spans")
	}
	if len(d.Spans) > maxSpans {
		return nil, fmt.Errorf("the trace has %d spans, at most %d are drawn", len(d.Spans), maxSpans)
	}
	return arrange(d), nil
}

// arrange makes a tree of the spans. Whatever their references say, each is in it once: a
// span without its parent is a root, and so is the first span of a cycle.
func arrange(d data) *trace {
	t := &trace{id: d.TraceID, start: math.Inf(1), end: math.Inf(-1)}
	spans := d.Spans
	for i := range spans {
		spans[i].Start = bounded(spans[i].Start)
		spans[i].Duration = max(bounded(spans[i].Duration), 0)
	}
	slices.SortStableFunc(spans, func(a, b span) int { return cmp.Compare(a.Start, b.Start) })
	known := make(map[string]bool)
	children := make(map[string][]int)
	for _, s := range spans {
		known[s.ID] = s.ID != ""
		t.start, t.end = min(t.start, s.Start), max(t.end, s.Start+s.Duration)
	}
	for i, s := range spans {
		if parent := s.parent(); known[parent] {
			children[parent] = append(children[parent], i)
		}
	}
	rowOf := make(map[string]int)
	added := make([]bool, len(spans))
	var add func(i, depth int)
	add = func(i, depth int) {
		if added[i] {
			return
		}
		added[i] = true
		s := spans[i]
		if _, twice := rowOf[s.ID]; twice {
			t.add(d, s, depth, false)
			return // its children are below the first of that ID
		}
		rowOf[s.ID] = len(t.rows)
		t.add(d, s, depth, s.parent() != "" && !known[s.parent()])
		for _, child := range children[s.ID] {
			add(child, depth+1)
		}
	}
	for i, s := range spans {
		if !known[s.parent()] {
			add(i, 0)
		}
	}
	for i := range spans {
		add(i, 0)
	}
	for i := range t.rows {
		for _, r := range t.rows[i].References {
			if at, ok := rowOf[r.Span]; ok && r.Type == "FOLLOWS_FROM" && at != i {
				t.rows[i].beside = append(t.rows[i].beside, at)
			}
		}
	}
	return t
}

func (t *trace) add(d data, s span, depth int, orphan bool) {
	name := cmp.Or(d.Processes[s.Process].Service, "unknown service")
	service := slices.Index(t.services, name)
	if service < 0 {
		service = len(t.services)
		t.services = append(t.services, name)
	}
	t.rows = append(t.rows, row{span: s, service: service, depth: depth, orphan: orphan})
}

func (s *span) parent() string {
	for _, r := range s.References {
		if r.Type == "CHILD_OF" {
			return r.Span
		}
	}
	return ""
}

// failed reports whether the span is an error: Jaeger says so in a tag of its own.
func (s *span) failed() bool { return s.Tags.text("error") == "true" }

func (s *span) lost() bool { return s.Tags.text("rego.attempt.result") == "lost" }

// bounded keeps a time to what can be added up: thirty thousand years.
func bounded(micros float64) float64 { return min(max(micros, -1e18), 1e18) }

// text returns a tag's value, or "".
func (t tags) text(key string) string {
	for _, tag := range t {
		if tag.Key == key {
			return strings.TrimSpace(fmt.Sprint(tag.Value))
		}
	}
	return ""
}

// micros returns a tag's value in seconds as microseconds, zero if there is none.
func (t tags) micros(key string) float64 {
	for _, tag := range t {
		if seconds, ok := tag.Value.(float64); ok && tag.Key == key {
			return max(bounded(seconds*1e6), 0)
		}
	}
	return 0
}
